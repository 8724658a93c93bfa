"""Seconds as bars, the shortest of each size being the best, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol

WIDTH, NAMES, ROW = 940, 400, 26


class Timed(Protocol):
    @property
    def direction(self) -> str: ...
    @property
    def side(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def median(self) -> float: ...


def plot(rows: Sequence[Timed]) -> str:
    """A bar for each row; those of one size are to one scale."""
    height = ROW * len(rows) + 20
    longest: dict[tuple[str, int, int], float] = {}
    for row in rows:
        longest[_size(row)] = max(row.median, longest.get(_size(row), 0.0))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, row in enumerate(rows):
        top, long = 10 + ROW * number, row.median * (WIDTH - NAMES - 80) / longest[_size(row)]
        colour = "#6b3fc9" if row.name.startswith("vaekit") else "#9a9a9a"
        label = f"{row.direction} {row.batch} of {row.side}×{row.side}: {row.name}"
        parts.append(_text(NAMES - 8, top + 16, label, "end"))
        parts.append(f'<rect x="{NAMES}" y="{top + 3}" width="{long:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        seconds = f"{row.median:.2f} s" if row.median >= 1 else f"{1000 * row.median:.1f} ms"
        parts.append(_text(NAMES + long + 6, top + 16, seconds, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _size(row: Timed) -> tuple[str, int, int]:
    return row.direction, row.side, row.batch


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="13" text-anchor="{anchor}">{escape(text)}</text>'
