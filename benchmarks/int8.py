"""Int8 beside full quality and diffusers, full-size random weights, alternating: python benchmarks/int8.py

    python benchmarks/int8.py [--kind kl|tiny] [--direction decode|encode] [--side 512] [--rounds 3]

Every convolution that `quality="fast"` may take is in int8, with ranges from noise, and nothing is held to 40 dB: with
real weights some may stay in bfloat16. What those keep is in the line that vaekit prints for `--quality fast`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from vaekit.bench.measuring import EXACT, agreement
from vaekit.bench.peers import Runs, installed
from vaekit.bench.subject import Subject, subject
from vaekit.bench.timing import alternate
from vaekit.engine.fast import openvino
from vaekit.engine.half import Half

INT8 = "vaekit, int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="kl", choices=["kl", "tiny"])
    parser.add_argument("--direction", default="decode", choices=["decode", "encode"])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chosen = subject(None, options.kind, options.direction)
    peers = installed(chosen, torch.device("cpu"), quick=True)[0]
    makes: dict[str, Callable[[], Runs]] = {
        peer.name: partial(peer.make, chosen) for peer in peers if peer.name in ("vaekit", EXACT)
    }
    makes[INT8] = partial(in_int8, chosen)
    found, _ = alternate(makes, chosen.example(options.side, 1), options.rounds, lambda _: None)
    exact = found[EXACT]
    for name, one in found.items():
        faster, decibels = exact.times.median / one.times.median, agreement(one.output, exact.output)
        print(
            f"{options.kind} {options.direction} {options.side}: {name:18} {one.times.median:7.3f} s "
            f"({one.times.spread:.0%})  {faster:5.2f} times diffusers  {decibels:6.1f} dB"
        )


def in_int8(chosen: Subject) -> Runs:
    device = torch.device("cpu")
    half = Half(chosen.direction, chosen.config, chosen.state, dtype=torch.bfloat16, device=device, engine="openvino")
    ranges = openvino.observed(half.line, half.bare(), half.weights, [chosen.example(256, 1)])[1]
    run = openvino.compiled(half.line, half.bare(), half.weights, half.dtype, ranges)
    latents = chosen.config.latent_channels
    return run if chosen.direction == "decode" else lambda x: run(x)[:, :latents]


if __name__ == "__main__":
    main()
