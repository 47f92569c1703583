"""Charts: positions of lines and bars, computed by hand, and unusual ranges."""

from math import inf, nan
from typing import Any

import pytest

from nfm.reports.charts import WIDE, Axis, Bars, Line, chart, extent, histogram, steps


def test_lines_and_bars_are_positioned_on_the_axes() -> None:
    drawn = chart(
        [Line((0, 5, 10), (0, 2, 1), "train", "one"), Bars((0, 4, 10), (1, 0), "test")],
        Axis(0, 10, "x"),
        Axis(0, 2, "y"),
        (160, 160),
    )
    assert (drawn.left, drawn.right, drawn.top, drawn.bottom) == (48, 148, 24, 124)
    assert drawn.lines == [("M48.0 124.0L98.0 24.0L148.0 74.0", "train")]
    assert [bar[:5] for bar in drawn.bars] == [(48, 74, 39.5, 50, "test")]  # with a gap; the empty bin has no bar
    assert drawn.x_ticks == [(48, "0"), (68, "2"), (88, "4"), (108, "6"), (128, "8"), (148, "10")]
    assert drawn.y_ticks == [(124, "0"), (99, "0.5"), (74, "1"), (49, "1.5"), (24, "2")]
    assert drawn.legend == [("train", "one")]


def test_a_line_is_interrupted_where_it_is_not_finite() -> None:
    (path, _), (points, _) = chart(
        [Line((0, 1, 2, 3), (0, nan, 1, 1), "ink"), Line((0, 3), (inf, 1), "ink points")],
        Axis(0, 3, ticks=()),
        Axis(0, 1, ticks=()),
        (30, 44),  # the plot is 30 wide, and from 8 to 28 high
    ).lines
    assert path == "M0.0 28.0M20.0 8.0L30.0 8.0"
    assert points == "M30.0 8.0h0"


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (Axis(0, 0.04), ["0", "0.01", "0.02", "0.03", "0.04"]),
        (Axis(-12.5, 31), ["-10", "0", "10", "20", "30"]),
        (Axis(0.97, 2.03, whole=True), ["1", "2"]),
        (Axis(0.5, 1.5, whole=True), ["1"]),
        (Axis(0, 0.13, "rows", percent=True), ["0%", "5%", "10%"]),
        (Axis(3, 3), ["3"]),
        (Axis(-1.7e308, 1.7e308), ["-1.7e+308"]),
    ],
)
def test_ticks_are_at_round_numbers(axis: Axis, expected: list[str]) -> None:
    assert [text for _, text in chart([], axis, Axis(0, 1), WIDE).x_ticks] == expected


def test_the_outline_of_a_histogram() -> None:
    outline = steps((0, 1, 3), (2, 5), "valid")
    assert list(zip(outline.x, outline.y, strict=True)) == [(0, 2), (1, 2), (1, 5), (3, 5)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 3], (0.9, 3.1)), ([5, nan], (4.5, 5.5)), ([nan, inf], (-0.05, 1.05)), ([], (-0.05, 1.05))],
)
def test_the_extent_of_values(values: list[float], expected: tuple[float, float]) -> None:
    assert extent(values) == pytest.approx(expected)


def test_bins_on_a_logarithmic_axis_are_as_wide_as_the_ratio_of_their_edges() -> None:
    drawn = histogram([1.0, 10.0, 100.0, 10000.0], [5, 0, 10], log=True)
    assert drawn is not None
    # 150 wide and 26 high, four decades; the first bin has one decade, the last one two.
    assert [(bar.x, bar.width, bar.y, bar.height) for bar in drawn.bars] == [(0, 37, 21, 13), (75, 74.5, 8, 26)]
    assert drawn.bars[1].title == "100 … 10,000: 10"
    assert drawn.x_ticks == [(0, "1"), (75, "log"), (150, "10,000")]


def test_bins_on_a_linear_axis_are_as_wide_as_their_range() -> None:
    drawn = histogram([0, 1, 10], [4, 1])
    assert drawn is not None
    assert [(bar.x, bar.width) for bar in drawn.bars] == [(0, 14.5), (15, 134.5)]
    assert drawn.x_ticks == [(0, "0"), (150, "10")]


def test_a_small_bin_is_visible() -> None:
    drawn = histogram([0, 1, 2], [1, 100_000])
    assert drawn is not None
    assert drawn.bars[0].height == 1.5


@pytest.mark.parametrize("edges", [[3.0, 3.0], [-1.7e308, 1.7e308]])
def test_a_histogram_without_a_finite_range_is_drawn(edges: list[float]) -> None:
    drawn = histogram(edges, [4])
    assert drawn is not None
    assert [(bar.x, bar.width) for bar in drawn.bars] == [(0, 149.5)]


def test_a_histogram_that_begins_at_zero_is_not_logarithmic() -> None:
    drawn = histogram([0, 1, 2], [4, 1], log=True)
    assert drawn is not None
    assert [text for _, text in drawn.x_ticks] == ["0", "2"]


@pytest.mark.parametrize("counts", [[0], []])
def test_a_histogram_without_counts_is_not_drawn(counts: Any) -> None:
    assert histogram([0, 1][: len(counts) * 2], counts) is None
