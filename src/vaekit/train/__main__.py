"""Train a VAE by a recipe and write it as a folder that vaekit and diffusers load.

    python -m vaekit.train recipes/mini.toml --data PICTURES --run RUN --out FOLDER

Stop it when you like; the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from vaekit.errors import VaekitError
from vaekit.train.data import Crops
from vaekit.train.export import latent_statistics, write_folder
from vaekit.train.vae import Settings, train

MEASURED_CROPS = 64
MEASURED_SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vaekit.train", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="settings in TOML")
    parser.add_argument("--data", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--run", type=Path, required=True, help="a folder for the state and the log")
    parser.add_argument("--out", type=Path, required=True, help="where the trained VAE goes")
    given = parser.parse_args()
    settings = Settings.read(given.recipe)
    model = train(settings, given.data, given.run).average.half().float()
    rng = np.random.default_rng(settings.seed)
    pictures = Crops(given.data)
    crops = [pictures.batch(8, MEASURED_SIDE, (1.0, 1.0), rng) for _ in range(MEASURED_CROPS // 8)]
    scaling, factors, bias = latent_statistics(model, crops)
    write_folder(model, scaling, given.out)
    print(f"scaling_factor = {scaling}")
    print(f"preview = {[[round(v, 4) for v in row] for row in factors.tolist()]}")
    print(f"preview_bias = {[round(v, 4) for v in bias.tolist()]}")


if __name__ == "__main__":
    try:
        main()
    except VaekitError as error:
        print(f"vaekit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
