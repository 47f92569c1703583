"""Labels of each task: what is taken, what is refused and how, and what the dataset and the encoding hold of them."""

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
    """The labels of a table of one column, counted in two tasks; in the train fold unless told otherwise."""
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
        (pa.array(["b", "", "B", "ä", "10", "9"]), ("", "10", "9", "B", "b", "ä")),  # bytes of UTF-8
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("a", "b")),
        (pa.array([True, False]), ("false", "true")),
        (pa.array([date(2026, 11, 20), date(999, 1, 1)]), ("0999-01-01", "2026-11-20")),
    ],
    ids=str,
)
def test_classes_are_numbered_in_the_order_of_their_values(values: pa.Array, classes: tuple[str, ...]) -> None:
    assert checked("multiclass", values).classes == classes


def test_classes_are_those_of_the_train_fold_and_counted_in_each() -> None:
    found = checked("multiclass", pa.array(["b", "a", "b", "b", "a"]), ["train", "train", "train", "valid", "test"])
    assert found.rows == {"train": 3, "valid": 1, "test": 1}
    assert found.facts == {
        "column": "y",
        "task": "multiclass",
        "classes": [
            {"class": "a", "train": 1, "valid": 0, "test": 1},
            {"class": "b", "train": 2, "valid": 1, "test": 0},
        ],
    }
    assert found.positive == {"train": 0, "valid": 0, "test": 0}


def test_old_classes_keep_their_numbers() -> None:
    values, folds = pa.array([3, 1, 2, 7]), ["train", "train", "train", "test"]
    found = checked("multiclass", values, folds, old=("7", "2", "50"))
    assert (found.classes, found.classes_before) == (("7", "2", "50", "1", "3"), 3)
    # 7 is only in the test fold and 50 nowhere; both are known of old.
    assert [one["train"] for one in found.facts["classes"]] == [0, 1, 0, 1, 1]
    assert [one["test"] for one in found.facts["classes"]] == [1, 0, 0, 0, 0]


OF_MULTICLASS = "Column 'y' of lake is the label of a multiclass task, "
OF_REGRESSION = (
    "Column 'y' of lake is the label of a regression task, which takes finite numbers that 32-bit floats can hold, "
    "but holds "
)
CORRECT = " Correct them, or leave such rows out with source.where."


@pytest.mark.parametrize(
    ("task", "values", "folds", "told"),
    [
        (
            "binary",
            pa.array([0, 1, 2, 2, 3, None]),
            None,
            "Column 'y' of lake is the label of a binary task, which takes 0 and 1 (or false and true), but holds "
            f"1 null labels and 3 labels that are something else, '2' for one.{CORRECT} For other labels there are "
            "model.task: regression and multiclass.",
        ),
        ("regression", pa.array([1.0, None, None]), None, f"{OF_REGRESSION}2 null labels.{CORRECT}"),
        (
            "regression",
            pa.array([1.0, math.nan, math.inf, -math.inf, math.nan, None]),
            None,
            f"{OF_REGRESSION}1 null labels and 4 labels that are something else, 'nan' for one.{CORRECT}",
        ),
        (
            "regression",
            pa.array([3.4028235e38, -3.5e38, 0.0]),
            ["train", "test", "train"],
            f"{OF_REGRESSION}1 labels that are something else, '-3.5e+38' for one.{CORRECT}",
        ),
        (
            "regression",
            pa.array(["1", " ", "2e0"]),
            None,
            f"{OF_REGRESSION}1 labels that are something else, ' ' for one.{CORRECT}",
        ),
        ("regression", pa.array(["1", "n/a"]), None, "Column 'y' is numeric, but contains the text 'n/a'."),
        (
            "multiclass",
            pa.array(["a", None, "b", None]),
            ["train", "train", "train", "test"],
            f"{OF_MULTICLASS}which takes a text, number, boolean or date in every row, but holds 2 null labels."
            + CORRECT,
        ),
        ("multiclass", pa.array([1.0, math.nan, 2.0]), None, "but holds 1 null labels."),
        (
            "multiclass",
            pa.array(["a", "b", "x", "y", "y"]),
            ["train", "train", "valid", "test", "valid"],
            f"{OF_MULTICLASS}but 3 rows of the validation and test folds have one that the train fold does not have, "
            "'y' for one: the model would have no output for it. Leave such rows out with source.where, or change "
            "split so that the train fold has every class.",
        ),
        (
            "multiclass",
            pa.array(["a", "a", "b"]),
            ["train", "train", "test"],
            f"{OF_MULTICLASS}which takes two classes at least, but all 2 labels of the train fold are 'a'. Check "
            "columns.label, source.where and split.",
        ),
        (
            "multiclass",
            pa.array([*range(1001), 7]),
            None,
            f"{OF_MULTICLASS}which takes 1,000 classes at most, but has 1,001 different labels in the train fold, "
            "'7' for one. If it is a number to predict, that is model.task: regression; else put rare classes "
            "together in the source.",
        ),
        # More than a summary names: they are counted all the same.
        ("multiclass", pa.array([i / 7 for i in range(9000)]), None, "but has 9,000 different labels in the train"),
        (
            "multiclass",
            pa.array(["a", "b"]),
            ["test", "valid"],
            "The train fold of lake is empty: the table has 2 rows",
        ),
        ("regression", pa.array([1.0, 2.0]), ["test", "test"], "The train fold of lake is empty: the table has 2 rows"),
    ],
)
def test_wrong_labels_are_told_with_count_and_example(
    task: Task, values: pa.Array, folds: list[str] | None, told: str
) -> None:
    with pytest.raises(DataError) as refused:
        checked(task, values, folds)
    assert told in str(refused.value)
    assert refused.value.exit_code == 3


