"""The feature job on a real Spark session: the dataset equals one made row by row in plain Python."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import build

COLOURS = ["red", "blue", "red", "", None]
PRICES = [1.0, 2.0, None, 8.0, math.nan, math.inf]
ROWS = [
    # id, colour, size, price, label
    *((i, COLOURS[i % 5], i % 3, PRICES[i % 6], i % 2) for i in range(60)),
    (60, "green", 7, 4.0, 1),
    (None, "red", None, -1.0, 0),
]  # fmt: skip
SCHEMA = "id int, colour string, size int, price double, label int"


def config(workdir: Path, path: Path, **changes: Any) -> Config:
    content: dict[str, Any] = {
        "name": "shop",
        "workdir": str(workdir),
        "source": {"path": str(path)},
        "columns": {
            "key": ("id",),
            "label": "label",
            "categorical": {"colour": {}, "size": {"oov_buckets": 2}},
            "numeric": {"price": {"impute": "median", "missing_flag": True, "scale": "none"}},
        },
        "split": {"valid": 0.2, "test": 0.2, "seed": 3},
    }
    return Config.model_validate(content | changes)


@pytest.fixture(scope="module")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "shop"
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).write.parquet(str(path))
    return path


def dataset_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row | {"fold": path.parent.name.removeprefix("fold=")}
        for path in folder.glob("fold=*/*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


def by_key(rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def test_the_dataset_equals_one_made_by_hand(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    statistics = build(spark, config(tmp_path, table))
    rows = dataset_rows(tmp_path / "dataset")
    assert len(rows) == len(ROWS)
    assert Counter(row["fold"] for row in rows) == {k: v for k, v in statistics["rows"].items() if v}
    fold = {row["id"]: row["fold"] for row in rows}

    # The oracle: plain Python over the rows that fell to the train fold.
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


def test_types_on_disk_are_those_of_the_contract(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    build(spark, config(tmp_path, table))
    for path in (tmp_path / "dataset").glob("fold=*/*.parquet"):
        schema = pq.read_schema(path)
        assert {field.name: str(field.type) for field in schema} == {
            "id": "int32",
            "label": "float",
            "weight": "float",
            "colour": "int32",
            "size": "int32",
            "price": "float",
            "price_missing": "float",
        }


def test_order_and_partitions_of_the_table_change_nothing(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    build(spark, config(tmp_path / "one", table))
    shuffled = tmp_path / "shuffled"
    spark.read.parquet(str(table)).orderBy("price", "colour").repartition(7, "colour").write.parquet(str(shuffled))
    build(spark, config(tmp_path / "two", shuffled))
    one, two = (Encoding.load(tmp_path / name / "encoding") for name in ("one", "two"))
    assert one.spec.fingerprint == two.spec.fingerprint
    vocabularies = [pq.read_table(tmp_path / name / "encoding/vocabulary.parquet") for name in ("one", "two")]
    assert vocabularies[0].equals(vocabularies[1])
    datasets = [Counter(map(repr, dataset_rows(tmp_path / name / "dataset"))) for name in ("one", "two")]
    assert datasets[0] == datasets[1]


def test_a_key_that_is_also_a_field_is_kept_under_a_name_of_its_own(
    spark: SparkSession, table: Path, tmp_path: Path
) -> None:
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


def test_where_leaves_rows_out(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    source = {"path": str(table), "where": "colour = 'red' and id < 10"}
    build(spark, config(tmp_path, table, source=source))
    assert {row["id"] for row in dataset_rows(tmp_path / "dataset")} == {0, 2, 5, 7}


def test_a_table_of_the_catalog(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    spark.read.parquet(str(table)).createOrReplaceTempView("shop")
    build(spark, config(tmp_path, table, source={"table": "shop"}))
    assert len(dataset_rows(tmp_path / "dataset")) == len(ROWS)


def test_a_missing_column_is_told_before_any_work(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    columns = {"key": ("id",), "label": "label", "categorical": {"color": {}, "shape": {}}}
    with pytest.raises(DataError) as error:
        build(spark, config(tmp_path, table, columns=columns))
    assert str(error.value) == (
        f"Columns 'color', 'shape' are missing from {table}; the table has id, colour, size, price, label. "
        "The configuration's columns and split name it."
    )
    assert not (tmp_path / "dataset").exists()


def test_a_path_that_is_not_there_and_a_condition_that_is_wrong(
    spark: SparkSession, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"nowhere cannot be read: .*PATH_NOT_FOUND"):
        build(spark, config(tmp_path, Path("nowhere")))
    with pytest.raises(DataError, match=r"cannot be read: .*UNRESOLVED_COLUMN"):
        build(spark, config(tmp_path, table, source={"path": str(table), "where": "colr = 'red'"}))
    with pytest.raises(DataError, match=r"cannot be read: .*PARSE_SYNTAX_ERROR"):
        build(spark, config(tmp_path, table, source={"path": str(table), "where": "colour == == 1"}))


def test_a_file_of_another_format_and_a_format_that_is_not_there(
    spark: SparkSession, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw.csv").write_text("id,colour\n1,red\n")
    with pytest.raises(DataError, match=r"raw.csv has a file that cannot be read: file:/.*raw.csv\. Repair it"):
        build(spark, config(tmp_path, tmp_path / "raw.csv"))
    with pytest.raises(DataError, match=r"cannot be read: \[DATA_SOURCE_NOT_FOUND\] Failed to find .*: parquett\."):
        build(spark, config(tmp_path, table, source={"path": str(table), "format": "parquett"}))


def test_a_corrupt_file_among_many_is_named(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "raw")
    wrong = sorted((tmp_path / "raw").glob("*.parquet"))[1]
    wrong.with_name(f".{wrong.name}.crc").unlink()
    content = wrong.read_bytes()
    wrong.write_bytes(content[:4] + bytes(len(content) - 20) + content[-16:])
    with pytest.raises(DataError, match=rf"raw has a file that cannot be read: file:/.*{wrong.name}"):
        build(spark, config(tmp_path, tmp_path / "raw"))
    assert not (tmp_path / "dataset").exists()


def test_a_text_in_a_numeric_column_is_told_from_the_worker(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(1, "1.5", 0), (2, "n/a", 1)], "id int, price string, label int")
    frame.write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "label", "numeric": {"price": {"as": "field"}}}
    with pytest.raises(DataError, match="Column 'price' is numeric, but holds the text 'n/a'"):
        build(spark, config(tmp_path, tmp_path / "raw", columns=columns))


def test_wrong_labels_leave_the_old_dataset_as_it_was(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    build(spark, config(tmp_path, table))
    before = json.loads((tmp_path / "dataset/_dataset.json").read_text())
    frame = spark.read.parquet(str(table)).selectExpr("id", "colour", "size", "price", "label * 2 as label")
    frame.write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match="31 labels that are something else, '2' for one"):
        build(spark, config(tmp_path, tmp_path / "raw"))
    assert json.loads((tmp_path / "dataset/_dataset.json").read_text()) == before
    assert not list(tmp_path.glob(".*staging*"))


def test_an_empty_table_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    spark.createDataFrame([], SCHEMA).write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match=r"train fold .* is empty: the table has 0 rows"):
        build(spark, config(tmp_path, tmp_path / "raw"))


def test_pandas_and_spark_read_the_dataset(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    build(spark, config(tmp_path, table))
    assert spark.read.parquet(str(tmp_path / "dataset")).count() == len(ROWS)
    assert set(pd.read_parquet(tmp_path / "dataset")["fold"]) <= {"train", "valid", "test"}
