"""Time and memory of `vaekit bake` and `extract` on a whole SD 1.5 checkpoint: python benchmarks/bake_checkpoint.py

The checkpoint (2.1 GB, float16, real names and shapes) and the VAE to put in (335 MB, float32) are generated. Beside
them runs what scripts usually do: load_file, replace the VAE, save_file. Each run is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAKE = """
import json, math, sys
from pathlib import Path
import numpy as np
header_file, folder = Path(sys.argv[1]), Path(sys.argv[2])
published = json.loads(header_file.read_text())["tensors"]
noise = np.random.default_rng(0)
bits = noise.bytes(1 << 26)

def write(path, names, kinds, prefix=""):
    header, end = {}, 0
    for name in names:
        dtype, width = kinds[published[name][0]]
        start, end = end, end + math.prod(published[name][1]) * width
        header[name.removeprefix(prefix)] = {
            "dtype": dtype, "shape": published[name][1], "data_offsets": [start, end]
        }
    encoded = json.dumps(header | {"__metadata__": {"format": "pt", "modelspec.title": "generated"}}).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            dtype, width = kinds[published[name][0]]
            count = math.prod(published[name][1])
            if name.startswith("first_stage_model."):
                values = noise.standard_normal(count, np.float32) * 0.02
                file.write(values.astype(np.float16 if width == 2 else np.float32).tobytes())
                continue
            for start in range(0, count * width, len(bits)):
                file.write(bits[: count * width - start])

vae = [name for name in published if name.startswith("first_stage_model.")]
write(folder / "model.safetensors", sorted(published), {"F32": ("F16", 2), "I32": ("I32", 4), "I64": ("I64", 8)})
write(folder / "vae.safetensors", vae, {"F32": ("F32", 4)}, "first_stage_model.")
"""

PICKLE = """
import sys, torch
from safetensors.torch import load_file
torch.save({"state_dict": load_file(sys.argv[1])}, sys.argv[2])
"""

VAEKIT = "import sys; from vaekit.cli import run; run(['--quiet', *sys.argv[1:]])"

USUAL = """
import sys
from safetensors.torch import load_file, save_file
model, vae, out = sys.argv[1:]
state = load_file(model)
state |= {"first_stage_model." + name: tensor for name, tensor in load_file(vae).items()}
save_file(state, out, {"format": "pt"})
"""

CHECK = """
import sys
from safetensors import safe_open
a, b = (safe_open(path, "np") for path in sys.argv[1:])
assert a.metadata() == b.metadata() and set(a.keys()) == set(b.keys())
others = [name for name in a.keys() if not name.startswith("first_stage_model.")]
assert all(a.get_tensor(name).tobytes() == b.get_tensor(name).tobytes() for name in others)
print(f"{len(others)} other tensors and the metadata are the same, bit for bit")
"""

HEADER = Path(__file__).parents[1] / "tests" / "data" / "headers" / "v1-5-pruned-emaonly.json"


def run(code: str, *arguments: object) -> tuple[float, float]:
    """Seconds, and the largest resident memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a process failed with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        model, pickled, vae = folder / "model.safetensors", folder / "model.ckpt", folder / "vae.safetensors"
        out, alone = folder / "out.safetensors", folder / "alone.safetensors"
        run(MAKE, HEADER, folder)
        run(PICKLE, model, pickled)
        runs = {
            "import torch": ("import torch",),
            "load_file, save_file": (USUAL, model, vae, out),
            "vaekit bake, .ckpt": (VAEKIT, "bake", pickled, "--vae", vae, "-o", out, "--force"),
            "vaekit bake, float16": (VAEKIT, "bake", model, "--vae", vae, "-o", out, "--dtype", "float16", "--force"),
            "vaekit bake": (VAEKIT, "bake", model, "--vae", vae, "-o", out, "--force"),
            "vaekit extract": (VAEKIT, "extract", model, "-o", alone),
        }
        results = {what: run(*command) for what, command in runs.items()}
        run(CHECK, model, out)
        print(f"checkpoint {model.stat().st_size / 1e9:.2f} GB, VAE {vae.stat().st_size / 1e6:.0f} MB")
        for what, (seconds, megabytes) in results.items():
            print(f"{what:24} {seconds:7.1f} s  {megabytes:6.0f} MB")


if __name__ == "__main__":
    main()
