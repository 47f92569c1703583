"""The health report's page: every figure against a report made by hand, and every case it has to cope with."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import GateError
from nfm.scoring.health.page import (
    PLOTS,
    REPORT,
    bin_shares,
    by_psi,
    level,
    reading,
    refused_folder,
    score_chart,
    write_report,
)
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from tests.parsed import Parsed
from tests.scoring.examples import ROWS, SCHEMA, config

FULL = 50  # columns and limits that are shown
Write = Callable[[dict[str, Any]], Parsed]
QUANTILES = ("0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99")
EDGES = [0.0, 0.25, 0.5, 0.75, 1.0]
TABLE = {"of": "table", "value": 10, "limit": 2_000_000, "gate": "min_rows", "told": "the table has 10 rows"}
UNSEEN = {"of": "colour", "value": 0.3, "limit": 0.2, "gate": "max_oov_rate"} | {
    "told": "30.0% of the values of 'colour' are out-of-vocabulary (5.0% in training)"
}
SCORE: dict[str, Any] = {
    "min": 0.125,
    "mean": 0.6,
    "max": 0.9375,
    "quantiles": {q: float(q) / 2 for q in QUANTILES},
    "psi": 0.31,
    "psi_by_chance": 0.205,
    "histogram": {"edges": EDGES, "counts": [2, 0, 3, 5]},
    "reference": {
        "fold": "valid",
        "rows": 20,
        "quantiles": {q: float(q) / 4 for q in QUANTILES},
        "histogram": {"edges": EDGES, "counts": [8, 4, 4, 4]},
    },
}
REPORT_MADE: dict[str, Any] = {
    "name": "orders",
    "task": "binary",
    "model_fingerprint": "0123456789abcdef",
    "encoding_fingerprint": "fedcba9876543210",
    "model": "lake/model",
    "source": "lake/tonight",
    "scan": "parquet",
    "skipped_files": [],
    "created": "2026-11-22T03:04:05+01:00",
    "rows": 10,
    "score": SCORE,
    "values": {
        "from_dataset": {"values": 10, "psi": None},
        "size": {
            "values": 10,
            "missing": {"count": 0, "rate": 0.0, "rate_in_training": 0.0},
            "psi": 0.02,
            "psi_by_chance": 0.01,
            "bins": {
                "edges": [1, 4],
                "training": [0.0, 30.0, 10.0],
                "counts": [0, 8, 2],
                "names": ["missing", "ids 1–3", "id 4"],
            },
        },
        "colour": {
            "values": 10,
            "missing": {"count": 2, "rate": 0.2, "rate_in_training": 0.1},
            "out_of_vocabulary": {"count": 3, "rate": 0.3, "rate_in_training": 0.05},
            "new_values": [{"value": "mauve", "count": 2}, {"value": "", "count": 1}],
            "new_values_exact": False,
            "psi": 0.15,
            "psi_by_chance": 0.2,
            "bins": {
                "edges": [1, 2, 3, 5],
                "training": [2.0, 1.0, 10.0, 6.0, 1.0],
                "counts": [2, 3, 1, 2, 2],
                "names": ["missing", "out-of-vocabulary", "red", "ids 3–4", "<b>a colour of a long name"],
            },
        },
        "fare": {
            "values": 10,
            "missing": {"count": 1, "rate": 0.1, "rate_in_training": 0.025},
            "psi": 0.375,
            "psi_by_chance": 0.05,
            "bins": {
                "edges": [-1.5, 2.0],
                "training": [10.0, 10.0, 20.0],
                "counts": [1, 2, 7],
                "names": ["< -1.5", "-1.5 … 2", "≥ 2"],
            },
        },
    },
    "gates": {"limits": {}, "crossed": []},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a report and return the page."""

    def written(report: dict[str, Any]) -> Parsed:
        write_report(tmp_path, report)
        assert json.loads((tmp_path / "_report.json").read_text()) == report
        return Parsed((tmp_path / REPORT).read_text(encoding="utf-8"))

    return written


def changed(**others: Any) -> dict[str, Any]:
    return copy.deepcopy(REPORT_MADE) | others


def prose(page: Parsed) -> str:
    return " ".join(page.text.split())


def several(scores: dict[str, dict[str, Any]], **others: Any) -> dict[str, Any]:
    report = changed(scores=scores, task="multiclass", **others)
    del report["score"]
    return report


