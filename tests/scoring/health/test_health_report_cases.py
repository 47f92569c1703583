"""Cases of the health report: refused runs, texts of users, models without a profile, empty and wide tables."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import GateError
from nfm.scoring.health.page import PLOTS, REPORT, refused_folder
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from tests.parsed import Parsed
from tests.scoring.examples import ROWS, SCHEMA, config
from tests.scoring.health.made_report import REPORT_MADE, SCORE, TABLE, UNSEEN, Write, changed, prose, several

FULL = 50  # columns and limits that are shown


def test_the_head_of_the_page_shows_the_verdict(write: Write) -> None:
    head = prose(write(changed(gates={"limits": {"min_rows": 5}, "crossed": []})))
    head = head[: head.index("quantile")]
    assert "Score report · 2026-11-22 02:04 UTC · lake/tonight" in head
    assert "Model lake/model (binary, fingerprint 0123456789abcdef)" in head
    assert (
        "Published. The scores of 10 rows are published: the table passes the gates that are set (min_rows 5)." in head
    )
    assert "Large drift from the validation fold: score." in head
    assert "Large drift from the train fold: fare." in head
    assert "PSI of the scores0.310large drift" in head
    assert "Fields and numbers1 of 4with a large drift" in head
    assert "Most out-of-vocabulary values30.0%of colour (5.0% in training)" in head
    assert "no gates are set" in prose(write(REPORT_MADE))
    with_skipped = prose(write(changed(skipped_files=["a.parquet"])))
    assert "1 file could not be read: the rows in it have no score;" in with_skipped


def test_a_refused_run_shows_the_reasons_and_that_the_output_is_unchanged(write: Write) -> None:
    limits = {"max_oov_rate": 0.2, "max_psi": 0.5, "min_rows": 2_000_000}
    page = write(changed(gates={"limits": limits, "crossed": [TABLE]}))
    assert (
        "Refused. The scores of 10 rows are not published, and the output is unchanged: the table has 10 "
        "rows, and score.gates.min_rows is 2,000,000" in prose(page)
    )
    assert "--set score.gates.min_rows=0" in prose(page)
    assert "Published." not in prose(page)
    assert ("div", {"class": "verdict refused"}) in page.tags
    two = prose(write(changed(gates={"limits": limits, "crossed": [TABLE, UNSEEN]})))
    assert "the table has 10 rows, and score.gates.min_rows is 2,000,000" in two
    assert "are out-of-vocabulary (5.0% in training), and score.gates.max_oov_rate is 0.2" in two
    many = prose(write(changed(gates={"limits": limits, "crossed": [UNSEEN] * (FULL + 2)})))
    assert many.count("score.gates.max_oov_rate is 0.2") == FULL
    assert "2 more limits are crossed" in many


def test_the_page_needs_no_other_file_and_escapes_texts_of_users(write: Write) -> None:
    nasty = '<script>alert("1")</script><img src=x>&amp;'
    report = several({f"score_{nasty}": SCORE}, name=nasty, model=nasty, source=nasty, skipped_files=[nasty])
    colour = report["values"].pop("colour")
    report["values"][nasty] = colour | {"new_values": [{"value": nasty, "count": 2}, {"value": "x" * 5000, "count": 1}]}
    crossed = [TABLE | {"told": f"the PSI of {nasty!r} is 1"}, TABLE | {"told": f"the PSI of {'y' * 5000!r} is 2"}]
    page = write(report | {"gates": {"limits": {}, "crossed": crossed}})
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "img", "link", "iframe", "object"} & set(tags)
    assert page.row(nasty)[:3] == [nasty, "0.150", "within chance"]
    assert [nasty, "at least 2", "20.0%"] in [[" ".join(cell.split()) for cell in row] for row in page.rows]
    assert f"the PSI of {nasty!r} is 1" in page.text
    assert not re.search("x{61}|y{241}", page.text)
    assert {attrs["href"] for tag, attrs in page.tags if tag == "a"} <= {"#scores", "#columns", "#new", "#skipped"}
    assert "http://" not in page.page
    assert "https://" not in page.page


def test_a_model_without_a_profile(write: Write) -> None:
    report = changed()
    for facts in (report["score"], *report["values"].values()):
        for key in ("bins", "reference", "psi_by_chance"):
            facts.pop(key, None)
        facts["psi"] = None
    page = write(report)
    assert "The model has no profile of its training data" in prose(page)
    assert page.row("quantile") == ["quantile", "tonight"]
    assert page.row("50%") == ["50%", "0.25"]
    assert "0.75 … 1: tonight 50.0%" in page.text
    assert not re.search("[Ll]arge drift from|Bins of|nan|None", prose(page))


def test_an_empty_table_with_and_without_a_profile(write: Write) -> None:
    nothing = {"min": None, "mean": None, "max": None, "quantiles": None, "psi": None}
    values = copy.deepcopy(REPORT_MADE["values"])
    for facts in values.values():
        facts |= {"values": 0, "psi": None, "psi_by_chance": None}
        for kind in ("missing", "out_of_vocabulary"):
            if kind in facts:
                facts[kind] |= {"count": 0, "rate": None}
        if "bins" in facts:
            facts["bins"]["counts"] = [0] * len(facts["bins"]["counts"])
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


def test_only_the_largest_psis_of_many_columns_are_shown_in_full(write: Write) -> None:
    scores = {f"score_{i}": SCORE | {"psi": i / 1000} for i in range(1000)}
    base = REPORT_MADE["values"]["colour"]
    long = [{"value": "v" * 10_000, "count": 1}] * 20
    columns = {f"column_{i}": base | {"psi": i / 100, "new_values": long} for i in range(300)}
    files = [f"lake/{i}.parquet" for i in range(1000)]
    page = write(several(scores, values=columns, skipped_files=files))
    assert len(page.page) < 2_000_000
    labelled = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert labelled == [f"histogram of score_{i}" for i in range(999, 999 - PLOTS, -1)]
    assert "the figures of 994 more classes with smaller PSIs" in prose(page)
    assert page.row("column_0") == ["column_0", "0.000", "within chance", "20.0%", "10.0%", "30.0%", "5.0%"]
    shown = [i for i in range(300) if f"column_<wbr>{i}</bdi></h3>" in page.page]
    assert shown == list(range(250, 300))  # with their new values; these include the six with bins
    assert "and 250 more fields" in prose(page)
    assert "800 more are listed in _report.json" in prose(page)


def test_the_reports_of_a_refused_and_of_a_published_run(spark: SparkSession, made: Path, tmp_path: Path) -> None:
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
    notes.write_text("reviewed")
    report = score_table(spark, config(made, tmp_path / "raw", output=str(target)))
    assert list(notes.parent.iterdir()) == [notes]  # the report is deleted; other files in its folder are not
    page = Parsed((target / REPORT).read_text(encoding="utf-8"))
    assert "The scores of 60 rows are published: no gates are set." in prose(page)
    assert page.row("mean")[1] == f"{report['score']['mean']:.4g}"


def test_tasks_and_scorers_need_no_templates() -> None:
    script = (
        "import sys, nfm.scoring.tasks, nfm.scoring.local, nfm.scoring.udf, nfm.table.jobs.hosts, nfm.scoring.chunks; "
        "print('jinja2' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("score", "line", "drifted"),
    [
        ({}, "0.6000 on average, 0.1250 to 0.9375; PSI 0.310 against the valid fold: large drift", "score, fare"),
        ({"psi_by_chance": 0.4}, "…; PSI 0.310 against the valid fold: within chance for 10 rows", "fare"),
        ({"psi": 0.05}, "…; PSI 0.050 against the valid fold: within chance for 10 rows", "fare"),
        ({"psi": 0.05, "psi_by_chance": 0.01}, "…; PSI 0.050 against the valid fold: stable", "fare"),
        ({"psi": None, "reference": None}, "0.6000 on average, 0.1250 to 0.9375", "fare"),
    ],
)
def test_the_summary_describes_a_psi_like_the_page(
    tmp_path: Path, score: dict[str, Any], line: str, drifted: str
) -> None:
    lines = summary(config(tmp_path, tmp_path), changed(score=SCORE | score)).splitlines()
    assert lines[1] == f"  score     {line.replace('…', '0.6000 on average, 0.1250 to 0.9375')}"
    assert [text for text in lines if text.startswith("  drift")] == [
        f"  drift     {drifted}: far from the training data, see the report"
    ]
    assert lines[4:6] == [
        "  size                 0.0% (0.0%)                           –     0.020",
        "  colour             20.0% (10.0%)                30.0% (5.0%)     0.150",
    ]
