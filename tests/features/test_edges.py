"""Unusual tables and settings. Each of them once lost data or caused a traceback."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import Growth, build, prepare
from nfm.table import write as writing
from nfm.table.write import Layout, Writer


def raw(path: Path, **columns: Any) -> Path:
    """Write a table of twelve rows with `id`, `y` and the given columns."""
    rows = {"id": list(range(12)), "y": [i % 2 for i in range(12)], **columns}
    path.mkdir(parents=True)
    pq.write_table(pa.table(rows), path / "0.parquet")
    return path


def settings(workdir: Path, path: Path, columns: dict[str, Any], **changes: Any) -> Config:
    content = {
        "name": "edges",
        "workdir": str(workdir),
        "source": {"path": str(path)},
        "columns": {"key": ("id",), "label": "y", **columns},
        "split": {"valid": 0.0, "test": 0.0},
        "train": {"early_stopping": None},
    }
    return Config.model_validate(content | changes)


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    files = sorted((workdir / "dataset").rglob("*.parquet"))
    return [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]


def ids(workdir: Path, name: str) -> list[Any]:
    return [row[name] for row in sorted(rows_of(workdir), key=lambda row: str(row["id"]).zfill(9))]


C: dict[str, Any] = {"categorical": {"c": {}}}
LETTERS = ["a", "b", "c", "d"] * 3


def test_a_field_may_share_the_vocabulary_of_a_later_field(spark: SparkSession, tmp_path: Path) -> None:
    table = raw(tmp_path / "raw", first=LETTERS, between=["x", "y", "z"] * 4, owner=["d", "e"] * 6)
    fields = {"first": {"share_with": "owner"}, "between": {}, "owner": {}}
    build(spark, settings(tmp_path, table, {"categorical": fields}))
    Encoding.load(tmp_path / "encoding").verify("encoding")
    # d occurs 3 + 6 times, e 6 times, and a, b and c 3 times each.
    assert ids(tmp_path, "first") == [4, 5, 6, 2] * 3
    assert ids(tmp_path, "owner") == [2, 3] * 6
    assert ids(tmp_path, "between") == [2, 3, 4] * 4


def test_growing_twice_in_one_session_adds_a_value_once(spark: SparkSession, tmp_path: Path) -> None:
    def day(name: str, values: Sequence[str | None]) -> Config:
        return settings(tmp_path, raw(tmp_path / name, c=values), C)

    build(spark, day("one", ["a", "b"] * 6))
    growth = Growth(tmp_path / "encoding", False)
    for name, new in (("two", "x"), ("three", "y")):
        config = day(name, ["x", new, None] * 4)
        build(spark, config, prepare(spark, config, growth))
    assert pq.read_table(tmp_path / "encoding/vocabulary.parquet")["value"].to_pylist() == ["a", "b", "x", "y"]


def test_growth_stops_at_max_size_and_reports_the_coverage(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"categorical": {"c": {"max_size": 3}}}
    build(spark, settings(tmp_path / "old", raw(tmp_path / "one", c=["a", "b"] * 6), columns))
    config = settings(tmp_path / "new", raw(tmp_path / "two", c=["x"] * 5 + ["y"] * 4 + ["z"] * 3), columns)
    found = build(spark, config, prepare(spark, config, Growth(tmp_path / "old/encoding", False)))["grown"]["fields"]
    assert found["c"] == {"before": 2, "added": 1, "coverage_before": 0.0, "coverage_after": 5 / 12}


def test_more_folders_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_OPEN_FILES", 3)
    monkeypatch.setattr(writing, "ROW_GROUP", 10)
    writer = Writer(tmp_path, Layout((), ()))
    for i in range(9):
        writer.add(f"day={i}", pa.table({"id": np.arange(i * 100, i * 100 + 15)}))
    assert len(writer._open) == 3
    found = Counter(i for file in writer.close() for i in pq.read_table(file.path)["id"].to_pylist())
    assert found == Counter(j for i in range(9) for j in range(i * 100, i * 100 + 15))


@pytest.mark.parametrize("where", ["c", "label"])
def test_invalid_utf8_is_refused(spark: SparkSession, tmp_path: Path, where: str) -> None:
    invalid = pa.array([b"\xff\xfe", b"a"] * 6).view(pa.string())
    table = raw(tmp_path / "raw", **{"c": LETTERS, "label": ["0", "1"] * 6, where: invalid})
    with pytest.raises(DataError, match=rf"Column '{where}' contains invalid UTF-8"):
        build(spark, settings(tmp_path, table, {"label": "label", **C}))


def test_a_key_of_bytes(spark: SparkSession, tmp_path: Path) -> None:
    key = [bytes([200 + i, 0]) for i in range(12)]
    split = {"valid": 0.3, "test": 0.3}
    for name, type_ in (("plain", pa.binary()), ("fixed", pa.binary(2))):
        table = raw(tmp_path / f"raw-{name}", id=pa.array(key, type_), c=LETTERS)
        build(spark, settings(tmp_path / name, table, C, split=split))
        assert {row["id"] for row in rows_of(tmp_path / name)} == set(key)
    folds = [
        {p.parent.name: pq.ParquetFile(p).metadata.num_rows for p in tmp_path.glob(f"{n}/dataset/*/*.parquet")}
        for n in ("plain", "fixed")
    ]
    assert folds[0] == folds[1]


def test_columns_that_decide_the_fold_must_be_plain(spark: SparkSession, tmp_path: Path) -> None:
    table = raw(tmp_path / "raw", c=LETTERS, tags=[["a"]] * 12)
    for split in ({"by": ("tags",)}, {"column": "tags"}):
        with pytest.raises(DataError, match=r"Column 'tags' of .* is list<"):
            build(spark, settings(tmp_path, table, C, split=split))


@pytest.mark.parametrize("name", ["run[1]", "q?*", "{a,b}", "ü 100%"])
def test_workdir_may_have_any_name(spark: SparkSession, tmp_path: Path, name: str) -> None:
    table = raw(tmp_path / "raw", c=LETTERS)
    build(spark, settings(tmp_path / name, table, C))
    assert ids(tmp_path / name, "c") == [2, 3, 4, 5] * 3


def test_invalid_labels_are_refused_also_if_negatives_are_left_out(spark: SparkSession, tmp_path: Path) -> None:
    table = raw(tmp_path / "raw", c=LETTERS, y=[0] * 10 + [2, 1])
    with pytest.raises(DataError, match="it has 1 other labels, for example '2'"):
        build(spark, settings(tmp_path, table, C, split={"valid": 0.0, "test": 0.0, "negative_rate": 0.01}))


def test_a_weight_must_fit_into_float32(spark: SparkSession, tmp_path: Path) -> None:
    table = raw(tmp_path / "raw", c=LETTERS, w=[1.0] * 11 + [1e39])
    with pytest.raises(DataError, match=r"sample weight, .* but 1 rows have other values, for example 1e\+39"):
        build(spark, settings(tmp_path, table, {"weight": "w", **C}))


def test_a_constant_and_very_large_numbers(spark: SparkSession, tmp_path: Path) -> None:
    table = raw(tmp_path / "raw", c=LETTERS, k=[0.1] * 12, x=[1e200, -1e200] * 6)
    build(spark, settings(tmp_path, table, {**C, "numeric": {"k": {}, "x": {}}}))
    assert ids(tmp_path, "k") == [0.0] * 12
    assert ids(tmp_path, "x") == [1.0, -1.0] * 6
    facts = json.loads((tmp_path / "encoding/statistics.json").read_text())["numbers"]
    assert (facts["k"]["std"], facts["x"]["std"]) == (0.0, pytest.approx(1e200))
    beyond = raw(tmp_path / "beyond", c=LETTERS, x=[1.7e308, -1.7e308] * 6)
    with pytest.raises(DataError, match=r"Column 'x' has numbers from -1.7e\+308 to 1.7e\+308, a range too large"):
        build(spark, settings(tmp_path, beyond, {**C, "numeric": {"x": {}}}))


def test_folders_are_named_as_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    places = ["Zürich", "a/b", "50%", "x=y", "", None] * 2
    table = raw(tmp_path / "raw", c=LETTERS, **{"km/h": places})
    build(spark, settings(tmp_path, table, C, dataset={"partition_by": ("km/h",)}))
    by_id = {row["id"]: row["km/h"] for row in spark.read.parquet(str(tmp_path / "dataset")).collect()}
    assert by_id == {i: place or None for i, place in enumerate(places)}
    long = raw(tmp_path / "long", c=LETTERS, p=["é" * 150] * 12)
    with pytest.raises(DataError, match=r"dataset.partition_by: the value 'é+'… is too long .* \(300 bytes, 200 at"):
        build(spark, settings(tmp_path, long, C, dataset={"partition_by": ("p",)}))


@pytest.mark.parametrize(
    ("columns", "folders", "message"),
    [
        ({"key": ("id", "key_id"), "categorical": {"id": {}}}, (), "'id' would be named 'key_id'"),
        ({"key": ("id",), "categorical": {"id": {}, "key_id": {}}}, (), "'id' would be named 'key_id'"),
        (C, ("c",), "the folders of 'c' would collide with the dataset's column of that name"),
        (C, ("fold",), "the folders of 'fold' would collide"),
    ],
)
def test_columns_of_the_dataset_must_have_different_names(
    tmp_path: Path, columns: dict[str, Any], folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(tmp_path, tmp_path, columns, dataset={"partition_by": folders})


def test_a_corrupt_column_is_found_if_only_the_condition_needs_it(spark: SparkSession, tmp_path: Path) -> None:
    folder = raw(tmp_path / "raw", c=LETTERS, x=[1.0] * 12)
    whole = pa.table(
        {
            "id": list(range(100, 1100)),
            "y": [0] * 1000,
            "c": ["a"] * 1000,
            "x": np.random.default_rng(0).normal(size=1000),
        }
    )
    path = folder / "1.parquet"
    pq.write_table(whole, path, compression="gzip", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(3)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    source = {"path": str(folder), "where": "x > -100", "on_corrupt": "skip"}
    statistics = build(spark, settings(tmp_path, folder, C, source=source))
    assert statistics["skipped_files"] == [str(path)]
    assert len(rows_of(tmp_path)) == 12
