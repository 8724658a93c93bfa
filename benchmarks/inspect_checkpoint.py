"""How long `vaekit inspect` takes on a 4 GB checkpoint, and how much memory: python benchmarks/inspect_checkpoint.py

The checkpoint is SD 1.5's published header with a hole where its weights would be. Each run is a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADER = Path(__file__).parents[1] / "tests" / "data" / "headers" / "v1-5-pruned-emaonly.json"
BYTES = {"F32": 4, "I32": 4, "I64": 8}
RUNS = 7


def make_checkpoint(folder: Path) -> Path:
    tensors = json.loads(HEADER.read_text())["tensors"]
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    path = folder / "v1-5-pruned-emaonly.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    return path


def run(*command: str) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command failed with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = make_checkpoint(Path(folder))
        commands = {
            "python -c pass": ("pass",),
            "import typer, rich": ("import typer, rich",),
            "vaekit --help": ("from vaekit.cli import run; run(['--help'])",),
            f"vaekit inspect ({path.stat().st_size / 1e9:.2f} GB)": (
                "import sys; from vaekit.cli import run; run(['inspect', sys.argv[1]])",
                str(path),
            ),
        }
        for name, command in commands.items():
            seconds, megabytes = zip(*(run(*command) for _ in range(RUNS)), strict=True)
            print(f"{name:32} {statistics.median(seconds):6.3f} s (worst {max(seconds):.3f})  {max(megabytes):5.0f} MB")


if __name__ == "__main__":
    main()
