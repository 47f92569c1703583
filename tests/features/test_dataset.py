"""The feature job on a real Spark session: the dataset equals one computed row by row in plain Python."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import build
from nfm.features.summary import summary
from tests.features.examples import ROWS, SCHEMA, by_key, config, dataset_rows


def test_the_dataset_equals_one_computed_in_plain_python(built: Path, statistics: Mapping[str, Any]) -> None:
    rows = dataset_rows(built / "dataset")
    assert len(rows) == len(ROWS)
    assert Counter(row["fold"] for row in rows) == {k: v for k, v in statistics["rows"].items() if v}
    fold = {row["id"]: row["fold"] for row in rows}

    # The expected encoding, in plain Python from the rows of the train fold.
    train = [row for row in ROWS if fold[row[0]] == "train"]
    colours = Counter(row[1] for row in train if row[1] is not None)
    sizes = Counter(str(row[2]) for row in train if row[2] is not None)
    colour_ids = {v: 2 + i for i, (v, _) in enumerate(sorted(colours.items(), key=lambda kv: (-kv[1], kv[0])))}
    size_ids = {v: 3 + i for i, (v, _) in enumerate(sorted(sizes.items(), key=lambda kv: (-kv[1], kv[0])))}
    prices = sorted(row[3] for row in train if row[3] is not None and math.isfinite(row[3]))
    median = prices[math.ceil(len(prices) / 2) - 1]

    encoded = by_key(rows)
    for id_, colour, size, price, label in ROWS:
        row = encoded[id_]
        assert row["colour"] == (0 if colour is None else colour_ids.get(colour, 1))
        if size is None:
            assert row["size"] == 0
        elif str(size) in size_ids:
            assert row["size"] == size_ids[str(size)]
        else:
            assert row["size"] in (1, 2)
        missing = price is None or not math.isfinite(price)
        assert row["price"] == (median if missing else price)
        assert row["price_missing"] == float(missing)
        assert (row["label"], row["weight"]) == (label, 1.0)

    marker = json.loads((built / "dataset/_dataset.json").read_text())
    assert marker["rows"] == Counter(fold.values())
    assert marker["settings"] == {  # without defaults
        "columns": {
            "key": ["id"],
            "label": "label",
            "categorical": {"colour": {}, "size": {"oov_buckets": 2}},
            "numeric": {"price": {"as": "dense", "impute": "median", "missing_flag": True, "scale": "none"}},
        },
        "split": {"valid": 0.2, "seed": 3},
    }


def test_types_on_disk(built: Path) -> None:
    for path in (built / "dataset").glob("fold=*/*.parquet"):
        schema = pq.read_schema(path)
        assert {field.name: str(field.type) for field in schema} == {
            "id": "int32",
            "label": "float",
            "weight": "float",
            "rate_part": "int8",
            "colour": "int32",
            "size": "int32",
            "price": "float",
            "price_missing": "float",
        }


def test_the_result_does_not_depend_on_order_and_partitions_of_the_table(
    spark: SparkSession, table: Path, built: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled"
    spark.read.parquet(str(table)).orderBy("price", "colour").repartition(7, "colour").write.parquet(str(shuffled))
    build(spark, config(tmp_path, shuffled))
    one, two = (Encoding.load(folder / "encoding") for folder in (built, tmp_path))
    assert one.spec.fingerprint == two.spec.fingerprint
    vocabularies = [pq.read_table(folder / "encoding/vocabulary.parquet") for folder in (built, tmp_path)]
    assert vocabularies[0].equals(vocabularies[1])
    datasets = [Counter(map(repr, dataset_rows(folder / "dataset"))) for folder in (built, tmp_path)]
    assert datasets[0] == datasets[1]


def test_a_key_that_is_also_a_field_has_another_name(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    columns = {"key": ("id", "colour"), "label": "label", "categorical": {"colour": {}}}
    build(spark, config(tmp_path, table, columns=columns))
    rows = by_key(dataset_rows(tmp_path / "dataset"))
    assert [(rows[i]["key_colour"], type(rows[i]["colour"])) for i in (0, 3, 4)] == [
        ("red", int),
        ("", int),
        (None, int),
    ]


def test_weights_and_boolean_labels(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame(
        [(i, i % 3 == 0, "a", i / 2) for i in range(30)], "id int, y boolean, c string, w double"
    )
    frame.write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "y", "weight": "w", "categorical": {"c": {}}}
    build(spark, config(tmp_path, tmp_path / "raw", columns=columns))
    rows = by_key(dataset_rows(tmp_path / "dataset"))
    assert {i: (row["label"], row["weight"]) for i, row in rows.items()} == {
        i: (float(i % 3 == 0), i / 2) for i in range(30)
    }


def test_names_with_dots_and_spaces(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    names = {"id": "the.id", "colour": "geo.colour", "price": "unit price"}
    spark.read.parquet(str(table)).withColumnsRenamed(names).write.parquet(str(tmp_path / "raw"))
    columns = {
        "key": ("the.id",),
        "label": "label",
        "categorical": {"geo.colour": {}},
        "numeric": {"unit price": {"scale": "none"}},
    }
    build(spark, config(tmp_path, tmp_path / "raw", columns=columns))
    rows = {row["the.id"]: row for row in dataset_rows(tmp_path / "dataset")}
    assert rows.keys() == {row[0] for row in ROWS}
    assert (rows[4]["geo.colour"], rows[0]["unit price"], rows[3]["unit price"]) == (0, 1.0, 8.0)


def test_where_selects_rows(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    source = {"path": str(table), "where": "colour = 'red' and id < 10"}
    build(spark, config(tmp_path, table, source=source))
    assert {row["id"] for row in dataset_rows(tmp_path / "dataset")} == {0, 2, 5, 7}


def test_a_table_in_the_catalog(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    spark.read.parquet(str(table)).createOrReplaceTempView("shop")
    build(spark, config(tmp_path, table, source={"table": "shop"}))
    assert len(dataset_rows(tmp_path / "dataset")) == len(ROWS)


def test_pandas_and_spark_read_the_dataset(spark: SparkSession, built: Path) -> None:
    assert spark.read.parquet(str(built / "dataset")).count() == len(ROWS)
    assert set(pd.read_parquet(built / "dataset")["fold"]) <= {"train", "valid", "test"}


def test_folds_by_time_and_by_column(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(i, f"2026-{i:02d}-15", ["train", "valid", "test"][i % 3], "a", i % 2) for i in range(1, 13)]
    frame = spark.createDataFrame(rows, "id int, day string, part string, c string, y int")
    frame.selectExpr("id", "cast(day as date) day", "part", "c", "y").write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "y", "categorical": {"c": {}}}
    split: dict[str, Any] = {"time": "day", "valid_from": "2026-09-01", "test_from": "2026-11-15"}
    build(spark, config(tmp_path, tmp_path / "raw", columns=columns, split=split))
    folds = {row["id"]: row["fold"] for row in dataset_rows(tmp_path / "dataset")}
    assert folds == {i: "train" if i < 9 else "valid" if i < 11 else "test" for i in range(1, 13)}

    # The same days as strings that do not sort, and the reports of both.
    texts = spark.read.parquet(str(tmp_path / "raw")).selectExpr("id", "date_format(day, 'M/d/yy') day", "c", "y")
    texts.write.parquet(str(tmp_path / "texts"))
    with pytest.raises(DataError, match=r"'day' decides the fold .*/26' is not an ISO 8601 .* Set split\.format to"):
        build(spark, config(tmp_path, tmp_path / "texts", columns=columns, split=split))
    for source, form in (("raw", {}), ("texts", {"format": "%m/%d/%y"})):
        settings = config(tmp_path, tmp_path / source, columns=columns, split=split | form)
        statistics = build(spark, settings)
        assert {row["id"]: row["fold"] for row in dataset_rows(tmp_path / "dataset")} == folds
        spans = {
            "train": ["2026-01-15", "2026-08-15"],
            "valid": ["2026-09-15", "2026-10-15"],
            "test": ["2026-11-15", "2026-12-15"],
        }
        assert json.loads((tmp_path / "dataset/_dataset.json").read_text())["times"] == {
            "column": "day",
            "folds": spans,
        }
        assert "day 2026-09-15 … 2026-10-15" in summary(settings, statistics)
        report = (tmp_path / "encoding/report.html").read_text()
        assert "<td>2026-01-15</td><td>2026-08-15</td>" in report

    build(spark, config(tmp_path, tmp_path / "raw", columns=columns, split={"column": "part"}))
    assert {row["id"]: row["fold"] for row in dataset_rows(tmp_path / "dataset")} == {
        i: part for i, _, part, _, _ in rows
    }

    frame.selectExpr("id", "cast(null as date) day", "part", "c", "y").write.parquet(str(tmp_path / "null"))
    with pytest.raises(DataError, match=r"'day' decides the fold .* has nulls"):
        build(spark, config(tmp_path, tmp_path / "null", columns=columns, split=split))


def test_negatives_are_left_out_and_the_rate_is_recorded(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.range(2000).selectExpr("id", "cast(id % 10 = 0 as int) y", "concat('v', id % 50) c")
    frame.write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "y", "categorical": {"c": {}}}
    split = {"valid": 0.1, "test": 0.1, "negative_rate": 0.2}
    statistics = build(spark, config(tmp_path, tmp_path / "raw", columns=columns, split=split))
    rows = dataset_rows(tmp_path / "dataset")
    positive = {row["id"] for row in rows if row["label"] == 1}
    assert positive == set(range(0, 2000, 10))
    assert len(rows) + statistics["left_out"] == 2000
    train = [row for row in rows if row["fold"] == "train"]
    negatives = sum(row["label"] == 0 for row in train)
    assert abs(negatives / (negatives + statistics["left_out"]) - 0.2) < 0.04
    assert Encoding.load(tmp_path / "encoding").spec.negative_rate == 0.2
    # Rows that are left out are not counted in the vocabulary.
    vocabulary = pq.read_table(tmp_path / "encoding/vocabulary.parquet")
    assert sum(vocabulary["count"].to_pylist()) == len(train) == statistics["rows"]["train"]


def test_partition_by(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    content = {"key": ("id", "colour"), "label": "label", "categorical": {"size": {}}}
    build(spark, config(tmp_path, table, columns=content, dataset={"partition_by": ("colour",)}))
    dataset = spark.read.parquet(str(tmp_path / "dataset"))
    # An empty text and null share Spark's folder for null; the key column distinguishes them.
    assert {path.name for path in (tmp_path / "dataset/fold=train").iterdir()} <= {
        "colour=red", "colour=blue", "colour=green", "colour=__HIVE_DEFAULT_PARTITION__",
    }  # fmt: skip
    rows = {row.id: (row.key_colour, row.colour) for row in dataset.collect()}
    assert rows == {row[0]: (row[1], row[1] or None) for row in ROWS}


def test_a_rerun_replaces_the_output_and_leaves_no_other_files(
    spark: SparkSession, table: Path, built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    first = sorted(map(repr, dataset_rows(tmp_path / "dataset")))
    build(spark, config(tmp_path, table))
    assert sorted(map(repr, dataset_rows(tmp_path / "dataset"))) == first
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "encoding", ".dataset.lock", ".encoding.lock"}
    assert {path.name for path in (tmp_path / "encoding").iterdir()} == {
        "spec.json", "reading.json", "statistics.json", "report.html", "vocabulary.parquet", "index", "_files.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "dataset").iterdir()} <= {
        "_dataset.json", "_files.json", "fold=train", "fold=valid", "fold=test",
    }  # fmt: skip


def test_several_paths_with_an_empty_file(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    spark.createDataFrame([], SCHEMA).coalesce(1).write.parquet(str(tmp_path / "none"))
    spark.createDataFrame([(100, "red", 1, 1.0, 1)], SCHEMA).write.parquet(str(tmp_path / "one"))
    paths = (str(table), str(tmp_path / "none"), str(tmp_path / "one"))
    build(spark, config(tmp_path, table, source={"path": paths}))
    assert Counter(row["id"] for row in dataset_rows(tmp_path / "dataset")) == Counter([row[0] for row in ROWS] + [100])
