"""The health report's pictures as geometry: where the bars and lines stand. The template draws them as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from nfm.reports.page import Bar, compact, percent

PLOT = (520, 300)  # width and height of the scores' histogram
SMALL = (300, 120)  # of a class's
BIN = 15  # height of a bin's row
_LONGEST = 19  # characters of a bin's name
_LABELS = 112  # width of the bins' names
_BARS = 180  # width of their bars
_END = 0.5  # of the PSI's axis: what lies beyond it fills it


@dataclass(frozen=True)
class Histogram:
    """Tonight's scores as bars, the reference as a line; shares of their rows."""

    bars: Sequence[Bar]
    line: str  # points of the reference; "" where there is none
    width: int
    height: int
    low: float
    high: float
    top: float  # the share that fills the height


def histogram(told: Mapping[str, Any], size: tuple[int, int] = PLOT) -> Histogram | None:
    """Two histograms with the same edges; None where there is nothing to draw.

    Args:
        told: of a score column, as `health` returns it.
        size: width and height.
    """
    reference = told.get("reference")
    tonight, before = (one.get("histogram") if one else None for one in (told, reference))
    known = tonight or before
    if known is None:
        return None
    edges, (width, height) = known["edges"], size
    shares, expected = (_shares(one["counts"]) if one else [] for one in (tonight, before))
    top = max([*shares, *expected])
    if not top:
        return None
    bins = len(edges) - 1
    places = [width * i / bins for i in range(bins + 1)]  # bins are of equal width
    bars = []
    for i, share in enumerate(shares):
        if share:
            tall = max(1.0, height * share / top)  # what is there is seen
            also = f", {reference['fold']} fold {percent(expected[i])}" if expected and reference else ""
            about = f"{compact(edges[i])} … {compact(edges[i + 1])}: tonight {percent(share)}{also}"
            bars.append(
                Bar(round(places[i], 2), round(height - tall, 2), round(width / bins, 2), round(tall, 2), about)
            )
    steps = []
    for (left, right), share in zip(pairwise(places), expected, strict=False):
        y = height - height * share / top
        steps += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
    return Histogram(bars, " ".join(steps), width, height, edges[0], edges[-1], top)


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


class BinRow(NamedTuple):
    """A bin of a column: its share in the train fold and tonight, and how wide their bars are."""

    label: str
    y: int
    training: float
    tonight: float
    training_width: float
    tonight_width: float


@dataclass(frozen=True)
class BinPicture:
    """The bins of a field or number, one below the other."""

    rows: Sequence[BinRow]
    labels: int
    width: int
    height: int


def bins(told: Mapping[str, Any]) -> BinPicture | None:
    """How a column's values are spread over its bins, in training and tonight; None without rows or a profile."""
    both = told.get("bins")
    if not both or not any(both["counts"]):
        return None
    training, tonight = _shares(both["training"]), _shares(both["counts"])
    names = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in both["names"]]
    scale = _BARS / max(*training, *tonight)
    rows = [
        BinRow(name, BIN * i, before, now, round(scale * before, 1), round(scale * now, 1))
        for i, (name, before, now) in enumerate(zip(names, training, tonight, strict=True))
    ]
    return BinPicture(rows, _LABELS, _LABELS + _BARS + 92, BIN * len(rows))


def psi_width(psi: float) -> float:
    """How much of its axis a PSI fills, from 0 to 1; 0.1 and 0.25 are at a fifth and at half of it."""
    return round(min(max(psi, 0.0), _END) / _END, 3)
