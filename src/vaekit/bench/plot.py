"""Seconds as bars, the shortest of each size being the best, and growth as curves below them, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import nan
from typing import Protocol

from vaekit.study import charts

WIDTH, NAMES, ROW = 940, 400, 26
CHART, APART = (WIDTH // 2, WIDTH // 2 * charts.HEIGHT // charts.WIDTH), 20
"""Width and height of a chart, two of which stand side by side, and the space above it."""
STYLE = ".chart text { font-size: 15px } .chart .grid { stroke: #ddd }"


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


class Grown(Protocol):
    @property
    def direction(self) -> str: ...
    @property
    def side(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def per_megapixel(self) -> float: ...
    @property
    def peak_bytes_per_megapixel(self) -> float | None: ...


def plot(rows: Sequence[Timed], growth: Sequence[Grown] = ()) -> str:
    """A bar for each row, those of one size to one scale; and growth with the side and with the batch."""
    bars = ROW * len(rows) + 20
    drawn = _growth(growth)
    height = bars + (APART + CHART[1]) * -(-len(drawn) // 2)
    longest: dict[tuple[str, int, int], float] = {}
    for row in rows:
        longest[_size(row)] = max(row.median, longest.get(_size(row), 0.0))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">']
    parts.append(f"<style>{STYLE}</style>")
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for number, row in enumerate(rows):
        top, long = 10 + ROW * number, row.median * (WIDTH - NAMES - 80) / longest[_size(row)]
        colour = "#6b3fc9" if row.name.startswith("vaekit") else "#9a9a9a"
        label = f"{row.direction} {row.batch} of {row.side}×{row.side}: {row.name}"
        parts.append(_text(NAMES - 8, top + 16, label, "end"))
        parts.append(f'<rect x="{NAMES}" y="{top + 3}" width="{long:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        seconds = f"{row.median:.2f} s" if row.median >= 1 else f"{1000 * row.median:.1f} ms"
        parts.append(_text(NAMES + long + 6, top + 16, seconds, "start"))
    for number, chart in enumerate(drawn):
        left, top = CHART[0] * (number % 2), bars + APART + (APART + CHART[1]) * (number // 2)
        where = f'x="{left}" y="{top}" width="{CHART[0]}" height="{CHART[1]}"'
        parts.append(f'<svg {where} class="chart">{chart}</svg>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _growth(growth: Sequence[Grown]) -> list[str]:
    """Seconds and memory per megapixel, each against the side and against the batch; without what was not measured."""
    smallest = min((one.side for one in growth), default=0)
    alone = [(one.side, one) for one in growth if one.batch == 1]
    together = [(one.batch, one) for one in growth if one.side == smallest]
    ways = {"side in pixels, one picture": alone, f"pictures of {smallest}×{smallest} at once": together}
    drawn = []
    for y, measure in (("seconds per megapixel", _seconds), ("MiB per megapixel, of the whole process", _memory)):
        for x, points in ways.items():
            curves: dict[str, list[charts.Point]] = {}
            for across, one in points:
                curves.setdefault(one.direction, []).append((across, measure(one)))
            drawn.append(charts.lines(curves, x, y, logarithmic=True, from_zero=True))
    return [chart for chart in drawn if chart]


def _seconds(one: Grown) -> float:
    return one.per_megapixel


def _memory(one: Grown) -> float:
    return nan if one.peak_bytes_per_megapixel is None else one.peak_bytes_per_megapixel / 2**20


def _size(row: Timed) -> tuple[str, int, int]:
    return row.direction, row.side, row.batch


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="13" text-anchor="{anchor}">{escape(text)}</text>'
