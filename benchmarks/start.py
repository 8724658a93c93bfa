"""How long a VAE of full size takes to start, each time in a process of its own.

    python benchmarks/start.py              # random weights, diffusers' folder and one file of the original names
    python benchmarks/start.py --repeat 5 --side 512

Seconds of the imports, of `vaekit.load` and of the first and the second run of each direction,
each direction in its own process; the file lies in the system's cache. Medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.side)
        return
    with tempfile.TemporaryDirectory() as name:
        for layout, path in sources(Path(name)).items():
            for direction in ("decode", "encode"):
                runs = [measured(path, direction, options.side) for _ in range(options.repeat)]
                middle = {key: median(run[key] for run in runs) for key in runs[0]}
                ratio = median(run["first"] / run["second"] for run in runs)
                told = ", ".join(f"{key} {seconds:.2f} s" for key, seconds in middle.items())
                print(f"{layout}, {direction} {options.side}×{options.side}: {told}; first of second {ratio:.2f}")


def sources(folder: Path) -> dict[str, Path]:
    from memory import random_vae
    from safetensors.torch import save_file

    from vaekit.checkpoints.arrange import arrange
    from vaekit.checkpoints.read import read

    (folder / "vae").mkdir()
    weights = read(random_vae(folder / "vae"))
    save_file(dict(arrange(weights.state, weights.identity.config, "ldm")), folder / "vae.safetensors")
    return {"diffusers' folder": folder / "vae", "one file": folder / "vae.safetensors"}


def measured(path: Path, direction: str, side: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", str(side), "--child", str(path), direction]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def child(path: str, direction: str, side: int) -> None:
    clock = [time.perf_counter()]
    import torch

    import vaekit.loading

    clock.append(time.perf_counter())
    vae = vaekit.load(path, family="sd1")
    clock.append(time.perf_counter())
    for _ in range(2):
        if direction == "decode":
            vae.decode(torch.randn(1, 4, side // 8, side // 8))
        else:
            vae.encode(torch.rand(1, 3, side, side))
        clock.append(time.perf_counter())
    names = ("imports", "load", "first", "second")
    print(json.dumps({name: clock[i + 1] - clock[i] for i, name in enumerate(names)}))


if __name__ == "__main__":
    main()
