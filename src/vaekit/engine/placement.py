"""Which device and which dtypes: what the user asked for, or a sensible pick with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from vaekit.engine.fast import norms, openvino, processor, winograd
from vaekit.engine.strips.line import suits_winograd
from vaekit.errors import OptionError
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}

USUAL_DTYPE = "VAEKIT_DTYPE"
"""Of the environment: what every VAE runs in where nothing else is asked for."""

Dtype = str | torch.dtype
Engine = Literal["auto", "torch", "openvino", "reference"]
"""auto: settled with the network and the device; torch: optimised PyTorch, on a GPU with Triton and CUDA graphs;
openvino: its graph; reference: the plain network."""
Quality = Literal["full", "fast"]
"""full: nothing to be seen is lost; fast: int8 on a CPU, at least 40 dB against float32."""

NARROW = 32
"""Tiny networks of fewer channels run in float32 where no dtype is asked for."""


@dataclass(frozen=True)
class Placement:
    """Where and how the two directions run, and why."""

    device: torch.device
    encode_dtype: torch.dtype
    decode_dtype: torch.dtype
    why: str
    engine: Engine = "torch"
    asked: bool = True
    quality: Quality = "full"

    def suited_to(self, config: NetworkConfig) -> Placement:
        """The same for a network of this kind. Raises OptionError where the engine asked for cannot run it.

        A tiny encoder comes out below 50 dB in bfloat16 (taef2's latents: 49.6), and a narrow decoder too (mini-tiny's
        pictures: 49.3).
        """
        placement = self
        if self.engine == "auto":
            placement = replace(self, engine="openvino" if _openvino_is_faster(config, self) else "torch")
        elif self.engine == "openvino" and not _openvino_runs(config, self):
            raise OptionError(
                "OpenVINO runs networks with zeros as padding in float32 or bfloat16; engine torch runs it"
            )
        if self.quality == "fast" and isinstance(config, KLConfig) and config.attention_window is not None:
            raise OptionError("quality fast runs pictures in one piece, and an attention window needs strips")
        usual = self.asked or self.quality == "fast" or self.encode_dtype != torch.bfloat16
        if usual or not isinstance(config, TinyConfig):
            return placement
        if config.width < NARROW:
            why = f"bfloat16 would stay below 50 dB in a tiny network of width {config.width}"
            return replace(placement, encode_dtype=torch.float32, decode_dtype=torch.float32, why=why)
        return replace(placement, encode_dtype=torch.float32, why=f"{self.why}, but not of a tiny encoder")

    def __str__(self) -> str:
        encode, decode = (str(d).removeprefix("torch.") for d in (self.encode_dtype, self.decode_dtype))
        dtypes = encode if encode == decode else f"{encode} to encode and {decode} to decode"
        engine = {"openvino": " with OpenVINO", "reference": ", plain network"}.get(self.engine, "")
        if self.engine == "torch" and self.device.type == "cuda":
            engine = " with CUDA graphs and " + (
                "norms in Triton" if norms.installed() else "no Triton, which is missing"
            )
        return f"{self.device}, {dtypes}{engine} ({self.why})"


def place(
    device: str | torch.device = "auto",
    *,
    dtype: Dtype | None = None,
    encode_dtype: Dtype | None = None,
    decode_dtype: Dtype | None = None,
    engine: str = "auto",
    quality: str = "full",
) -> Placement:
    """Settle device, dtypes and engine; `dtype` stands for both directions, the other two for one each.

    engine: "auto" picks the fastest that is there; "reference" is the plain
    network, in float32 unless a dtype is asked for. quality: "fast" is int8 with
    OpenVINO; the dtypes are then of what is not in int8.

    Raises OptionError for names that mean nothing and devices that are not here.
    """
    where = _pick_device(device)
    chosen = _pick_engine(_engine_for(quality, engine), where)
    placement = _placed(where, chosen, dtype, encode_dtype, decode_dtype)
    return replace(placement, quality=quality)  # type: ignore[arg-type]


def _placed(
    where: torch.device, chosen: Engine, dtype: Dtype | None, encode_dtype: Dtype | None, decode_dtype: Dtype | None
) -> Placement:
    encode, decode, why = _default_dtypes(where, chosen)
    asked = bool(dtype or encode_dtype or decode_dtype)
    if not asked and (usual := os.environ.get(USUAL_DTYPE)):
        return Placement(where, parse_dtype(usual), parse_dtype(usual), f"as {USUAL_DTYPE} says", chosen)
    return Placement(
        where,
        parse_dtype(encode_dtype or dtype or encode),
        parse_dtype(decode_dtype or dtype or decode),
        "as asked" if asked else why,
        chosen,
        asked,
    )


def parse_dtype(dtype: Dtype) -> torch.dtype:
    """A dtype that networks run in, by torch's name or the short one."""
    found = DTYPES.get(str(dtype).removeprefix("torch.").lower())
    if found is None:
        raise OptionError(f"no dtype to run in is called {str(dtype)!r}; there are float32, bfloat16 and float16")
    return found


