"""Labels of each model task: which are accepted or refused, and how dataset, encoding and statistics represent them."""

import json
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features import labels
from nfm.features.count import count_rows, group_parts, pack_counts
from nfm.features.dataset import Growth, build, prepare
from nfm.features.labels import Label, Labels, Task, check_task, open_label
from nfm.features.split import Split
from nfm.features.summary import plan, summary
from nfm.features.sums import read_cells, sum_packets, summarize

BY_COLUMN = Split((), 0.0, 0.0, 1, None, None, None, "fold", 1.0, ("id",))
FOLDS = ["train", "valid", "test"]


def checked(task: Task, values: pa.Array, folds: list[str] | None = None, old: tuple[str, ...] = ()) -> Labels:
    """Check the labels of a table, counted in two tasks; all rows are in the train fold unless `folds` are given."""
    label = open_label("y", values.type, task, "lake")
    batch = pa.RecordBatch.from_arrays([values, pa.array(folds or ["train"] * len(values))], ["y", "fold"])
    half = len(batch) // 2
    packets = [
        packet
        for part in (batch.slice(0, half), batch.slice(half))
        for packet in pack_counts(count_rows([part], label, [], BY_COLUMN), group_parts(0, []), 1)
    ]
    counts = pa.Table.from_batches(summarize(list(sum_packets(packets))))
    is_cell = pc.is_valid(counts["cell"])
    cells = read_cells(counts.filter(is_cell).to_batches())
    return labels.check(label, counts.filter(pc.invert(is_cell)), cells.get(0), old, "lake")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array([10, 9, -1, 9]), ("-1", "9", "10")),
        (pa.array([0.5, -0.0, 3.0, -2.25]), ("-2.25", "0", "0.5", "3")),
        (pa.array([Decimal("10.00"), Decimal("9.50"), Decimal("-0.10")]), ("-0.1", "9.5", "10")),
        (pa.array(["b", "", "B", "ä", "10", "9"]), ("", "10", "9", "B", "b", "ä")),  # in the order of UTF-8 bytes
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array([True, False]), ("false", "true")),
        (pa.array([date(2026, 11, 20), date(999, 1, 1)]), ("0999-01-01", "2026-11-20")),
    ],
    ids=str,
)
def test_classes_are_numbered_in_the_order_of_their_values(values: pa.Array, classes: tuple[str, ...]) -> None:
    assert checked("multiclass", values).classes == classes


def test_classes_come_from_the_train_fold_and_are_counted_in_each_fold() -> None:
    result = checked("multiclass", pa.array(["b", "a", "b", "b", "a"]), ["train", "train", "train", "valid", "test"])
    assert result.rows == {"train": 3, "valid": 1, "test": 1}
    assert result.facts == {
        "column": "y",
        "task": "multiclass",
        "classes": [
            {"class": "a", "train": 1, "valid": 0, "test": 1},
            {"class": "b", "train": 2, "valid": 1, "test": 0},
        ],
    }
    assert result.positive == {"train": 0, "valid": 0, "test": 0}


def test_old_classes_keep_their_numbers() -> None:
    values, folds = pa.array([3, 1, 2, 7]), ["train", "train", "train", "test"]
    result = checked("multiclass", values, folds, old=("7", "2", "50"))
    assert (result.classes, result.classes_before) == (("7", "2", "50", "1", "3"), 3)
    # 7 is only in the test fold, and 50 is not in this table; both are older classes.
    assert [facts["train"] for facts in result.facts["classes"]] == [0, 1, 0, 1, 1]
    assert [facts["test"] for facts in result.facts["classes"]] == [1, 0, 0, 0, 0]


MULTICLASS = "Column 'y' of lake is the label of a multiclass task, "
REGRESSION = (
    "Column 'y' of lake is the label of a regression task, which must be a finite number in the range of 32-bit "
    "floats, but it has "
)
CORRECT = " Correct them, or leave such rows out with source.where."


