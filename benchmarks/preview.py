"""What a preview costs beside the drawing: python benchmarks/preview.py [CHECKPOINT] [STEPS]

Draws with and without it, by turns, in one process; prints the share of the time that previews took,
and whether the latents are the same to the last bit.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

import vaekit
from vaekit.generate import Painter, Settings
from vaekit.generate.preview import Preview, to_file

TURNS = 3


def main() -> int:
    checkpoint = sys.argv[1] if len(sys.argv) > 1 else None
    settings = Settings("a red apple", seed=1, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 20)
    painter = Painter.open(checkpoint, dtype="float32")
    tiny = vaekit.load("mini-tiny") if painter.vae.family.name == "mini" else None
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for name, coder in {"linear factors": None, **({"tiny VAE": tiny} if tiny else {})}.items():
            plain, watched, spent, shown = 0.0, 0.0, 0.0, 0
            for _ in range(TURNS):
                started = time.perf_counter()
                a = next(iter(painter.txt2img(settings)))
                middle = time.perf_counter()
                preview = Preview(to_file(Path(folder) / "preview.png"), painter.vae.family, tiny=coder)
                b = next(iter(painter.txt2img(settings, watch=[preview])))
                plain, watched = plain + middle - started, watched + time.perf_counter() - middle
                spent, shown = spent + preview.spent, shown + preview.shown
                same &= torch.equal(a.latents.tensor, b.latents.tensor)
            print(
                f"{name:<15} {plain / TURNS:.2f} s without, {watched / TURNS:.2f} s with; {shown / TURNS:.1f} of "
                f"{settings.steps} steps shown, {spent / watched:.1%} of the time"
            )
    print(f"latents the same to the last bit: {'yes' if same else 'no'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
