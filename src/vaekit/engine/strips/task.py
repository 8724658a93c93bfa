"""What is to be planned: a line of steps at one size, and what each of its steps takes. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from vaekit.engine.strips.line import Line, points_numbers

MIB = 2**20
CHUNK = 2 * MIB
"""A stored result lies in chunks of rows of about this many bytes, which are let go one by one as they are read."""
CHUNKS = 256
"""How many chunks a stored result has at most."""
COMFORTABLE = 12 * MIB
"""Strips grow until one row of arrays reaches this; higher ones are no faster."""
KEYS_AT_ONCE = 1024
"""Cells whose keys and values an attention looks at together."""
AT_POINTS = 4
"""Bytes of a number in Winograd's convolution, whatever it is a convolution of."""
OVERHEAD = 14 * MIB
"""What a run takes beside its arrays: generated kernels, the libraries' own buffers, the heap's holes."""
COMFORTABLE_ON_GPU, OVERHEAD_ON_GPU = 128 * MIB, 128 * MIB
"""The same two on a GPU: strips that keep a large one busy; cuBLAS's and cuDNN's workspaces. Not measured yet."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; only their ratios decide a plan. Defaults: two cores of a server, in float32.

    operations: in convolutions. at_points: the same in Winograd's, changes of
    basis and all. attended: the same of cells that look at each other. moved: bytes
    read or written by everything else. spilled: bytes written to or read from a
    temporary file. call: seconds that one step of one strip costs at least. weights:
    bytes of weights made ready, for each strip again.
    """

    operations: float = 140e9
    at_points: float = 100e9
    attended: float = 120e9
    moved: float = 8e9
    spilled: float = 1.5e9
    call: float = 2e-4
    weights: float = 8e9

    @classmethod
    def usual(cls, item: int, *, gpu: bool = False) -> Rates:
        """Those of a number of so many bytes; what computes in two also does so faster. gpu: of a data centre."""
        if gpu:
            operations = 300e12 if item <= 2 else 30e12
            return cls(operations, attended=operations / 2, moved=2e12, call=5e-5, weights=2e12)
        return cls() if item > 2 else cls(operations=350e9, at_points=150e9, attended=200e9)


@dataclass(frozen=True)
class Task:
    """What is to be planned.

    height, width: of the line's input, in cells or pixels. item: bytes of a
    number in the dtype the network runs in. held: bytes that lie in memory the
    whole time, the input among them. result: bytes of the finished result, which
    lies in memory during the last pass (0 where it is written away in strips).
    disk: bytes that may be spilled at a time. rows: force this strip height.
    in_place: a convolution adds to an array that is there, without one of its own.
    plain: one piece is run by the plain network, not by fast.whole. gpu: it is
    run by fast.gpu, and the bytes are those of the GPU's memory. winograd: there is
    fast.winograd, for the convolutions where it pays. attends: there is
    fast.attention. threads: how many share them. loading: bytes that they take to be loaded.
    """

    line: Line
    height: int
    width: int
    item: int = 4
    held: int = 0
    result: int = 0
    disk: float = math.inf
    rates: Rates = field(default_factory=Rates)
    rows: int | None = None
    in_place: bool = True
    plain: bool = False
    gpu: bool = False
    winograd: bool = False
    attends: bool = False
    threads: int = 1
    loading: int = 0

    @property
    def overhead(self) -> int:
        """Bytes beside the arrays."""
        loaded = self.loading if self.line.winograd_pays(self.height, self.width) else 0
        return (OVERHEAD_ON_GPU if self.gpu else OVERHEAD) + loaded

    @property
    def comfortable(self) -> int:
        """Bytes that one row of arrays may grow to."""
        return COMFORTABLE_ON_GPU if self.gpu else COMFORTABLE

    @cached_property
    def _row_bytes(self) -> list[int]:
        return [self.line.side(i, self.width) * step.channels * self.item for i, step in enumerate(self.line.steps)]

    @cached_property
    def _bytes_of(self) -> list[int]:
        return [count * self.line.side(i, self.height) for i, count in enumerate(self._row_bytes)]

    @cached_property
    def _at_points(self) -> list[bool]:
        return [self.winograd and self.line.at_points(i, self.height, self.width) for i in range(len(self.line))]

    def row_bytes(self, step: int) -> int:
        """Bytes of one row of a step's result."""
        return self._row_bytes[step]

    def bytes_of(self, step: int) -> int:
        """Bytes of a step's whole result."""
        return self._bytes_of[step]

    def chunk_rows(self, step: int) -> int:
        """Rows in a chunk of a stored result."""
        return max(1, -(-max(CHUNK, self.bytes_of(step) // CHUNKS) // self.row_bytes(step)))

    def at_points(self, step: int) -> bool:
        """Whether a step is run by Winograd's convolution."""
        return self._at_points[step]

    def _cells(self, step: int) -> int:
        return self.line.side(step, self.height) * self.line.side(step, self.width)

    def operations(self, step: int, rows: int | None = None) -> float:
        """Multiplications and additions. rows: of a strip, beyond which the last row of Winograd's tiles hangs over."""
        return sum(self._operations(step, rows))

    def seconds(self, step: int, rows: int | None = None) -> float:
        """What they take."""
        count, beside = self._operations(step, rows)
        attention = self.line.of_attention(step, self.height, self.width)
        rate = self.rates.at_points if self.at_points(step) else self.rates.operations
        return (count - attention) / rate + attention / self.rates.attended + beside / self.rates.operations

    def _operations(self, step: int, rows: int | None) -> tuple[float, float]:
        """Those of a step, and beside them those of its shortcut."""
        at_points, beside = self.at_points(step), self.line.of_shortcut(step, self.height, self.width)
        count = self.line.operations(step, self.height, self.width, at_points=at_points) - beside
        return count * (-(-rows // 4) * 4 / rows) if at_points and rows else count, beside

    def points_bytes(self, step: int, rows: int) -> int:
        """Bytes of what Winograd's convolution of so many rows works in."""
        if rows == 0 or not self.at_points(step):
            return 0
        tiles = -(-rows // 4) * -(-self.line.side(step, self.width) // 4)
        widths = self.line.width_of_source(step), self.line.steps[step].channels
        return points_numbers(*widths, tiles, self.threads) * AT_POINTS

    def weight_bytes(self, step: int) -> int:
        """Bytes of the weights a step works with, as they are made ready for it."""
        this = self.line.steps[step]
        if self.at_points(step):
            return 36 * this.channels * self.line.width_of_source(step) * AT_POINTS
        taps = {"conv": 9, "down": 9, "up": 4 * 4, "point": 1, "keys": 2, "attend": 2, "input": 0}[this.kind]
        out = this.channels // 2 if this.kind == "keys" else this.channels
        return taps * out * self.line.width_of_source(step) * self.item