@pytest.mark.parametrize(
    ("task", "values", "folds", "message"),
    [
        (
            "binary",
            pa.array([0, 1, 2, 2, 3, None]),
            None,
            "Column 'y' of lake is the label of a binary task, which must be 0 or 1 (or false or true), but it has "
            f"1 null labels and 3 other labels, for example '2'.{CORRECT} For other labels, set model.task: regression "
            "or multiclass.",
        ),
        (
            "binary",
            pa.array(["no", "no", "1", "0", "2", None]),
            None,
            "Column 'y' of lake is the label of a binary task, which must be 0 or 1 (or false or true), but it has "
            f"1 null labels and 3 other labels, for example 'no'.{CORRECT} For other labels, set model.task: "
            "multiclass.",
        ),
        ("regression", pa.array([1.0, None, None]), None, f"{REGRESSION}2 null labels.{CORRECT}"),
        (
            "regression",
            pa.array([1.0, math.nan, math.inf, -math.inf, math.nan, None]),
            None,
            f"{REGRESSION}1 null labels and 4 other labels, for example 'nan'.{CORRECT}",
        ),
        (
            "regression",
            pa.array([3.4028235e38, -3.5e38, 0.0]),
            ["train", "test", "train"],
            f"{REGRESSION}1 other labels, for example '-3.5e+38'.{CORRECT}",
        ),
        (
            "regression",
            pa.array(["1", " ", "2e0"]),
            None,
            f"{REGRESSION}1 other labels, for example ' '.{CORRECT}",
        ),
        ("regression", pa.array(["1", "n/a"]), None, "Column 'y' is numeric, but contains the text 'n/a'."),
        (
            "multiclass",
            pa.array(["a", None, "b", None]),
            ["train", "train", "train", "test"],
            f"{MULTICLASS}which must be a text, number, boolean or date in every row, but it has 2 null labels."
            + CORRECT,
        ),
        ("multiclass", pa.array([1.0, math.nan, 2.0]), None, "but it has 1 null labels."),
        (
            "multiclass",
            pa.array(["a", "b", "x", "y", "y"]),
            ["train", "train", "valid", "test", "valid"],
            f"{MULTICLASS}but 3 rows of the valid and test folds have labels that the train fold does not have, for "
            "example 'y': the model would have no output for them. Leave such rows out with source.where, or change "
            "split so that the train fold has every class.",
        ),
        (
            "multiclass",
            pa.array(["a", "a", "b"]),
            ["train", "train", "test"],
            f"{MULTICLASS}which must have at least two classes, but all 2 labels of the train fold are 'a'. Check "
            "columns.label, source.where and split.",
        ),
        (
            "multiclass",
            pa.array([*range(1001), 7]),
            None,
            f"{MULTICLASS}which may have at most 1,000 classes, but it has 1,001 different labels in the train fold, "
            "for example '7'. If the label is a number to predict, set model.task: regression; otherwise merge rare "
            "classes in the source.",
        ),
        # The summary does not list all of them, but counts them.
        ("multiclass", pa.array([i / 7 for i in range(9000)]), None, "but it has 9,000 different labels in the train"),
        (
            "multiclass",
            pa.array(["a", "b"]),
            ["test", "valid"],
            "The train fold of lake is empty: the table has 2 rows",
        ),
        ("regression", pa.array([1.0, 2.0]), ["test", "test"], "The train fold of lake is empty: the table has 2 rows"),
    ],
)
def test_errors_about_invalid_labels_have_count_and_example(
    task: Task, values: pa.Array, folds: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError) as error:
        checked(task, values, folds)
    assert message in str(error.value)
    assert error.value.exit_code == 3


def test_at_most_a_thousand_classes_also_after_growth() -> None:
    assert len(checked("multiclass", pa.array(range(1000))).classes) == 1000
    with pytest.raises(DataError, match=r"but 2 new classes would be added to 999\. Run the feature job without"):
        checked("multiclass", pa.array([5000, 5001, 1]), old=tuple(str(i) for i in range(999)))


