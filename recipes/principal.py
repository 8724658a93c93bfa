"""A VAE of more channels to train on from: the best linear code, and a trained decoder (see vaekit.train.principal).

python recipes/principal.py VAE OUT --channels 16 --data PICTURES
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vaekit.train.data import Crops
from vaekit.train.export import measure_family, write_folder
from vaekit.train.principal import principal
from vaekit.train.vae import read_kl

COUNT, SIDE, ZOOM = 48, 192, (1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vae")
    parser.add_argument("out", type=Path)
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=16)
    given = parser.parse_args()
    start = read_kl(given.vae)
    torch.manual_seed(given.seed)
    crops = Crops([(given.data, 1.0)]).batch(COUNT, SIDE, ZOOM, np.random.default_rng(given.seed))
    model = principal(start, given.channels, crops).half().float()
    write_folder(model, measure_family(model, [crops], given.out.name), given.out)
    print(f"{given.out}: written")


if __name__ == "__main__":
    main()
