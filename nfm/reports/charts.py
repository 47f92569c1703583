"""Charts of the reports: where lines, points and bars are drawn. The macro `chart` writes them as SVG.

A style is a list of CSS classes: a color (train, valid, test, one, ink, faint, linear) and for lines thin, dashed or
points.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.reports.page import compact

Floats = Sequence[float] | NDArray[np.float64]

SQUARE, WIDE, SMALL = (400, 400), (480, 300), (150, 50)  # width and height
_TICKS = 6  # at most, on an axis
_LEAST = 1.5  # height of a bar that is not empty


class Line(NamedTuple):
    """A line; values that are not finite interrupt it."""

    x: Floats
    y: Floats
    style: str
    name: str = ""  # in the legend


class Bars(NamedTuple):
    """The bars of a histogram; an empty bin has none."""

    edges: Floats
    heights: Floats
    style: str
    name: str = ""
    titles: Sequence[str] = ()  # shown when the pointer is over a bar


class Axis(NamedTuple):
    """Range and labels of an axis."""

    low: float
    high: float
    label: str = ""
    text: Callable[[float], str] = compact
    ticks: Sequence[tuple[float, str]] | None = None  # None: at round numbers
    whole: bool = False  # ticks at whole numbers only


class Bar(NamedTuple):
    """A rectangle as it is drawn."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str


@dataclass(frozen=True)
class Chart:
    """A chart as it is drawn."""

    size: tuple[int, int]
    left: int  # the plot's edges
    right: int
    top: int
    bottom: int
    bars: Sequence[Bar]
    lines: Sequence[tuple[str, str]]  # the `d` of an SVG path, and its style
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str
    y_label: str
    legend: Sequence[tuple[str, str]]  # style and name


def chart(marks: Sequence[Line | Bars], x: Axis, y: Axis, size: tuple[int, int] = WIDE) -> Chart:
    """Draw marks, the later ones over the earlier ones; all bars lie below all lines."""
    y_ticks, x_ticks = _ticks(y), _ticks(x)
    left, top = (48 if y_ticks else 0), (24 if y.label else 8)
    right, bottom = size[0] - (12 if y_ticks else 0), size[1] - (36 if x.label else 16)

    def across(value: float) -> float:
        return round(left + _part(value, x) * (right - left), 1)

    def up(value: float) -> float:
        return round(bottom - _part(value, y) * (bottom - top), 1)

    bars, lines = [], []
    for mark in marks:
        if isinstance(mark, Line):
            lines.append((_path(mark, across, up), mark.style))
            continue
        for i, ((start, end), height) in enumerate(zip(pairwise(mark.edges), mark.heights, strict=True)):
            if height:
                tall = max(_LEAST, bottom - up(height))
                begin, width = across(start), max(1.0, across(end) - across(start))
                gap = 0.5 if width > 2 else 0
                title = mark.titles[i] if mark.titles else ""
                bars.append(Bar(begin, round(bottom - tall, 1), round(width - gap, 1), tall, mark.style, title))
    return Chart(
        size=size,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        bars=bars,
        lines=lines,
        x_ticks=[(across(value), text) for value, text in x_ticks],
        y_ticks=[(up(value), text) for value, text in y_ticks],
        x_label=x.label,
        y_label=y.label,
        legend=[(mark.style, mark.name) for mark in marks if mark.name],
    )


def histogram(edges: Sequence[float], counts: Sequence[float], log: bool = False) -> Chart | None:
    """A small histogram, labelled with its ends; None without counts.

    A bin is as wide as its range; on a logarithmic axis, as the ratio of its edges.
    """
    if not any(counts):
        return None
    log = log and edges[0] > 0
    along = [log10(edge) if log else edge for edge in edges]
    span = along[-1] - along[0]
    if span <= 0 or not isfinite(span):
        along = list(range(len(edges)))
    titles = [
        f"{compact(low)} … {compact(high)}: {n:,}" for (low, high), n in zip(pairwise(edges), counts, strict=True)
    ]
    low, high = along[0], along[-1]
    ends = [(low, compact(edges[0])), (high, compact(edges[-1]))]
    if log:
        ends.insert(1, ((low + high) / 2, "log"))
    x, y = Axis(low, high, ticks=ends), Axis(0, max(counts), ticks=())
    return chart([Bars(along, counts, "test", titles=titles)], x, y, SMALL)


def steps(edges: Floats, heights: Floats, style: str, name: str = "") -> Line:
    """The outline of a histogram."""
    xs = [edge for pair in pairwise(edges) for edge in pair]
    return Line(xs, [height for height in heights for _ in range(2)], style, name)


def percent_axis(high: float, label: str) -> Axis:
    """An axis of shares that begins at 0."""
    return Axis(0, high, label, lambda share: f"{100 * share:.3g}%")


def extent(values: Iterable[float], beside: float = 0.05) -> tuple[float, float]:
    """The range of the finite values, and a share of it on both sides."""
    finite = [value for value in values if isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    space = beside * (high - low) or 0.5
    return low - space, high + space


def _part(value: float, axis: Axis) -> float:
    """Where a value lies on its axis, from 0 to 1."""
    span = axis.high - axis.low
    return min(max((value - axis.low) / span, 0.0), 1.0) if span > 0 else 0.5


def _path(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    points = "points" in line.style.split()
    drawn, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        if isfinite(x) and isfinite(y):
            drawn.append(f"{pen}{across(x)} {up(y)}{'h0' if points else ''}")
            pen = "M" if points else "L"
        else:
            pen = "M"
    return "".join(drawn)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.ticks is not None:
        return list(axis.ticks)
    span = axis.high - axis.low
    if not 0 < span < float("inf"):
        return [(axis.low, axis.text(axis.low))]
    step = 10.0 ** floor(log10(span / _TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= _TICKS)
    step = max(step, 1.0) if axis.whole else step
    places = range(ceil(axis.low / step - 1e-9), floor(axis.high / step + 1e-9) + 1)
    return [(i * step, axis.text(i * step)) for i in places]