def test_a_thousand_classes_are_taken_and_growth_ends_there() -> None:
    assert len(checked("multiclass", pa.array(range(1000))).classes) == 1000
    with pytest.raises(DataError, match=r"but 2 new ones would be added to 999\. Make the features anew"):
        checked("multiclass", pa.array([5000, 5001, 1]), old=tuple(str(i) for i in range(999)))


@pytest.mark.parametrize(
    ("type_", "task", "told"),
    [
        (pa.bool_(), "regression", r"'y' of lake is bool: the label of a regression task .* model.task: binary or mul"),
        (pa.date32(), "regression", r"'y' of lake is date32\[day\]: the label of a regression"),
        (pa.timestamp("us"), "multiclass", r"'y' of lake is timestamp\[us\]: the label of a multiclass task takes a"),
        (pa.list_(pa.int32()), "binary", r"'y' of lake is list<.*>: the label of a binary task takes 0 and 1"),
    ],
)
def test_a_type_that_cannot_be_a_label(type_: pa.DataType, task: Task, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_label("y", type_, task, "lake")


def test_an_encoding_grows_by_its_own_task_only() -> None:
    check_task("multiclass", ("a", "b"), "old")
    check_task("regression", (), "old")
    with pytest.raises(DataError, match=r"its labels were the 2 classes of a multiclass task, and model\.task is"):
        check_task("binary", ("a", "b"), "old")
    with pytest.raises(DataError, match=r"its labels were no classes, and model\.task is multiclass"):
        check_task("multiclass", (), "old")


def test_facts_of_numbers_are_those_of_numpy() -> None:
    train, test = [3.0, -1.5, 3.0, 8.0, 0.0], [2.0, 4.0]
    found = checked("regression", pa.array(train + test), ["train"] * 5 + ["test"] * 2)
    facts = found.facts
    assert found.rows == {"train": 5, "valid": 0, "test": 2}
    assert (facts["mean"], facts["std"]) == (pytest.approx(np.mean(train)), pytest.approx(np.std(train)))
    assert (facts["min"], facts["median"], facts["max"]) == (-1.5, 3.0, 8.0)
    assert facts["quantiles"] == {f"{q:g}": pytest.approx(np.quantile(train, q)) for q in labels.QUANTILES}
    assert facts["histogram"]["counts"] == [1, 1, 2, 1]  # -1.5, 0, 3 twice, 8
    assert facts["by_fold"]["test"] == {"mean": 3.0, "std": 1.0, "min": 2.0, "max": 4.0}
    assert facts["by_fold"]["valid"] is None


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
    """The dataset's rows in the order of their keys, with their folds."""
    parts = [
        pq.ParquetFile(path).read().to_pandas().assign(fold=path.parent.name.removeprefix("fold="))
        for path in (workdir / "dataset").glob("fold=*/*.parquet")
    ]
    rows: pd.DataFrame = pd.concat(parts).sort_values("id", ignore_index=True)
    return rows


def test_multiclass_by_both_scans(spark: SparkSession, tmp_path: Path) -> None:
    values = [[2, 10, -1, 10][i % 4] for i in range(48)]
    raw = write_raw(tmp_path / "raw", pa.array(values, pa.int16()))
    told = {}
    for scan in ("parquet", "spark"):
        settings = config(tmp_path / scan, tmp_path / "raw", "multiclass", {"column": "fold"}, scan)
        prepared = prepare(spark, settings)
        assert "label     y, multiclass" in plan(settings, prepared)
        told[scan] = build(spark, settings, prepared)
        rows, spec = dataset(tmp_path / scan), Encoding.load(tmp_path / scan / "encoding").spec
        assert spec.classes == ("-1", "2", "10")
        assert rows["label"].dtype == np.float32
        assert rows["label"].tolist() == raw["y"].map({-1: 0, 2: 1, 10: 2}).tolist()
        assert rows["fold"].tolist() == raw["fold"].tolist()
        assert told[scan] == json.loads((tmp_path / scan / "encoding/statistics.json").read_text())
        text = summary(settings, told[scan])
        assert "y is most often 10, in 50.0%" in text
        assert "3 of y" in text
    counted = raw.groupby(["y", "fold"]).size()
    assert told["parquet"]["label"]["classes"] == [
        {"class": str(value), **{fold: int(counted[value, fold]) for fold in FOLDS}} for value in (-1, 2, 10)
    ]
    assert told["parquet"]["fingerprint"] == told["spark"]["fingerprint"]
    assert told["parquet"]["label"] == told["spark"]["label"]
    assert told["parquet"]["fields"]["c"]["auc"] is None
    page = (tmp_path / "parquet/encoding/report.html").read_text()
    assert "AUC" not in page
    assert '<section id="label">' in page


def test_regression_by_both_scans(spark: SparkSession, tmp_path: Path) -> None:
    values = [0.1 * (i % 16) - 0.5 for i in range(48)]
    raw = write_raw(tmp_path / "raw", pa.array(values))
    split = {"valid": 0.2, "test": 0.2, "seed": 2}
    told = {}
    for scan in ("parquet", "spark"):
        settings = config(tmp_path / scan, tmp_path / "raw", "regression", split, scan)
        told[scan] = build(spark, settings)
        rows = dataset(tmp_path / scan)
        assert rows["label"].tolist() == raw["y"].astype(np.float32).tolist()
        assert Encoding.load(tmp_path / scan / "encoding").spec.classes == ()
        for fold, mine in rows.groupby("fold"):
            y = raw["y"][mine.index]
            facts = told[scan]["label"]["by_fold"][fold]
            assert (facts["mean"], facts["std"]) == (pytest.approx(y.mean()), pytest.approx(y.std(ddof=0)))
            assert f"y {y.mean():.4g} ± {y.std(ddof=0):.4g}" in summary(settings, told[scan])
    assert told["parquet"]["label"] == told["spark"]["label"]
    assert told["parquet"]["rows"] == told["spark"]["rows"]
    page = (tmp_path / "spark/encoding/report.html").read_text()
    assert "AUC" not in page
    assert page.count("<svg") == 2  # the label's histogram, and the one of x


def test_classes_grow(spark: SparkSession, tmp_path: Path) -> None:
    split = {"time": "day", "valid_from": "2026-01-15", "test_from": "2026-01-22"}
    write_raw(tmp_path / "monday", pa.array([["b", "d"][i % 2] for i in range(28)]))
    build(spark, config(tmp_path / "one", tmp_path / "monday", "multiclass", split))
    raw = write_raw(tmp_path / "tuesday", pa.array([["d", "c", "a", "d"][i % 4] for i in range(28)]))
    settings = config(tmp_path / "two", tmp_path / "tuesday", "multiclass", split)
    growth = Growth(tmp_path / "one/encoding", False)
    told = build(spark, settings, prepare(spark, settings, growth))
    spec = Encoding.load(tmp_path / "two/encoding").spec
    assert spec.classes == ("b", "d", "a", "c")  # b has vanished, and keeps its number
    assert dataset(tmp_path / "two")["label"].tolist() == raw["y"].map({"b": 0, "d": 1, "a": 2, "c": 3}).tolist()
    assert told["grown"]["classes"] == {"before": 2, "added": ["a", "c"]}
    assert told["label"]["classes"][0] == {"class": "b", "train": 0, "valid": 0, "test": 0}
    assert "y: 2 classes added to 2: a, c" in summary(settings, told)
    assert "2 classes of y were added to 2" in (tmp_path / "two/encoding/report.html").read_text()

    binary = config(tmp_path / "three", tmp_path / "tuesday", "binary", split)
    with pytest.raises(DataError, match=r"its labels were the 4 classes of a multiclass task, and model\.task is"):
        prepare(spark, binary, Growth(tmp_path / "two/encoding", False))


def test_wrong_labels_write_nothing(spark: SparkSession, tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", pa.array([None if i == 7 else math.inf if i == 30 else 0.5 for i in range(48)]))
    with pytest.raises(DataError, match="holds 1 null labels and 1 labels that are something else, 'inf' for one"):
        build(spark, config(tmp_path, tmp_path / "raw", "regression", {"column": "fold"}))
    assert not (tmp_path / "dataset").exists()
    assert not (tmp_path / "encoding").exists()


def test_a_class_that_appears_between_the_passes_is_told() -> None:
    label = Label("y", "text", "multiclass")
    read = labels.read(pa.record_batch({"y": ["a", "b"]}), label)
    assert labels.encode(read, label, ("b", "a")).tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="the table changed while it was read"):
        labels.encode(read, label, ("a",))