def test_the_first_screen_says_what_became_of_the_scores(write: Write) -> None:
    head = prose(write(changed(gates={"limits": {"min_rows": 5}, "crossed": []})))
    head = head[: head.index("quantile")]
    assert "Score report · 2026-11-22 02:04 UTC · lake/tonight" in head
    assert "Model lake/model (binary, fingerprint 0123456789abcdef)" in head
    assert (
        "Published. The scores of 10 rows are published: the table passes the gates that are set (min_rows 5)." in head
    )
    assert "Moved far from the validation fold: score." in head
    assert "Moved far from the train fold: fare." in head
    assert "PSI of the scores0.310moved" in head
    assert "Fields and numbers1 of 4moved far" in head
    assert "Most unseen values30.0%of colour (5.0% in training)" in head
    assert "no gates are set" in prose(write(REPORT_MADE))
    told = prose(write(changed(skipped_files=["a.parquet"])))
    assert "1 file could not be read: the rows in it have no score;" in told


def test_a_refused_run_says_why_and_that_the_old_scores_stand(write: Write) -> None:
    limits = {"max_oov_rate": 0.2, "max_psi": 0.5, "min_rows": 2_000_000}
    one = write(changed(gates={"limits": limits, "crossed": [TABLE]}))
    assert (
        "Refused. The scores of 10 rows are not published, and the output is unchanged: the table has 10 "
        "rows, and score.gates.min_rows is 2,000,000" in prose(one)
    )
    assert "--set score.gates.min_rows=0" in prose(one)
    assert "Published." not in prose(one)
    assert ("div", {"class": "verdict refused"}) in one.tags
    two = prose(write(changed(gates={"limits": limits, "crossed": [TABLE, UNSEEN]})))
    assert "the table has 10 rows, and score.gates.min_rows is 2,000,000" in two
    assert "are out-of-vocabulary (5.0% in training), and score.gates.max_oov_rate is 0.2" in two
    many = prose(write(changed(gates={"limits": limits, "crossed": [UNSEEN] * (FULL + 2)})))
    assert many.count("score.gates.max_oov_rate is 0.2") == FULL
    assert "2 more limits are crossed" in many


def test_the_scores_stand_over_those_of_the_validation_fold(write: Write) -> None:
    page = write(REPORT_MADE)
    assert page.row("quantile") == ["quantile", "tonight", "validation fold"]
    assert page.row("1%") == ["1%", "0.005", "0.0025"]
    assert page.row("50%") == ["50%", "0.25", "0.125"]
    assert [page.row(name)[1] for name in ("min", "mean", "max")] == ["0.125", "0.6", "0.9375"]
    assert "PSI 0.310: moved. In a table of this size, chance alone causes a PSI of up to 0.205." in prose(page)
    assert "0.25 … 0.5" not in page.text  # an empty bin has no bar
    assert "0.75 … 1: tonight 50.0%, valid fold 20.0%" in page.text
    drawn = score_chart(SCORE)
    assert drawn is not None
    # 20 %, 30 % and 50 % tonight, 40 %, 20 %, 20 % and 20 % before; half of the rows fill the height.
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


def test_scores_that_are_all_one_are_drawn(write: Write) -> None:
    same = {"edges": [0.5, 0.5], "counts": [10]}
    told = SCORE | {"histogram": same, "reference": SCORE["reference"] | {"histogram": same}}
    drawn = score_chart(told)
    assert drawn is not None
    assert [(bar.x, bar.y) for bar in drawn.bars] == [(drawn.left, drawn.top)]
    assert "0.5 … 0.5: tonight 100.0%, valid fold 100.0%" in write(changed(score=told)).text


@pytest.mark.parametrize(
    ("psi", "by_chance", "words"),
    [
        (0.0999, 0.05, "stable"),
        (0.0999, 0.0999, "stable, within chance"),
        (0.1, 0.05, "moved a little"),
        (0.25, 0.24, "moved a little"),
        (0.25, 0.3, "moved a little, within chance"),
        (0.2501, 0.2, "moved"),
        (3.0, 3.5, "moved, within chance"),
        (None, None, "not known"),
    ],
)
def test_a_psi_is_read_as_usual(psi: float | None, by_chance: float | None, words: str) -> None:
    facts = {"psi": psi, "psi_by_chance": by_chance}
    assert reading(facts) == words
    assert level(facts) == {"moved a little": "little", "moved": "moved"}.get(words, "calm")


