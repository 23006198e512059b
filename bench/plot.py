"""Two kinds of plot as SVG, by hand: a dependency less, and the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

OURS, THEIRS, TEXT, GRID = "#0b6e4f", "#9aa5b1", "#24292f", "#d0d7de"
COLOURS = ("#0b6e4f", "#4cb944", "#1f4e79", "#5aa9e6", "#9a3b3b", "#e0a030")
WIDTH, LABELS, ROW = 860, 330, 24


@dataclass(frozen=True)
class Bar:
    """One system."""

    name: str
    value: float
    ours: bool


@dataclass(frozen=True)
class Line:
    """One system over several sizes."""

    name: str
    points: list[tuple[int, float]]


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="sans-serif" font-size="13" fill="{TEXT}">'
    )
    background = f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>"]) + "\n"


def bars(unit: str, panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars, a panel below the other, each on its own scale."""
    parts: list[str] = []
    y = 10.0
    for title, shown in panels:
        y += 20
        parts.append(_text(10, y, f"{title} ({unit})", bold=True))
        y += 10
        longest = max((bar.value for bar in shown), default=1.0)
        for bar in shown:
            length = (WIDTH - LABELS - 80) * bar.value / longest
            parts.append(_text(LABELS - 8, y + 16, bar.name, anchor="end", bold=bar.ours))
            colour = OURS if bar.ours else THEIRS
            parts.append(f'<rect x="{LABELS}" y="{y + 4:.1f}" width="{length:.1f}" height="16" fill="{colour}"/>')
            parts.append(_text(LABELS + length + 6, y + 16, f"{bar.value / 1e3:,.1f}"))
            y += ROW
        y += 12
    return _svg(y + 5, parts)


def lines(vertical: str, horizontal: str, drawn: Sequence[Line]) -> str:
    """Lines over logarithmic axes."""
    left, right, top, bottom = 70.0, 560.0, 30.0, 360.0
    points = [point for line in drawn for point in line.points] or [(1, 1.0), (10, 10.0)]
    decades_x = _decades([float(x) for x, _ in points])
    decades_y = _decades([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - decades_x[0]) / (decades_x[-1] - decades_x[0])
        up = (math.log10(y) - decades_y[0]) / (decades_y[-1] - decades_y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [_text(left, top - 12, vertical), _text(right, bottom + 36, horizontal, anchor="end")]
    for decade in decades_x:
        x, _ = place(10.0**decade, 10.0 ** decades_y[0])
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 18, f"{10**decade:,}", anchor="middle"))
    for decade in decades_y:
        _, y = place(10.0 ** decades_x[0], 10.0**decade)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(left - 6, y + 4, f"{10.0**decade:g}", anchor="end"))
    for number, line in enumerate(drawn):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in line.points:
            x, y = place(*point)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        y = top + 20 * number
        parts.append(f'<rect x="{right + 20}" y="{y:.1f}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(right + 38, y + 11, line.name))
    return _svg(bottom + 50, parts)


def _decades(values: Sequence[float]) -> list[int]:
    """The powers of ten around all values; at least one step."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return list(range(low, max(high, low + 1) + 1))
