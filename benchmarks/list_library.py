"""How long `vaekit vae list` takes with 500 models: python benchmarks/list_library.py

The files have published headers and holes where their weights would be, so they are as long as real ones and take no
space: 100 VAEs, 250 SD 1.5 and 150 SDXL checkpoints. In practice most of a library's headers are copies of a few;
here once all of a kind are alike but for their metadata, and once no two are. Each run is a process of its own.
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
from typing import Any

HEADERS = Path(__file__).parents[1] / "tests" / "data" / "headers"
BYTES = {"F32": 4, "F16": 2, "I32": 4, "I64": 8}
KINDS = {
    "VAE": ("vae-ft-mse-840000-ema-pruned", 100),
    "Stable-diffusion": ("v1-5-pruned-emaonly", 250),
    "Stable-diffusion/sdxl": ("sd_xl_base_1.0-thinned", 150),
}
RUNS = 5


def write(tensors: dict[str, Any], metadata: dict[str, str], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)


def make_library(folder: Path, *, alike: bool) -> int:
    """500 files in A1111's folders; not alike: each has a tensor more, of a name of its own. Gives their bytes."""
    for kind, (name, count) in KINDS.items():
        tensors = json.loads((HEADERS / f"{name}.json").read_text())["tensors"]
        for number in range(count):
            own = {} if alike else {f"note_{number}": ["F32", [1]]}
            write(
                tensors | own, {"title": f"{kind} {number}"}, folder / "models" / kind / f"model-{number}.safetensors"
            )
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def run(home: Path, *arguments: str) -> tuple[float, float]:
    """Seconds by the clock and of processor that a `vaekit` process takes, with an empty home."""
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}
    command = [sys.executable, "-c", "import sys; from vaekit.cli import run; run(sys.argv[1:])", "--quiet", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | own, cwd=home, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command failed with status {status}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def tell(name: str, runs: list[tuple[float, float]]) -> None:
    clock, processor = zip(*runs, strict=True)
    print(f"  {name:6} {statistics.median(clock):6.3f} s (worst {max(clock):.3f}), processor {min(processor):.3f} s")


def main() -> None:
    for alike in (True, False):
        with tempfile.TemporaryDirectory() as temporary:
            folder, home = Path(temporary) / "webui", Path(temporary) / "home"
            home.mkdir()
            size = make_library(folder, alike=alike)
            print(f"500 files, {size / 1e9:.0f} GB, headers {'alike but for metadata' if alike else 'all different'}")
            cold, warm = [], []
            for _ in range(RUNS):
                (home / "cache" / "vaekit" / "library.sqlite3").unlink(missing_ok=True)
                cold.append(run(home, "vae", "list", "--json", "--models", str(folder)))
                warm.append(run(home, "vae", "list", "--json", "--models", str(folder)))
            tell("cold", cold)
            tell("warm", warm)
    with tempfile.TemporaryDirectory() as home_of_nobody:
        print("no files, for comparison: vaekit vae --help")
        tell("help", [run(Path(home_of_nobody), "vae", "--help") for _ in range(RUNS)])


if __name__ == "__main__":
    main()