def test_columns_stand_by_their_psi_with_both_rates(write: Write) -> None:
    page = write(REPORT_MADE)
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    start = rows.index(["column", "PSI", "reading", "tonight", "train", "tonight", "train"])
    assert rows[start + 1 : start + 5] == [
        ["fare", "0.375", "moved", "10.0%", "2.5%", "–", "–"],
        ["colour", "0.150", "moved a little, within chance", "20.0%", "10.0%", "30.0%", "5.0%"],
        ["size", "0.020", "stable", "0.0%", "0.0%", "–", "–"],
        ["from_dataset", "–", "not known", "–", "–", "–", "–"],
    ]
    assert by_psi({"a": {"psi": None}, "b": {"psi": 0.0}, "c": {"psi": None}, "d": {"psi": 2.0}})[-1][0] == "c"


def test_bins_stand_side_by_side_with_those_of_the_training(write: Write) -> None:
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


def test_new_values_and_what_is_known_of_their_counts(write: Write) -> None:
    page = write(REPORT_MADE)
    assert "3 values out of vocabulary: 30.0% (5.0% in training)" in prose(page)
    assert page.row("mauve") == ["mauve", "at least 2", "20.0%"]
    assert page.row("empty text") == ["empty text", "at least 1", "10.0%"]
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


def test_the_page_stands_alone_and_what_users_wrote_is_text(write: Write) -> None:
    nasty = '<script>alert("1")</script><img src=x>&amp;'
    report = several({f"score_{nasty}": SCORE}, name=nasty, model=nasty, source=nasty, skipped_files=[nasty])
    told = report["values"].pop("colour")
    report["values"][nasty] = told | {"new_values": [{"value": nasty, "count": 2}, {"value": "x" * 5000, "count": 1}]}
    crossed = [TABLE | {"told": f"the PSI of {nasty!r} is 1"}, TABLE | {"told": f"the PSI of {'y' * 5000!r} is 2"}]
    page = write(report | {"gates": {"limits": {}, "crossed": crossed}})
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "img", "link", "iframe", "object"} & set(tags)
    assert page.row(nasty)[:3] == [nasty, "0.150", "moved a little, within chance"]
    assert [nasty, "at least 2", "20.0%"] in [[" ".join(cell.split()) for cell in row] for row in page.rows]
    assert f"the PSI of {nasty!r} is 1" in page.text
    assert not re.search("x{61}|y{241}", page.text)
    assert {attrs["href"] for tag, attrs in page.tags if tag == "a"} <= {"#scores", "#columns", "#new", "#skipped"}
    assert "http://" not in page.page
    assert "https://" not in page.page


def test_a_model_without_a_profile(write: Write) -> None:
    report = changed()
    for told in (report["score"], *report["values"].values()):
        for key in ("bins", "reference", "psi_by_chance"):
            told.pop(key, None)
        told["psi"] = None
    page = write(report)
    assert "The model has no profile of its training data" in prose(page)
    assert page.row("quantile") == ["quantile", "tonight"]
    assert page.row("50%") == ["50%", "0.25"]
    assert "0.75 … 1: tonight 50.0%" in page.text
    assert not re.search("moved far from|Bins of|nan|None", prose(page))


def test_an_empty_table_and_a_model_with_and_without_a_profile(write: Write) -> None:
    nothing = {"min": None, "mean": None, "max": None, "quantiles": None, "psi": None}
    values = copy.deepcopy(REPORT_MADE["values"])
    for told in values.values():
        told |= {"values": 0, "psi": None, "psi_by_chance": None}
        for what in ("missing", "out_of_vocabulary"):
            if what in told:
                told[what] |= {"count": 0, "rate": None}
        if "bins" in told:
            told["bins"]["counts"] = [0] * len(told["bins"]["counts"])
    values["colour"]["new_values"] = []
    empty = changed(rows=0, values=values, score=nothing | {"reference": SCORE["reference"]})
    page = write(empty)
    assert "The scores of 0 rows are published: no gates are set. The table has no rows." in prose(page)
    assert page.row("50%") == ["50%", "–", "0.125"]
    assert page.row("colour")[1:] == ["–", "not known", "–", "10.0%", "–", "5.0%"]
    assert not re.search("nan|None", prose(page))
    for report in (empty | {"score": nothing}, several({"score_a": nothing, "score_b": nothing}, rows=0, values={})):
        text = prose(write(report))
        assert "There are no scores to draw." in text
        assert not re.search("nan|None", text)