@pytest.mark.parametrize(
    ("type_", "task", "message"),
    [
        (pa.bool_(), "regression", r"'y' of lake is bool: the label of a regression task .* model.task: binary or mul"),
        (pa.date32(), "regression", r"'y' of lake is date32\[day\]: the label of a regression"),
        (pa.timestamp("us"), "multiclass", r"'y' of lake is timestamp\[us\]: the label of a multiclass task must be a"),
        (pa.list_(pa.int32()), "binary", r"'y' of lake is list<.*>: the label of a binary task must be 0 or 1"),
    ],
)
def test_a_type_that_cannot_be_a_label(type_: pa.DataType, task: Task, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_label("y", type_, task, "lake")


def test_an_encoding_grows_only_with_the_same_task() -> None:
    check_task("multiclass", ("a", "b"), "old")
    check_task("regression", (), "old")
    with pytest.raises(DataError, match=r"it has the 2 classes of a multiclass task, and model\.task is"):
        check_task("binary", ("a", "b"), "old")
    with pytest.raises(DataError, match=r"it has no classes, and model\.task is multiclass"):
        check_task("multiclass", (), "old")


def test_statistics_of_numbers_equal_those_of_numpy() -> None:
    train, test = [3.0, -1.5, 3.0, 8.0, 0.0], [2.0, 4.0]
    result = checked("regression", pa.array(train + test), ["train"] * 5 + ["test"] * 2)
    facts = result.facts
    assert result.rows == {"train": 5, "valid": 0, "test": 2}
    assert (facts["mean"], facts["std"]) == (pytest.approx(np.mean(train)), pytest.approx(np.std(train)))
    assert (facts["min"], facts["median"], facts["max"]) == (-1.5, 3.0, 8.0)
    assert facts["quantiles"] == {f"{q:g}": pytest.approx(np.quantile(train, q)) for q in labels.QUANTILES}
    assert facts["histogram"]["counts"] == [1, 1, 2, 1]  # -1.5, 0, 3 twice, 8
    assert facts["by_fold"]["test"] == {"mean": 3.0, "std": 1.0, "min": 2.0, "max": 4.0}
    assert facts["by_fold"]["valid"] is None


def test_labels_whose_differences_float32_loses_are_refused() -> None:
    far = pa.array([1e9 - 1, 1e9 + 1, 1e9 - 1, 1e9 + 1])
    with pytest.raises(DataError, match=r"'y' of lake is the label; its rows of the train fold have the mean 1e") as e:
        checked("regression", far)
    assert "and the standard deviation 1, but near this mean 32-bit floats have steps of 64" in str(e.value)
    assert "the deviation must be at least 3.84e+03. Subtract a constant such as 1e+09 from the label" in str(e.value)
    with pytest.raises(DataError, match="near this mean 32-bit floats have steps of 64"):
        checked("regression", pa.array([1e9 - 3800, 1e9 + 3800]))
    for enough in ([1e9 - 3900, 1e9 + 3900], [1e9, 1e9], [1e-9, 2e-9], [5.0, 5.0], [-1e12, 1e12], [0.0, 2e-36]):
        assert checked("regression", pa.array(enough)).rows["train"] == 2


@pytest.mark.parametrize("size", [1e-37, 1e-42, 1e-50, 1e-300, 5e-324])
def test_labels_that_are_too_small_for_float32_are_refused(size: float) -> None:
    with pytest.raises(
        DataError, match=r"but 32-bit floats below 1\.18e-38 have fewer digits.* Multiply the label by a"
    ):
        checked("regression", pa.array([size, 3 * size, -size]))
    assert checked("regression", pa.array([size, size])).rows["train"] == 2  # a constant


# The whole job


def config(workdir: Path, path: Path, task: str, split: dict[str, Any], scan: str = "auto") -> Config:
    content = {
        "name": "labels",
        "workdir": str(workdir),
        "source": {"path": str(path), "scan": scan},
        "columns": {"key": ("id",), "label": "y", "categorical": {"c": {}}, "numeric": {"x": {}}},
        "split": split,
        "model": {"task": task},
    }
    return Config.model_validate(content)


def write_raw(path: Path, y: pa.Array, folds: list[str] | None = None) -> pd.DataFrame:
    n = len(y)
    table = pa.table(
        {
            "id": list(range(n)),
            "y": y,
            "c": [["a", "b", None][i % 3] for i in range(n)],
            "x": [None if i % 5 == 0 else i / 4 for i in range(n)],
            "fold": folds or [FOLDS[i % 3] for i in range(n)],
            "day": [date(2026, 1, 1 + i % 28) for i in range(n)],
        }
    )
    path.mkdir(parents=True)
    for i in range(2):
        pq.write_table(table.slice(i * n // 2, (i + 1) * n // 2 - i * n // 2), path / f"{i}.parquet", row_group_size=9)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def dataset(workdir: Path) -> pd.DataFrame:
    """Return the dataset's rows in the order of their keys, with their folds."""
    files = [
        pq.ParquetFile(path).read().to_pandas().assign(fold=path.parent.name.removeprefix("fold="))
        for path in (workdir / "dataset").glob("fold=*/*.parquet")
    ]
    rows: pd.DataFrame = pd.concat(files).sort_values("id", ignore_index=True)
    return rows


def test_multiclass_with_both_scan_methods(spark: SparkSession, tmp_path: Path) -> None:
    values = [[2, 10, -1, 10][i % 4] for i in range(48)]
    raw = write_raw(tmp_path / "raw", pa.array(values, pa.int16()))
    statistics = {}
    for scan in ("parquet", "spark"):
        settings = config(tmp_path / scan, tmp_path / "raw", "multiclass", {"column": "fold"}, scan)
        prepared = prepare(spark, settings)
        assert "label     y, multiclass" in plan(settings, prepared)
        statistics[scan] = build(spark, settings, prepared)
        rows, spec = dataset(tmp_path / scan), Encoding.load(tmp_path / scan / "encoding").spec
        assert spec.classes == ("-1", "2", "10")
        assert rows["label"].dtype == np.float32
        assert rows["label"].tolist() == raw["y"].map({-1: 0, 2: 1, 10: 2}).tolist()
        assert rows["fold"].tolist() == raw["fold"].tolist()
        assert statistics[scan] == json.loads((tmp_path / scan / "encoding/statistics.json").read_text())
        text = summary(settings, statistics[scan])
        assert "y is most often 10, in 50.0%" in text
        assert "3 of y" in text
    counted = raw.groupby(["y", "fold"]).size()
    assert statistics["parquet"]["label"]["classes"] == [
        {"class": str(value), **{fold: int(counted[value, fold]) for fold in FOLDS}} for value in (-1, 2, 10)
    ]
    assert statistics["parquet"]["fingerprint"] == statistics["spark"]["fingerprint"]
    assert statistics["parquet"]["label"] == statistics["spark"]["label"]
    assert statistics["parquet"]["fields"]["c"]["auc"] is None
    page = (tmp_path / "parquet/encoding/report.html").read_text()
    assert "AUC" not in page
    assert '<section id="label">' in page


def test_regression_with_both_scan_methods(spark: SparkSession, tmp_path: Path) -> None:
    values = [0.1 * (i % 16) - 0.5 for i in range(48)]
    raw = write_raw(tmp_path / "raw", pa.array(values))
    split = {"valid": 0.2, "test": 0.2, "seed": 2}
    statistics = {}
    for scan in ("parquet", "spark"):
        settings = config(tmp_path / scan, tmp_path / "raw", "regression", split, scan)
        statistics[scan] = build(spark, settings)
        rows = dataset(tmp_path / scan)
        assert rows["label"].tolist() == raw["y"].astype(np.float32).tolist()
        assert Encoding.load(tmp_path / scan / "encoding").spec.classes == ()
        for fold, fold_rows in rows.groupby("fold"):
            y = raw["y"][fold_rows.index]
            facts = statistics[scan]["label"]["by_fold"][fold]
            assert (facts["mean"], facts["std"]) == (pytest.approx(y.mean()), pytest.approx(y.std(ddof=0)))
            assert f"y {y.mean():.4g} ± {y.std(ddof=0):.4g}" in summary(settings, statistics[scan])
    assert statistics["parquet"]["label"] == statistics["spark"]["label"]
    assert statistics["parquet"]["rows"] == statistics["spark"]["rows"]
    page = (tmp_path / "spark/encoding/report.html").read_text()
    assert "AUC" not in page
    assert page.count("<svg") == 2  # histograms of the label and of x


def test_classes_grow(spark: SparkSession, tmp_path: Path) -> None:
    split = {"time": "day", "valid_from": "2026-01-15", "test_from": "2026-01-22"}
    write_raw(tmp_path / "monday", pa.array([["b", "d"][i % 2] for i in range(28)]))
    build(spark, config(tmp_path / "one", tmp_path / "monday", "multiclass", split))
    raw = write_raw(tmp_path / "tuesday", pa.array([["d", "c", "a", "d"][i % 4] for i in range(28)]))
    settings = config(tmp_path / "two", tmp_path / "tuesday", "multiclass", split)
    growth = Growth(tmp_path / "one/encoding", False)
    statistics = build(spark, settings, prepare(spark, settings, growth))
    spec = Encoding.load(tmp_path / "two/encoding").spec
    assert spec.classes == ("b", "d", "a", "c")  # b is not in the new table, and keeps its number
    assert dataset(tmp_path / "two")["label"].tolist() == raw["y"].map({"b": 0, "d": 1, "a": 2, "c": 3}).tolist()
    assert statistics["grown"]["classes"] == {"before": 2, "added": ["a", "c"]}
    assert statistics["label"]["classes"][0] == {"class": "b", "train": 0, "valid": 0, "test": 0}
    assert "y: 2 classes added to 2: a, c" in summary(settings, statistics)
    assert "2 classes of y were added to 2" in (tmp_path / "two/encoding/report.html").read_text()

    binary = config(tmp_path / "three", tmp_path / "tuesday", "binary", split)
    with pytest.raises(DataError, match=r"it has the 4 classes of a multiclass task, and model\.task is"):
        prepare(spark, binary, Growth(tmp_path / "two/encoding", False))


def test_nothing_is_written_for_invalid_labels(spark: SparkSession, tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", pa.array([None if i == 7 else math.inf if i == 30 else 0.5 for i in range(48)]))
    with pytest.raises(DataError, match="it has 1 null labels and 1 other labels, for example 'inf'"):
        build(spark, config(tmp_path, tmp_path / "raw", "regression", {"column": "fold"}))
    assert not (tmp_path / "dataset").exists()
    assert not (tmp_path / "encoding").exists()


def test_a_class_that_appears_between_the_passes_is_an_error() -> None:
    label = Label("y", "text", "multiclass")
    read = labels.read(pa.record_batch({"y": ["a", "b"]}), label)
    assert labels.encode(read, label, ("b", "a")).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="the table changed while it was read"):
        labels.encode(read, label, ("a",))
