"""Seconds as bars, the shortest being the best, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol

WIDTH, NAMES, ROW = 860, 320, 26


class Timed(Protocol):
    @property
    def direction(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def median(self) -> float: ...


def plot(rows: Sequence[Timed]) -> str:
    """A bar for each row."""
    height = ROW * len(rows) + 20
    scale = (WIDTH - NAMES - 80) / max((row.median for row in rows), default=1.0)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, row in enumerate(rows):
        top, long = 10 + ROW * number, row.median * scale
        colour = "#6b3fc9" if row.name.startswith("vaekit") else "#9a9a9a"
        parts.append(_text(NAMES - 8, top + 16, f"{row.direction}: {row.name}", "end"))
        parts.append(f'<rect x="{NAMES}" y="{top + 3}" width="{long:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        parts.append(_text(NAMES + long + 6, top + 16, f"{row.median:.2f} s", "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="13" text-anchor="{anchor}">{escape(text)}</text>'
