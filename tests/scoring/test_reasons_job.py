"""Reason codes that the score job writes, in every format, compared with the paper's equation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

import nfm.scoring
from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError
from nfm.scoring.prepare import open_all
from nfm.scoring.preview.plan import plan
from nfm.scoring.score import score_table
from tests.scoring.examples import ROWS, config, expected_score
from tests.scoring.examples import scores as written


def expected_reasons(model: Artifact, row: tuple[Any, ...]) -> list[tuple[str, float]]:
    """Return names and effects by the paper's equation, the largest first."""
    values = dict(zip(("colour", "size", "price"), row[1:4], strict=True))
    score = expected_score(model, **values)
    effects = {name: score - expected_score(model, **values | {name: None}) for name in values}
    nonzero = [(name, effect) for name, effect in effects.items() if abs(effect) > 1e-9]
    return sorted(nonzero, key=lambda pair: -abs(pair[1]))


def check_rows(made: Path, rows: list[dict[str, Any]], count: int) -> None:
    """Check the reasons of all rows. Effects too small for float32 beside a score of 1 may be missing."""
    model = Artifact.load(made / "model")
    assert len(rows) == 60
    for row in rows:
        expected = expected_reasons(model, (None, row["colour"], row["size"], row["price"]))[:count]
        actual = [(row[f"reason_{i}"], row[f"reason_{i}_effect"]) for i in range(1, count + 1)]
        padded = [effect for _, effect in expected] + [0.0] * (count - len(expected))
        assert [effect or 0.0 for _, effect in actual] == pytest.approx(padded, abs=1e-5)
        for (name, _), (_, effect) in zip(actual, expected, strict=False):
            near = [other for other, size in expected if abs(abs(size) - abs(effect)) < 1e-5]
            assert name in near or abs(effect) < 1e-6  # float32 may order nearly equal effects otherwise
        assert all((name is None) == (effect is None) for name, effect in actual)


