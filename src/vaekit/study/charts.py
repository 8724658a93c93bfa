"""Small charts as SVG, drawn by hand, so that a page needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 16, 46
COLOURS = ("#6b3fc9", "#d1495b", "#2a7f62", "#b8860b", "#3b6fb6", "#555555")

Point = tuple[float, float]


def lines(
    series: Mapping[str, Sequence[Point]], x: str, y: str, *, logarithmic: bool = False, from_zero: bool = False
) -> Markup:
    """Curves with their points, each with its name; single points are drawn as such.

    x, y: what stands at the axes. logarithmic: of x. from_zero: of y. Points that are not finite are left out.
    """
    known = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    every = [point for points in known.values() for point in points]
    if not every:
        return Markup("")
    place = _Places(every, logarithmic, from_zero)
    parts = [*_axes(place, x, y)]
    for number, (name, points) in enumerate(known.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = [place(*point) for point in sorted(points)]
        if len(at) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>' for px, py in at]
        top = TOP + 14 + 20 * number
        parts.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{top - 4}" r="5" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 24, top, name))
    return _svg(parts, f"{y} against {x}")


def bars(values: Mapping[str, float], y: str, reference: float | None = None) -> Markup:
    """A bar for each name; reference: a dashed line across."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    if not known:
        return Markup("")
    top = max([*known.values(), reference or 0.0]) * 1.08
    scale = (HEIGHT - TOP - BOTTOM) / top
    width = (WIDTH - LEFT - 16) / len(known)
    parts = []
    for tick in _ticks(0, top):
        level = HEIGHT - BOTTOM - tick * scale
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{level:.1f}" y2="{level:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 8, level + 4, f"{tick:g}", "end"))
    for number, (name, value) in enumerate(known.items()):
        left, height = LEFT + number * width + width * 0.15, value * scale
        where = f'x="{left:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{width * 0.7:.1f}" height="{height:.1f}"'
        parts.append(f'<rect {where} fill="{COLOURS[0]}"/>')
        parts.append(_text(left + width * 0.35, HEIGHT - BOTTOM + 16, name, "middle"))
        parts.append(_text(left + width * 0.35, HEIGHT - BOTTOM - height - 5, f"{value:.1f}", "middle"))
    if reference is not None:
        level = HEIGHT - BOTTOM - reference * scale
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 16}" y1="{level:.1f}" y2="{level:.1f}" class="reference"/>')
    parts.append(_text(LEFT - 8, HEIGHT - 8, y))
    return _svg(parts, y)


class _Places:
    """From numbers to pixels."""

    def __init__(self, points: Sequence[Point], logarithmic: bool, from_zero: bool):
        self.logarithmic = logarithmic
        xs, ys = [self._x(x) for x, _ in points], [y for _, y in points]
        self.x, self.y = _widened(min(xs), max(xs)), _widened(min(ys), max(ys))
        if from_zero:
            self.y = 0.0, self.y[1]

    def _x(self, x: float) -> float:
        return math.log2(max(x, 1e-9)) if self.logarithmic else x

    def __call__(self, x: float, y: float) -> Point:
        across = (self._x(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _widened(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(low) * 0.1 or 1.0
    return low - room, high + room


def _axes(place: _Places, x: str, y: str) -> list[str]:
    parts = []
    for tick in _ticks(*place.y):
        level = place(1, tick)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 8, level + 4, f"{tick:g}", "end"))
    if place.logarithmic:
        marks = [2.0**power for power in range(math.ceil(place.x[0]), math.floor(place.x[1]) + 1)]
    else:
        marks = _ticks(*place.x)
    for mark in marks:
        across = place(mark, place.y[0])[0]
        parts.append(_text(across, HEIGHT - BOTTOM + 16, f"{mark:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x, "middle"))
    parts.append(_text(4, TOP - 3, y))
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [round(step * number, 10) for number in range(first, math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], title: str) -> Markup:
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"'
    return Markup(f"<svg {box}>{''.join(parts)}</svg>")
