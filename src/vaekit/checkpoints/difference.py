"""How the weights of two files differ, tensor by tensor."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vaekit.checkpoints.fingerprint import HALVES
from vaekit.checkpoints.locate import locate
from vaekit.checkpoints.read import read
from vaekit.checkpoints.sources import Source, open_source
from vaekit.checkpoints.tensors import dtype_name

Status = Literal["same", "rounded", "differs", "another shape", "only in A", "only in B"]

AT_ONCE = 1 << 22
"""Numbers that are compared at a time."""


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of A and B.

    status: "same" values; "rounded" where one is the other, rounded to its
    dtype. dtypes: of A and of B, None where it is missing. l2: norm of the
    difference; norm: of A; largest: of the absolute differences. These are
    None where nothing can be subtracted, and NaN where NaN was.
    """

    name: str
    status: Status
    dtypes: tuple[str | None, str | None]
    l2: float | None = None
    norm: float | None = None
    largest: float | None = None

    @property
    def relative(self) -> float | None:
        """l2 as a part of A's norm."""
        return None if self.l2 is None or self.norm is None else _part(self.l2, self.norm)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that it cannot hold are None."""
        numbers = ("l2", "norm", "largest", "relative")
        return asdict(self) | {"dtypes": list(self.dtypes)} | {key: _plain(getattr(self, key)) for key in numbers}


@dataclass(frozen=True)
class Difference:
    """Every tensor of A or B, sorted by name."""

    tensors: tuple[TensorDifference, ...]

    @property
    def identical(self) -> bool:
        """Whether every tensor is in both, with the same values."""
        return all(tensor.status == "same" for tensor in self.tensors)

    def half(self, half: str) -> Difference:
        """The tensors of the "encoder" or the "decoder" alone."""
        return Difference(tuple(tensor for tensor in self.tensors if tensor.name.startswith(HALVES[half])))

    @property
    def distance(self) -> float | None:
        """The norm of all differences as a part of A's norm: 0 the same, about 1.4 where nothing is related.

        None where a tensor is missing or of another shape.
        """
        measured = [(t.l2, t.norm) for t in self.tensors if t.l2 is not None and t.norm is not None]
        if not measured or len(measured) < len(self.tensors):
            return None
        return _part(*(math.hypot(*values) for values in zip(*measured, strict=True)))

    def __str__(self) -> str:
        """In words: "the same", or "of 140 tensors 98 differ; 3.1% away"."""
        if self.identical:
            return "the same"
        words = {"differs": "differ", "rounded": "rounded to another dtype", "another shape": "of another shape"}
        counts = Counter(tensor.status for tensor in self.tensors if tensor.status != "same")
        told = ", ".join(f"{count} {words.get(status, status)}" for status, count in counts.items())
        away = "" if self.distance is None else f"; {100 * self.distance:.3g}% away"
        return f"of {len(self.tensors)} tensors {told}{away}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; encoder and decoder: distances of the halves of VAEs."""
        return {
            "identical": self.identical,
            "distance": _plain(self.distance),
            **{half: _plain(self.half(half).distance) for half in HALVES},
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


def _part(difference: float, whole: float) -> float:
    if whole:
        return difference / whole
    return math.inf if difference else 0.0


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def diff(a: Path, b: Path) -> Difference:
    """Compare two VAEs, alone or in checkpoints, whatever their layouts; names are those of the ldm layout.

    Raises FileError, UnsafeFileError and NotAVAEError.
    """
    return compare(read(a).state, read(b).state)


def diff_files(a: Path, b: Path) -> Difference:
    """Compare all tensors of two files, by the names that they have there, one pair in memory at a time.

    Raises FileError and UnsafeFileError.
    """
    sources = [open_source(locate(path).weights) for path in (a, b)]
    return _compare(*(_lazily(source) for source in sources))


def compare(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Difference:
    """Compare tensors of the same names, on the CPU."""
    return _compare((a, a.__getitem__), (b, b.__getitem__))


Tensors = tuple[Iterable[str], Callable[[str], Tensor]]


def _lazily(source: Source) -> Tensors:
    return source.tensors, lambda name: source.load([name])[name]


def _compare(a: Tensors, b: Tensors) -> Difference:
    in_a, in_b = set(a[0]), set(b[0])
    found = []
    for name in sorted(in_a | in_b):
        if name not in in_b:
            found.append(TensorDifference(name, "only in A", (dtype_name(a[1](name).dtype), None)))
        elif name not in in_a:
            found.append(TensorDifference(name, "only in B", (None, dtype_name(b[1](name).dtype))))
        else:
            found.append(_compare_one(name, a[1](name), b[1](name)))
    return Difference(tuple(found))


def _compare_one(name: str, a: Tensor, b: Tensor) -> TensorDifference:
    dtypes = dtype_name(a.dtype), dtype_name(b.dtype)
    if a.shape != b.shape:
        return TensorDifference(name, "another shape", dtypes)
    same, rounded = True, a.dtype != b.dtype
    squares, whole, largest = 0.0, 0.0, 0.0
    for x, y in zip(_chunks(a), _chunks(b), strict=True):
        wide_x, wide_y = x.to(torch.float64), y.to(torch.float64)
        if torch.equal(wide_x, wide_y) or _same_bits(x, y):
            whole += wide_x.nan_to_num(0, 0, 0).square().sum().item()
            continue
        same = False
        rounded = rounded and (_rounds_to(x, wide_y, y.dtype) or _rounds_to(y, wide_x, x.dtype))
        away = wide_x - wide_y
        squares += away.square().sum().item()
        whole += wide_x.square().sum().item()
        largest = max(largest, away.abs().max().item())
    status: Status = "same" if same else "rounded" if rounded else "differs"
    return TensorDifference(name, status, dtypes, math.sqrt(squares), math.sqrt(whole), largest)


def _chunks(tensor: Tensor) -> Iterable[Tensor]:
    return torch.split(tensor.reshape(-1), AT_ONCE)


def _same_bits(x: Tensor, y: Tensor) -> bool:
    """NaN is not equal to NaN, and yet may be the same."""
    return x.dtype == y.dtype and torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def _rounds_to(x: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(x.to(dtype).to(torch.float64), expected)
