"""Triton's compiler takes the kernels for NVIDIA's GPUs, which it does without one, and reads memory in wide pieces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaekit.engine.fast.norms import installed

PROGRAM = """
import json, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vaekit.engine.fast import kernels

def ptx(kernel, given, constants):
    place = kernel.arg_names.index
    aligned = {(place(name),): [["tt.divisibility", 16]] for name, kind in given.items() if kind[0] == "*"}
    aligned |= {(place(name),): [["tt.divisibility", 16]] for name in ("channels", "part") if name in given}
    signature = given | dict.fromkeys(constants, "constexpr")
    known = {(place(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=known, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS).asm["ptx"]

half, sums = "*bf16", {"means": "*fp32", "squares": "*fp32"}
tile = {"CELLS": 32, "CHANNELS": 128}
texts = {
    "gather": ptx(
        kernels._gather,
        {"x": half, "other": half, "bias": half, **sums, "cells": "i32", "channels": "i32", "part": "i32"},
        {"ADDS": True, "BIASED": True, **tile},
    ),
    "settle one cell": ptx(
        kernels._settle,
        {**sums, "bias": half, "weight": half, "offset": half, "out": "*fp32", "numbers": "fp32", "channels": "i32",
         "part": "i32", "epsilon": "fp32"},
        {"cells": 1, "parts": 1, "BIASED": True, "WIDTH": 4, "AT_ONCE": 256, "LANES": 4},
    ),
    "apply": ptx(
        kernels._apply,
        {"x": half, "out": half, **dict.fromkeys(("mean", "scale", "shift"), "*fp32"), "cells": "i32",
         "channels": "i32"},
        {"ACTIVATION": "silu", **tile},
    ),
}
json.dump({name: [text.count("ld.global.v4"), ".local" in text] for name, text in texts.items()}, sys.stdout)
"""


@pytest.mark.skipif(not installed(), reason="Triton is not installed")
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    compiled = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    compiled["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=compiled, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert all(wide >= 4 and not spilled for wide, spilled in found.values()), found
