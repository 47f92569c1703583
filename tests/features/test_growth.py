"""Growth of a vocabulary from one table to the next keeps all ids; incompatible encodings are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import Growth, build, prepare
from nfm.features.summary import summary
from tests.features.examples import by_key, config, dataset_rows


def grow(spark: SparkSession, old: Path, new: Config, refresh: bool = False) -> dict[str, Any]:
    return dict(build(spark, new, prepare(spark, new, Growth(old, refresh))))


def test_growth_keeps_all_ids(spark: SparkSession, tmp_path: Path) -> None:
    def raw(name: str, colours: Sequence[str | None], x: float) -> Path:
        rows = [(i, colour, x + i, i % 2, "train") for i, colour in enumerate(colours)]
        spark.createDataFrame(rows, "id int, c string, x double, y int, part string").write.parquet(
            str(tmp_path / name)
        )
        return tmp_path / name

    columns = {
        "key": ("id",),
        "label": "y",
        "categorical": {"c": {"min_count": 2}},
        "numeric": {"x": {}, "xb": {"column": "x", "buckets": 2}},
    }

    def settings(name: str, path: Path) -> Config:
        return config(tmp_path / name, path, columns=columns, split={"column": "part"})

    first = settings("first", raw("monday", ["b"] * 3 + ["a"] * 2 + ["rare"], 0.0))
    build(spark, first)
    tuesday = settings("second", raw("tuesday", ["new"] * 4 + ["rare"] * 3 + ["b"] + ["once"] + [None], 100.0))
    statistics = grow(spark, first.encoding_folder, tuesday)

    def vocabulary(of: Config) -> list[tuple[str, int, int]]:
        return [
            (r["value"], r["id"], r["count"])
            for r in pq.read_table(of.encoding_folder / "vocabulary.parquet").to_pylist()
        ]

    assert vocabulary(first) == [("b", 2, 3), ("a", 3, 2)]
    assert vocabulary(tuesday) == [("b", 2, 3), ("a", 3, 2), ("new", 4, 4), ("rare", 5, 3)]
    assert statistics["grown"]["fields"] == {
        "c": {"before": 2, "added": 2, "coverage_before": 1 / 9, "coverage_after": 8 / 9}
    }
    old, new = (Encoding.load(settings.encoding_folder).spec for settings in (first, tuesday))
    assert statistics["grown"]["from"] == old.fingerprint
    assert new.ancestors == (old.fingerprint,)
    assert (new.numbers, new.fields[1]) == (old.numbers, old.fields[1])  # numbers and buckets are kept
    rows = by_key(dataset_rows(tuesday.dataset_folder))
    assert [rows[i]["c"] for i in (0, 4, 7, 8, 9)] == [4, 5, 2, 1, 0]
    assert rows[0]["x"] > 10  # scaled with Monday's statistics
    text = summary(tuesday, statistics)
    assert "2 values added to 2; the vocabulary now covers 88.9% of the new rows' values instead of 11.1%" in text

    refreshed = settings("third", tmp_path / "tuesday")
    grow(spark, tuesday.encoding_folder, refreshed, refresh=True)
    spec = Encoding.load(refreshed.encoding_folder).spec
    assert spec.ancestors == (new.fingerprint, old.fingerprint)
    assert spec.numbers[0].shift == 104.5  # the mean of 100 … 109
    assert spec.fields[1] == old.fields[1]
    assert vocabulary(refreshed) == vocabulary(tuesday)


def test_an_encoding_that_cannot_grow_is_refused(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    first = config(tmp_path, table)
    build(spark, first)
    other = config(tmp_path, table, columns={"key": ("id",), "label": "label", "categorical": {"colour": {}}})
    with pytest.raises(DataError, match="cannot grow: its fields differ from those"):
        grow(spark, first.encoding_folder, other)
    with pytest.raises(DataError, match="There is no encoding in"):
        grow(spark, tmp_path / "nowhere", first)