def _pick_device(device: str | torch.device) -> torch.device:
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(f"no device is called {str(device)!r}; there are auto, cpu, cuda and mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(chosen.type, False):
        raise OptionError(f"there is no device {device} on this machine that this build of torch can use")
    return chosen


def _engine_for(quality: str, engine: str) -> str:
    if quality not in get_args(Quality):
        raise OptionError(f"no quality is called {quality!r}; there are {' and '.join(get_args(Quality))}")
    if quality == "full":
        return engine
    if engine not in ("auto", "openvino"):
        raise OptionError(f"quality fast is int8 with OpenVINO; with engine {engine} it would do nothing")
    return "openvino"


def _pick_engine(engine: str, device: torch.device) -> Engine:
    """On Apple's GPUs nothing but the plain network was ever tried."""
    if engine not in get_args(Engine):
        raise OptionError(f"no engine is called {engine!r}; there are {', '.join(get_args(Engine))}")
    if engine == "auto" and device.type == "mps":
        return "reference"
    if engine == "openvino" and device.type != "cpu":
        raise OptionError(f"OpenVINO, which quality fast needs too, runs on the CPU here, not on {device}")
    if engine == "openvino" and not openvino.available():
        raise OptionError("OpenVINO is not installed: pip install 'vaekit[openvino]'")
    return engine  # type: ignore[return-value]


def _openvino_runs(config: NetworkConfig, placement: Placement) -> bool:
    zeros = not isinstance(config, KLConfig) or config.padding_mode == "zeros"
    return zeros and {placement.encode_dtype, placement.decode_dtype} <= openvino.HINTS.keys()


def _openvino_is_faster(config: NetworkConfig, placement: Placement) -> bool:
    """Tiny networks by a quarter, where Winograd's convolution does not take them, with which PyTorch is as fast or up
    to twice as fast; kl ones are as fast in PyTorch, and take less memory there."""
    here = placement.device.type == "cpu" and openvino.available()
    if isinstance(config, KLConfig) or not here or not _openvino_runs(config, placement):
        return False
    dtypes = (placement.encode_dtype, placement.decode_dtype)
    return not (suits_winograd(config.width) and all(winograd.available(placement.device, dtype) for dtype in dtypes))


def _default_dtypes(device: torch.device, engine: Engine) -> tuple[torch.dtype, torch.dtype, str]:
    """Half precision where the hardware computes in it and what comes out stays at least 50 dB against float32."""
    if engine != "reference" and device.type == "cpu" and computes_in_bfloat16():
        return torch.bfloat16, torch.bfloat16, "this processor computes in it; at least 50 dB against float32"
    if engine == "reference" or device.type != "cuda":
        return torch.float32, torch.float32, "full precision by default here"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, torch.bfloat16, "this GPU computes in it; at least 50 dB against float32"
    return torch.float16, torch.float16, "no bfloat16 on this GPU; repeated in float32 if float16 overflows"


def computes_in_bfloat16() -> bool:
    """Whether the processor has instructions for it (AVX-512 BF16 or AMX); emulated, it is slower than float32."""
    return processor.multiplies_pairs() or processor.multiplies_tiles()
