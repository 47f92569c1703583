"""Charts of the reports: positions of lines, points and bars. The macro `chart` writes them as SVG.

A style is a list of CSS classes: a color (train, valid, test, one, ink, faint, linear) and for lines thin, dashed or
points.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.reports.page import compact

Floats = Sequence[float] | NDArray[np.float64]

SQUARE, WIDE, MEDIUM, SMALL = (400, 400), (480, 300), (320, 110), (150, 50)  # width and height
_TICKS = 6  # most ticks of an axis
_MIN_HEIGHT = 1.5  # of a bar that is not empty


class Line(NamedTuple):
    """A line; values that are not finite interrupt it."""

    x: Floats
    y: Floats
    style: str
    name: str = ""  # in the legend


class Bars(NamedTuple):
    """Bars of a histogram; an empty bin has no bar."""

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
    percent: bool = False
    whole: bool = False  # ticks at whole numbers only
    ticks: Sequence[tuple[float, str]] | None = None  # position and label; None: at round numbers


class Bar(NamedTuple):
    """Rectangle of a bar, in units of the SVG."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str


class Chart(NamedTuple):
    """Contents of a chart, in units of the SVG."""

    size: tuple[int, int]
    left: int  # edges of the plot
    right: int
    top: int
    bottom: int
    bars: list[Bar]
    lines: list[tuple[str, str]]  # the `d` of an SVG path, and its style
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    labels: tuple[str, str]  # of the axes
    legend: list[tuple[str, str]]  # style and name


def chart(marks: Sequence[Line | Bars], x: Axis, y: Axis, size: tuple[int, int] = WIDE) -> Chart:
    """Draw marks, the later ones over the earlier ones; all bars are below all lines."""
    x_ticks, y_ticks = _ticks(x), _ticks(y)
    left, top = (48 if y_ticks else 0), (24 if y.label else 8)
    right, bottom = size[0] - (12 if y_ticks else 0), size[1] - (36 if x.label else 16)

    def across(value: float) -> float:
        return round(left + _position(value, x) * (right - left), 1)

    def up(value: float) -> float:
        return round(bottom - _position(value, y) * (bottom - top), 1)

    bars, lines = [], []
    for mark in marks:
        if isinstance(mark, Line):
            lines.append((_path(mark, across, up), mark.style))
            continue
        for i, ((start, end), height) in enumerate(zip(pairwise(mark.edges), mark.heights, strict=True)):
            if height:
                tall = max(_MIN_HEIGHT, bottom - up(height))
                begin, width = across(start), max(1.0, across(end) - across(start))
                gap = 0.5 if width > 2 else 0
                title = mark.titles[i] if mark.titles else ""
                bars.append(Bar(begin, round(bottom - tall, 1), round(width - gap, 1), tall, mark.style, title))
    at_x, at_y = [(across(value), text) for value, text in x_ticks], [(up(value), text) for value, text in y_ticks]
    legend = [(mark.style, mark.name) for mark in marks if mark.name]
    return Chart(size, left, right, top, bottom, bars, lines, at_x, at_y, (x.label, y.label), legend)


def histogram(
    edges: Sequence[float], counts: Sequence[float], log: bool = False, size: tuple[int, int] = SMALL
) -> Chart | None:
    """Draw a small histogram, labelled with its ends; return None if all counts are 0.

    A bin is as wide as its range; on a logarithmic axis, as the ratio of its edges.
    """
    if not any(counts):
        return None
    log = log and edges[0] > 0
    along = [log10(edge) if log else edge for edge in edges]
    span = along[-1] - along[0]
    if span <= 0 or not isfinite(span):
        along = list(range(len(edges)))
    bins = zip(pairwise(edges), counts, strict=True)
    titles = [f"{compact(low)} … {compact(high)}: {count:,}" for (low, high), count in bins]
    low, high = along[0], along[-1]
    ticks = [(low, compact(edges[0])), *[((low + high) / 2, "log")] * log, (high, compact(edges[-1]))]
    x, y = Axis(low, high, ticks=ticks), Axis(0, max(counts), ticks=())
    return chart([Bars(along, counts, "test", titles=titles)], x, y, size)


def steps(edges: Floats, heights: Floats, style: str, name: str = "") -> Line:
    """Return the outline of a histogram."""
    xs = [edge for pair in pairwise(edges) for edge in pair]
    return Line(xs, [height for height in heights for _ in range(2)], style, name)


def extent(values: Iterable[float]) -> tuple[float, float]:
    """Return the range of the finite values, widened by 5 % on both sides."""
    finite = [value for value in values if isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    space = 0.05 * (high - low) or 0.5
    return low - space, high + space


def _position(value: float, axis: Axis) -> float:
    """Return the position of a value on its axis, from 0 to 1."""
    span = axis.high - axis.low
    return min(max((value - axis.low) / span, 0.0), 1.0) if span > 0 else 0.5


def _path(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    points = "points" in line.style.split()
    drawn, pen = [], "M"
    for x, y in zip(line.x, line.y, strict=True):
        finite = isfinite(x) and isfinite(y)
        if finite:
            drawn.append(f"{pen}{across(x)} {up(y)}{'h0' if points else ''}")
        pen = "L" if finite and not points else "M"
    return "".join(drawn)


def _ticks(axis: Axis) -> Sequence[tuple[float, str]]:
    if axis.ticks is not None:
        return axis.ticks
    span = axis.high - axis.low
    if not 0 < span < float("inf"):
        return [(axis.low, compact(axis.low))]
    step = 10.0 ** floor(log10(span / _TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= _TICKS)
    step = max(step, 1.0) if axis.whole else step
    values = [i * step for i in range(ceil(axis.low / step - 1e-9), floor(axis.high / step + 1e-9) + 1)]
    return [(value, f"{100 * value:.3g}%" if axis.percent else compact(value)) for value in values]