@pytest.mark.parametrize("scan", ["parquet", "spark"])
def test_reasons_follow_the_score(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    names = ("colour", "size", "price")
    source = {"path": str(made / "raw"), "scan": scan}
    score_table(spark, config(made, source, columns=names, explain=3, output=str(tmp_path / "scores")))
    rows = written(tmp_path / "scores")
    reasons = [f"reason_{i}{suffix}" for i in (1, 2, 3) for suffix in ("", "_effect")]
    assert list(rows[0]) == ["id", *names, "score", *reasons]
    check_rows(made, rows, 3)
    # The job agrees with scoring in memory, bit for bit.
    alone = nfm.scoring.load(made / "model").score(pa.Table.from_pylist(rows), explain=3)
    assert alone.to_pylist() == [{name: row[name] for name in alone.column_names} for row in rows]
    plain = nfm.scoring.load(made / "model").score(pa.Table.from_pylist(rows))
    assert plain.to_pylist() == [row["score"] for row in rows]


def test_ranks_and_partitions_keep_the_reasons_of_each_row(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    more = {"columns": ("colour", "price"), "partition_by": ("size",), "rank": True, "quantile": True, "explain": 2}
    score_table(spark, config(made, made / "raw", **more, output=str(tmp_path / "scores")))
    read = spark.read.parquet(str(tmp_path / "scores"))
    reasons = ["reason_1", "reason_1_effect", "reason_2", "reason_2_effect"]
    assert read.columns == ["id", "colour", "price", "score", *reasons, "score_rank", "score_quantile", "size"]
    alone = nfm.scoring.load(made / "model").score(read.toPandas().astype({"colour": object}), explain=2)
    for row, expected in zip(read.collect(), alone.to_dict("records"), strict=True):
        assert row["score"] == expected["score"]
        assert [row[name] for name in reasons[::2]] == [expected[name] for name in reasons[::2]]


@pytest.mark.parametrize("format_", ["csv", "delta"])
def test_every_format_has_reasons(spark: SparkSession, made: Path, tmp_path: Path, format_: str) -> None:
    more = {"columns": ("size", "price"), "explain": 2, "format": format_, "output": str(tmp_path / "scores")}
    score_table(spark, config(made, made / "raw", **more))
    if format_ == "delta":
        deltalake = pytest.importorskip("deltalake")
        table = pa.table(deltalake.DeltaTable(str(tmp_path / "scores")).to_pyarrow_table()).to_pandas()
    else:
        table = pd.concat([pd.read_csv(path) for path in sorted((tmp_path / "scores").glob("*.csv"))])
    assert list(table.columns[2:]) == ["price", "score", "reason_1", "reason_1_effect", "reason_2", "reason_2_effect"]
    model = Artifact.load(made / "model")
    expected = [(expected_reasons(model, row) + [("", math.nan)] * 2)[:2] for row in ROWS]
    for i in (0, 1):
        actual = table[f"reason_{i + 1}_effect"].to_numpy(np.float64)
        np.testing.assert_allclose(np.sort(actual), np.sort([row[i][1] for row in expected]), atol=1e-5)
        named = table[f"reason_{i + 1}"].fillna("").value_counts().to_dict()
        assert named == pd.Series([row[i][0] for row in expected]).value_counts().to_dict()


def test_a_dataset_has_the_reasons_of_its_raw_rows(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    source = made / "dataset/fold=train"
    score_table(spark, config(made, source, encoded=True, explain=3, output=str(tmp_path / "encoded")))
    score_table(spark, config(made, made / "raw", explain=3, output=str(tmp_path / "raw")))
    encoded, raw = (sorted(map(repr, written(tmp_path / name))) for name in ("encoded", "raw"))
    assert len(encoded) == 60
    assert encoded == raw


def test_an_empty_table_has_the_columns_of_reasons(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.read.parquet(str(made / "raw")).limit(0).write.parquet(str(tmp_path / "raw"))
    score_table(spark, config(made, tmp_path / "raw", explain=1, output=str(tmp_path / "scores")))
    read = spark.read.parquet(str(tmp_path / "scores"))
    assert read.dtypes[1:] == [("score", "float"), ("reason_1", "string"), ("reason_1_effect", "float")]
    empty = pa.table(dict(zip(("colour", "size", "price"), [[]] * 3, strict=True)))
    scored = nfm.scoring.load(made / "model").score(empty, explain=1)
    assert (scored.num_rows, scored.column_names) == (0, ["score", "reason_1", "reason_1_effect"])


def test_a_pandas_table_keeps_its_index(made: Path) -> None:
    frame = pd.DataFrame([row[1:4] for row in ROWS], columns=["colour", "size", "price"], index=range(100, 160))
    actual = nfm.scoring.load(made / "model").score(frame, explain=4)  # the model has three fields and numbers
    assert actual.index.tolist() == frame.index.tolist()
    assert list(actual.columns[:3]) == ["score", "reason_1", "reason_1_effect"]
    assert (actual["reason_1_effect"].dtype, actual["reason_1"].dtype) == (np.float32, object)
    assert actual["reason_4"].tolist() == [None] * 60
    assert actual["reason_4_effect"].isna().all()
    check_rows(made, [{**a, **b} for a, b in zip(records(frame), records(actual), strict=True)], 3)
    with pytest.raises(ConfigError, match=r"^explain is -1, but the number of reasons per row must be 0 or a positive"):
        nfm.scoring.load(made / "model").score(frame, explain=-1)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows, with None for missing numbers."""
    rows = frame.to_dict("records")
    return [{str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]


def test_the_plan_lists_reasons_and_the_settings_limit_them(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = config(made, made / "raw", explain=1, rank=True)
    model, scan, source = open_all(spark, settings)
    assert "\n  writes    id, score, reason_1, reason_1_effect, score_rank\n" in plan(
        spark, settings, model, scan, source
    )
    for wrong in (-1, 11, "three"):
        with pytest.raises(ValidationError, match=r"score\.explain"):
            config(made, made / "raw", explain=wrong)
    spark.read.parquet(str(made / "raw")).selectExpr("*", "1 Reason_2_Effect").write.parquet(str(tmp_path / "raw"))
    taken = {"columns": ("Reason_2_Effect",), "output": str(tmp_path / "scores")}
    with pytest.raises(ConfigError, match=r"^score\.columns: the output has a column 'reason_2_effect' already"):
        open_all(spark, config(made, tmp_path / "raw", explain=2, **taken))
    open_all(spark, config(made, tmp_path / "raw", explain=1, **taken))
