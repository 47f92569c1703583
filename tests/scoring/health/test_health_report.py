"""Figures of the health report's page, for a report made by hand."""

import re

import pytest

from nfm.scoring.health.page import bin_shares, by_psi, describe_psi, level, score_chart
from tests.scoring.health.made_report import REPORT_MADE, SCORE, Write, changed, prose


def test_scores_are_compared_with_the_validation_fold(write: Write) -> None:
    page = write(REPORT_MADE)
    assert page.row("quantile") == ["quantile", "tonight", "validation fold"]
    assert page.row("1%") == ["1%", "0.005", "0.0025"]
    assert page.row("50%") == ["50%", "0.25", "0.125"]
    assert [page.row(name)[1] for name in ("min", "mean", "max")] == ["0.125", "0.6", "0.9375"]
    assert "PSI 0.310: large drift. In a table of this size, chance alone causes a PSI of up to 0.205." in prose(page)
    assert "0.25 … 0.5" not in page.text  # an empty bin has no bar
    assert "0.75 … 1: tonight 50.0%, valid fold 20.0%" in page.text
    drawn = score_chart(SCORE)
    assert drawn is not None
    # 20 %, 30 % and 50 % tonight; 40 %, 20 %, 20 % and 20 % in the reference. 50 % fill the height.
    height, quarter = drawn.bottom - drawn.top, (drawn.right - drawn.left) / 4
    assert [(bar.x, bar.height) for bar in drawn.bars] == [
        (drawn.left, pytest.approx(0.4 * height)),
        (drawn.left + 2 * quarter, pytest.approx(0.6 * height)),
        (drawn.left + 3 * quarter, height),
    ]
    (line, style) = drawn.lines[0]
    ys = [(drawn.bottom - float(y)) / height for y in re.findall(r" ([\d.]+)", line)]
    assert ys == pytest.approx([0.8, 0.8, *[0.4] * 6], abs=0.001)
    assert style == "valid"
    assert drawn.legend == [("test", "tonight"), ("valid", "valid fold")]
    assert drawn.y_ticks[-1] == (drawn.top, "50%")


def test_equal_scores_are_drawn(write: Write) -> None:
    same = {"edges": [0.5, 0.5], "counts": [10]}
    facts = SCORE | {"histogram": same, "reference": SCORE["reference"] | {"histogram": same}}
    drawn = score_chart(facts)
    assert drawn is not None
    assert [(bar.x, bar.y) for bar in drawn.bars] == [(drawn.left, drawn.top)]
    assert "0.5 … 0.5: tonight 100.0%, valid fold 100.0%" in write(changed(score=facts)).text


@pytest.mark.parametrize(
    ("psi", "by_chance", "words"),
    [
        (0.0999, 0.05, "stable"),
        (0.0999, 0.0999, "within chance"),
        (0.1, 0.05, "moderate drift"),
        (0.25, 0.24, "moderate drift"),
        (0.25, 0.3, "within chance"),
        (0.2501, 0.2, "large drift"),
        (3.0, 3.5, "within chance"),
        (None, None, "not known"),
    ],
)
def test_a_psi_is_described_by_the_usual_limits(psi: float | None, by_chance: float | None, words: str) -> None:
    facts = {"psi": psi, "psi_by_chance": by_chance}
    assert describe_psi(facts) == words
    assert level(facts) == {"moderate drift": "moderate", "large drift": "large"}.get(words, "calm")


def test_columns_are_sorted_by_psi_and_show_both_rates(write: Write) -> None:
    page = write(REPORT_MADE)
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    start = rows.index(["column", "PSI", "drift", "tonight", "train", "tonight", "train"])
    assert rows[start + 1 : start + 5] == [
        ["fare", "0.375", "large drift", "10.0%", "2.5%", "–", "–"],
        ["colour", "0.150", "within chance", "20.0%", "10.0%", "30.0%", "5.0%"],
        ["size", "0.020", "stable", "0.0%", "0.0%", "–", "–"],
        ["from_dataset", "–", "not known", "–", "–", "–", "–"],
    ]
    assert by_psi({"a": {"psi": None}, "b": {"psi": 0.0}, "c": {"psi": None}, "d": {"psi": 2.0}})[-1][0] == "c"


def test_bins_are_compared_with_the_training(write: Write) -> None:
    assert bin_shares(REPORT_MADE["values"]["fare"]) == [
        ("< -1.5", 0.1, 0.25),
        ("-1.5 … 2", 0.2, 0.25),
        ("≥ 2", 0.7, 0.5),
    ]
    page = write(REPORT_MADE)
    assert page.row("out-of-vocabulary") == ["out-of-vocabulary", "30.0%", "5.0%"]
    assert page.row("red") == ["red", "10.0%", "50.0%"]
    assert page.row("ids 3–4") == ["ids 3–4", "20.0%", "30.0%"]
    assert page.row("<b>a colour of a long name") == ["<b>a colour of a long name", "20.0%", "5.0%"]
    # The longest bar fills its cell: 70 % of the fares.
    styles = [attrs["style"] for tag, attrs in page.tags if tag == "td" and attrs.get("class") == "share"]
    longest = styles.index("--share: 1.0")
    assert styles[longest + 1] == "--share: 0.714"
    assert [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"] == ["histogram of score"]


def test_new_values_and_their_counts(write: Write) -> None:
    page = write(REPORT_MADE)
    assert "3 out-of-vocabulary values: 30.0% (5.0% in training)" in prose(page)
    assert page.row("mauve") == ["mauve", "at least 2", "20.0%"]
    assert page.row("empty string") == ["empty string", "at least 1", "10.0%"]
    exact = changed()
    exact["values"]["colour"]["new_values_exact"] = True
    assert write(exact).row("mauve") == ["mauve", "2", "20.0%"]
    none = changed()
    none["values"]["colour"]["new_values"] = []
    assert not write(none).section("new")


def test_skipped_files(write: Write) -> None:
    page = write(changed(skipped_files=["lake/a.parquet", "lake/b\udcff.parquet"]))
    assert "2 files could not be read: the rows in them have no score" in prose(page)
    assert "lake/a.parquet" in page.text
    assert "lake/b\\udcff.parquet" in page.text  # a path may contain bytes that are not text
    assert not write(REPORT_MADE).section("skipped")