def test_of_many_classes_and_columns_the_most_moved_are_told_in_full(write: Write) -> None:
    scores = {f"score_{i}": SCORE | {"psi": i / 1000} for i in range(1000)}
    base = REPORT_MADE["values"]["colour"]
    long = [{"value": "v" * 10_000, "count": 1}] * 20
    columns = {f"column_{i}": base | {"psi": i / 100, "new_values": long} for i in range(300)}
    files = [f"lake/{i}.parquet" for i in range(1000)]
    page = write(several(scores, values=columns, skipped_files=files))
    assert len(page.page) < 2_000_000
    labelled = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert labelled == [f"histogram of score_{i}" for i in range(999, 999 - PLOTS, -1)]
    assert "994 more classes moved less" in prose(page)
    assert page.row("column_0") == ["column_0", "0.000", "stable, within chance", "20.0%", "10.0%", "30.0%", "5.0%"]
    shown = [i for i in range(300) if f"column_<wbr>{i}</bdi></h3>" in page.page]
    assert shown == list(range(250, 300))  # with their new values; the six with bins are among them
    assert "and 250 more fields" in prose(page)
    assert "800 more are listed in _report.json" in prose(page)


def test_a_real_run_that_is_refused_and_one_that_is_published(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    tonight = [(key, "mauve" if colour == "red" else colour, size, price, 0) for key, colour, size, price, _ in ROWS]
    spark.createDataFrame(tonight, SCHEMA).write.parquet(str(tmp_path / "raw"))
    target = tmp_path / "scores"
    refused = config(made, tmp_path / "raw", output=str(target), gates={"max_oov_rate": 0.25})
    with pytest.raises(GateError):
        score_table(spark, refused)
    page = Parsed((refused_folder(target) / REPORT).read_text(encoding="utf-8"))
    # 24 of 60 are red; 12 are missing.
    assert "40.0% of the values of 'colour' are out-of-vocabulary (0.0% in training), and score" in prose(page)
    assert page.row("mauve") == ["mauve", "24", "40.0%"]
    notes = refused_folder(target) / "notes.txt"
    notes.write_text("looked at")
    report = score_table(spark, config(made, tmp_path / "raw", output=str(target)))
    assert list(notes.parent.iterdir()) == [notes]  # the report is of another night, and the notes are not ours
    page = Parsed((target / REPORT).read_text(encoding="utf-8"))
    assert "The scores of 60 rows are published: no gates are set." in prose(page)
    assert page.row("mean")[1] == f"{report['score']['mean']:.4g}"


def test_tasks_and_scorers_need_no_templates() -> None:
    script = (
        "import sys, nfm.scoring.tasks, nfm.scoring.local, nfm.scoring.udf, nfm.scoring.hosts, nfm.scoring.chunks; "
        "print('jinja2' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("score", "told", "moved"),
    [
        ({}, "0.6000 on average, 0.1250 to 0.9375; PSI 0.310 against the valid fold: moved", "score, fare"),
        ({"psi_by_chance": 0.4}, "…; PSI 0.310 against the valid fold: moved, within chance", "fare"),
        ({"psi": 0.05}, "…; PSI 0.050 against the valid fold: stable, within chance", "fare"),
        ({"psi": 0.05, "psi_by_chance": 0.01}, "…; PSI 0.050 against the valid fold: stable", "fare"),
        ({"psi": None, "reference": None}, "0.6000 on average, 0.1250 to 0.9375", "fare"),
    ],
)
def test_the_summary_reads_the_psi_as_the_page_does(
    tmp_path: Path, score: dict[str, Any], told: str, moved: str
) -> None:
    lines = summary(config(tmp_path, tmp_path), changed(score=SCORE | score)).splitlines()
    assert lines[1] == f"  score     {told.replace('…', '0.6000 on average, 0.1250 to 0.9375')}"
    assert [line for line in lines if line.startswith("  moved")] == [
        f"  moved     {moved}: far from what the model knows, see the report"
    ]
    assert lines[4:6] == [
        "  size                 0.0% (0.0%)                   –     0.020",
        "  colour             20.0% (10.0%)        30.0% (5.0%)     0.150",
    ]
