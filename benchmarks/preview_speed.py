"""How many times faster a preview's decoder is: python benchmarks/preview_speed.py [--tiny mini-tiny] [--full mini]

Decodes by turns, as plain networks in float32 where nothing else is asked for. The ratio is that of the medians;
beside it, the least and the greatest of a round.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

import vaekit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", default="mini-tiny")
    parser.add_argument("--full", default="mini")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--engine", default="reference")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    names = (options.full, options.tiny)
    vaes = {name: vaekit.load(name, dtype=options.dtype, engine=options.engine) for name in names}
    cells = options.side // vaes[options.full].family.downscale
    z = torch.randn(1, vaes[options.full].family.latent_channels, cells, cells)
    for vae in vaes.values():
        vae.decode(z, output="tensor")
    rounds = [{name: seconds(vae, z) for name, vae in vaes.items()} for _ in range(options.rounds)]
    middle = {name: median(one[name] for one in rounds) for name in names}
    ratios = [one[options.full] / one[options.tiny] for one in rounds]
    told = ", ".join(f"{name} {value:.3f} s" for name, value in middle.items())
    print(
        f"decode {options.side}×{options.side}, {options.engine}, {options.dtype}, "
        f"{torch.get_num_threads()} threads: {told}; "
        f"{middle[options.full] / middle[options.tiny]:.1f} times faster "
        f"({min(ratios):.1f} to {max(ratios):.1f} in {options.rounds} rounds)"
    )


def seconds(vae: vaekit.VAE, z: torch.Tensor) -> float:
    started = time.perf_counter()
    vae.decode(z, output="tensor")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
