"""The report shows the statistics as escaped text, and needs no other file."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import findings
from nfm.features.report.page import group_findings, write
from tests.parsed import Parsed

Page = Callable[[dict[str, Any]], Parsed]
ROWS = {"train": 7000, "valid": 1000, "test": 2000}


def folds(train: Any, valid: Any, test: Any) -> dict[str, Any]:
    return dict(zip(FOLDS, (train, valid, test), strict=True))


STATISTICS: dict[str, Any] = {
    "name": "ads",
    "source": "lake/ads",
    "created": "2026-10-11T02:14:09+02:00",
    "fingerprint": "9f1c2b7a",
    "scan": "parquet: its files are Parquet",
    "rows": ROWS,
    "left_out": 0,
    "negative_rate": 1.0,
    "label": {
        "column": "clicked",
        "task": "binary",
        "positive": folds(210, 31, 59),
        "rate": folds(0.03, 0.031, 0.0295),
    },
    "fields": {
        "device": {
            "columns": ["device"],
            "form": "vocabulary",
            "vocabulary": 3,
            "values": ROWS,
            "distinct": {**folds(4, 3, 5), "table": 6},
            "missing": folds(70, 11, 2),
            "out_of_vocabulary": folds(1, 7, 13),
            "coverage": folds(0.99986, 0.9929, 0.9935),
            "top": [["phone", 4200], ["tv", 1400], ["", 700], ["  ", 7]],
            "auc": 0.6125,
        },
        "site": {
            "columns": ["site_id"],
            "form": "hashed",
            "vocabulary": 0,
            "values": ROWS,
            "distinct": None,
            "missing": folds(0, 0, 0),
            "out_of_vocabulary": folds(0, 0, 0),
            "coverage": folds(1.0, 1.0, 1.0),
            "top": [],
            "auc": None,
        },
        "pair": {
            "columns": ["device", "country"],
            "form": "cross",
            "vocabulary": 12345,
            "values": ROWS,
            "distinct": {**folds(3000, 900, 1800), "table": 3579},
            "missing": folds(0, 0, 0),
            "out_of_vocabulary": folds(700, 300, 600),
            "coverage": folds(0.9, 0.7, 0.7),
            "top": [["phone × DE", 70]],
            "auc": 0.7,
        },
    },
    "numbers": {
        "bid": {
            "missing": folds(3500, 500, 1000),
            "mean": 1.5,
            "std": 0.25,
            "min": -12.5,
            "median": 1.25,
            "max": 1234567.0,
            "histogram": {"edges": [1.0, 10.0, 100.0, 10000.0], "counts": [5, 0, 10]},
            "log": True,
            "exact": False,
            "auc": 0.55,
        },
        "hour": {"missing": folds(7000, 1000, 2000), "histogram": None, "log": False, "exact": True, "buckets": 4}
        | {"auc": None},
    },
    "skipped_files": [],
    "bad_rows": 0,
    "findings": [],
    "grown": None,
}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    def written(statistics: dict[str, Any]) -> Parsed:
        write(tmp_path / "report.html", statistics)
        return Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))

    return written


def changed(**others: Any) -> dict[str, Any]:
    return copy.deepcopy(STATISTICS) | others


def test_header(page: Page) -> None:
    text = page(STATISTICS).text
    for shown in ("ads", "lake/ads", "created 2026-10-11 00:14 UTC", "9f1c2b7a", "10,000", "7,000 in the train fold"):
        assert shown in text
    assert "Scan method: parquet: its files are Parquet." in text


def test_folds(page: Page) -> None:
    parsed = page(STATISTICS)
    assert parsed.row("train") == ["train", "7,000", "70.0%", "210", "3.00%"]
    assert parsed.row("valid") == ["valid", "1,000", "10.0%", "31", "3.10%"]
    assert parsed.row("all") == ["all", "10,000", "", "300", "3.00%"]
    assert "split.negative_rate" not in parsed.text


def test_left_out_negatives(page: Page) -> None:
    text = page(changed(left_out=1234, negative_rate=0.25)).text
    assert "keeps 25.0% of the rows with label 0 in the train fold: 1,234 rows were left out" in text


def test_fields(page: Page) -> None:
    parsed = page(STATISTICS)
    device = ["device", "0.613", "3", "4", "3", "5", "6", ">99.9%", "99.3%", "99.4%", "1.0%", "1.1%", "0.1%"]
    assert parsed.row("device") == device
    assert parsed.row("site") == ["site", "–", *["–"] * 8, "0.0%", "0.0%", "0.0%"]
    assert parsed.row("pair")[:6] == ["pair", "0.700", "12,345", "3,000", "900", "1,800"]
    assert "cross of device × country" in parsed.text
    assert "hashed of site_id" in parsed.text


def test_top_values(page: Page) -> None:
    parsed = page(STATISTICS)
    assert parsed.row("phone") == ["phone", "4,200", "60.0%"]
    assert parsed.row("empty string") == ["empty string", "700", "10.0%"]
    assert parsed.row("only spaces") == ["only spaces", "7", "0.1%"]
    assert "phone 60.0% · tv 20.0% · empty string 10.0% …" in " ".join(parsed.text.split())


def test_long_values_are_cut(page: Page) -> None:
    statistics = changed()
    statistics["fields"]["device"]["top"] = [["x" * 5000, 1]]
    assert "x" * 61 not in page(statistics).page


def test_numbers(page: Page) -> None:
    parsed = page(STATISTICS)
    bid = parsed.row("bid")
    assert bid[:2] == ["bid", "0.550"]
    assert bid[2] == "1 … 10: 5100 … 10,000: 10 1log10,000"  # the title of each bar, then the ends of the axis
    assert bid[3:] == ["50.0%", "50.0%", "50.0%", "1.5", "0.25", "-12.5", "≈ 1.25", "1,234,567"]
    assert parsed.row("hour4 buckets") == ["hour4 buckets", "–", "–", *["100.0%"] * 3, *["–"] * 5]
    assert "≈ marks a number" in parsed.text


def test_fields_with_the_highest_auc_come_first(page: Page) -> None:
    text = page(STATISTICS).page
    assert text.index(">pair<") < text.index(">device<") < text.index(">site<")


def test_no_findings(page: Page) -> None:
    assert "No problems found" in page(STATISTICS).text


def test_findings_come_first_and_flag_their_fields(page: Page) -> None:
    found = findings(STATISTICS, ["id"], "clicked")
    assert {finding["kind"] for finding in found} == {"unseen", "nearly all missing"}
    parsed = page(changed(findings=found))
    text = " ".join(parsed.text.split())
    for finding in found:
        assert f"{finding['about']} {finding['text']}" in text
    assert "none serious" in text
    assert text.index(found[0]["text"]) < text.index("label rate")
    assert sum(tag == "a" and attrs.get("class") == "flag" for tag, attrs in parsed.tags) == 2


def test_many_findings_of_a_kind_are_collapsed(page: Page) -> None:
    found = [{"about": f"f{i}", "kind": "missing", "text": f"Missing, {i}."} for i in range(6)]
    collapsed = page(changed(findings=found, fields={}))
    assert "6 are missing in most rows: f0, f1, f2, f3, f4, f5" in " ".join(collapsed.text.split())
    assert sum(tag == "details" for tag, _ in collapsed.tags) == 1
    assert not any(tag == "details" for tag, _ in page(changed(findings=found[:5], fields={})).tags)


def test_groups_of_findings() -> None:
    found = [{"about": a, "kind": k, "text": ""} for a, k in (("a", "missing"), ("b", "unique"), ("c", "leak"))]
    assert [(group["kind"], group["serious"]) for group in group_findings([*found, found[0]])] == [
        ("leak", True),
        ("unique", True),
        ("missing", False),
    ]


def test_growth(page: Page) -> None:
    facts = {"added": 2211, "before": 57789, "coverage_before": 0.853, "coverage_after": None}
    assert not page(STATISTICS).section("growth")
    parsed = page(changed(grown={"from": "11aa22", "fields": {"device": facts}}, fields={}))
    assert "11aa22" in parsed.text
    assert parsed.row("device") == ["device", "57,789", "+2,211", "60,000", "85.3%", "–"]
    assert page(changed(grown={"from": "11aa22", "fields": {}})).section("growth")


def test_skipped_files(page: Page) -> None:
    assert not page(STATISTICS).section("skipped")
    one = page(changed(skipped_files=["raw/a.parquet"]))
    assert "1 file could not be read; its rows are not counted" in one.text
    assert "raw/a.parquet" in one.text
    many = page(changed(skipped_files=[f"raw/{i}.parquet" for i in range(30)]))
    assert "raw/19.parquet" in many.text
    assert "raw/20.parquet" not in many.text
    assert "10 more are listed in statistics.json" in many.text


def test_a_path_that_is_not_valid_utf8(page: Page) -> None:
    assert "raw/\\udcff.parquet" in page(changed(skipped_files=["raw/\udcff.parquet"])).text


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def test_every_text_is_escaped(page: Page) -> None:
    evil = "<script>alert('1')</script>&amp;\"x"
    statistics = changed(
        name=evil,
        source=evil,
        scan=evil,
        fingerprint=evil,
        skipped_files=[evil],
        findings=[{"about": evil, "kind": kind, "text": evil} for kind in ("missing", *["leak"] * 6)],
        grown={"from": evil, "fields": {evil: {"added": 1, "before": 1, "coverage_before": 1, "coverage_after": 1}}},
    )
    statistics["label"]["column"] = evil
    device, bid = statistics["fields"].pop("device"), statistics["numbers"].pop("bid")
    statistics["fields"][evil] = device | {"columns": [evil, evil], "form": evil, "top": [[evil, 1]]}
    statistics["numbers"][evil] = bid
    parsed = page(statistics)
    assert not any(tag == "script" for tag, _ in parsed.tags)
    allowed = {"meta", "a", "th", "td", "tr", "div", "section", "h3", "ul", "li", "table", "colgroup", "code"}
    assert {tag for tag, _ in parsed.tags} - allowed <= {
        *("html", "head", "title", "style", "body", "main", "header", "h1", "h2", "p", "b", "span", "nav"),
        *("details", "summary", "thead", "tbody", "tfoot", "bdi", "i", "br", "wbr", "svg", "rect", "path", "text"),
    }
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert parsed.text.count(evil) >= 15


def test_the_page_needs_no_other_file(page: Page) -> None:
    parsed = page(STATISTICS)
    links = [attrs["href"] for tag, attrs in parsed.tags if "href" in attrs]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not any("src" in attrs for _, attrs in parsed.tags)
    assert "url(" not in parsed.page
    assert "default-src 'none'" in parsed.page


def test_links_have_targets(page: Page) -> None:
    for statistics in (STATISTICS, changed(fields={}, numbers={}, findings=[], skipped_files=["a"])):
        parsed = page(statistics)
        ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        assert {attrs["href"] for tag, attrs in parsed.tags if tag == "a"} == {f"#{id_}" for id_ in ids}


def test_the_same_statistics_make_the_same_page(page: Page) -> None:
    assert page(STATISTICS).page == page(changed()).page


def test_a_fold_without_rows(page: Page) -> None:
    label = {"column": "clicked", "task": "binary", "positive": folds(0, 0, 0), "rate": folds(0.0, None, None)}
    statistics = changed(rows=folds(7000, 0, 0), label=label)
    device = statistics["fields"]["device"]
    for facts in (device["missing"], device["out_of_vocabulary"], device["distinct"]):
        facts |= {"valid": 0, "test": 0}
    device |= {"values": folds(7000, 0, 0), "coverage": folds(0.999, None, None), "auc": None}
    parsed = page(statistics)
    assert parsed.row("valid") == ["valid", "0", "0.0%", "0", "–"]
    assert parsed.row("device")[7:13] == ["99.9%", "–", "–", "1.0%", "–", "–"]


def test_no_fields_and_no_numbers(page: Page) -> None:
    parsed = page(changed(fields={}, numbers={}))
    assert not parsed.section("fields")
    assert not parsed.section("numbers")
    assert "0 + 0" in parsed.text


def test_an_empty_vocabulary(page: Page) -> None:
    statistics = changed()
    statistics["fields"]["device"] |= {
        "vocabulary": 0,
        "distinct": {**folds(0, 0, 0), "table": 0},
        "missing": ROWS,
        "out_of_vocabulary": folds(0, 0, 0),
        "coverage": folds(None, None, None),
        "top": [],
        "auc": None,
    }
    assert page(statistics).row("device")[1:10] == ["–", "0", "0", "0", "0", "0", "–", "–", "–"]


def test_values_need_not_be_texts(page: Page) -> None:
    statistics = changed()
    statistics["fields"]["device"]["top"] = [[3, 70], [True, 7]]
    parsed = page(statistics)
    assert parsed.row("3") == ["3", "70", "1.0%"]
    assert parsed.row("True") == ["True", "7", "0.1%"]


def test_optional_statistics(page: Page) -> None:
    optional = ("left_out", "skipped_files", "findings", "grown", "created")
    parsed = page({key: value for key, value in STATISTICS.items() if key not in optional})
    assert "created" not in parsed.text
