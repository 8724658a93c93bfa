"""Which device and which dtypes: what the user asked for, or a sensible pick with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vaekit.errors import OptionError

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}

Dtype = str | torch.dtype


@dataclass(frozen=True)
class Placement:
    """Where and how the two directions run, and why."""

    device: torch.device
    encode_dtype: torch.dtype
    decode_dtype: torch.dtype
    why: str

    def __str__(self) -> str:
        encode, decode = (str(d).removeprefix("torch.") for d in (self.encode_dtype, self.decode_dtype))
        dtypes = encode if encode == decode else f"{encode} to encode and {decode} to decode"
        return f"{self.device}, {dtypes} ({self.why})"


def place(
    device: str | torch.device = "auto",
    *,
    dtype: Dtype | None = None,
    encode_dtype: Dtype | None = None,
    decode_dtype: Dtype | None = None,
) -> Placement:
    """Settle device and dtypes; `dtype` stands for both directions, the other two for one each.

    Raises OptionError for names that mean nothing and devices that are not here.
    """
    where = _pick_device(device)
    encode, decode, why = _default_dtypes(where)
    if dtype or encode_dtype or decode_dtype:
        why = "as asked"
    return Placement(
        where,
        parse_dtype(encode_dtype or dtype or encode),
        parse_dtype(decode_dtype or dtype or decode),
        why,
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


def _default_dtypes(device: torch.device) -> tuple[torch.dtype, torch.dtype, str]:
    """Encoding loses more in half precision than decoding does, so it stays in float32."""
    if device.type != "cuda":
        return torch.float32, torch.float32, "full precision by default here"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32, torch.bfloat16, "decoding loses nothing visible in bfloat16, encoding would"
    return torch.float32, torch.float16, "no bfloat16 on this GPU; repeated in float32 if float16 overflows"
