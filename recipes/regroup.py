"""Give a trained KL VAE norms of another number of groups, calibrated on pictures (see vaekit.train.regroup).

python recipes/regroup.py VAE OUT --groups 8 --data PICTURES
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import vaekit
from vaekit.train.data import Crops
from vaekit.train.export import write_folder
from vaekit.train.regroup import regroup
from vaekit.train.vae import read_kl

COUNT, SIDE, ZOOM = 16, 256, (1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vae")
    parser.add_argument("out", type=Path)
    parser.add_argument("--groups", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    model = read_kl(given.vae)
    crops = Crops([(given.data, 1.0)]).batch(COUNT, SIDE, ZOOM, np.random.default_rng(0))
    regroup(model, given.groups, crops)
    model.config = replace(model.config, norm_groups=given.groups)
    write_folder(model, vaekit.load(given.vae).family, given.out)


if __name__ == "__main__":
    main()
