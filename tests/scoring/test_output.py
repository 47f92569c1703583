"""Every output and input of the score job, compared with the model's formula in plain Python."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError, DataError
from nfm.features.dataset import build
from nfm.scoring import output as module
from nfm.scoring.local import load
from nfm.scoring.prepare import open_all
from nfm.scoring.preview.plan import plan
from nfm.scoring.score import score_table
from tests.scoring.examples import ROWS, SCHEMA, config, expected_score, save_model, scores


def expected(made: Path) -> list[float]:
    """Return the scores of ROWS."""
    model = Artifact.load(made / "model")
    return [expected_score(model, colour, size, price) for _, colour, size, price, _ in ROWS]


def read_output(spark: SparkSession, folder: Path) -> pd.DataFrame:
    return spark.read.parquet(str(folder)).toPandas()


@pytest.mark.parametrize("scan", ["parquet", "spark"])
@pytest.mark.parametrize("rank", [False, True])
def test_spark_reads_the_partition_folders(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str, rank: bool
) -> None:
    settings = {"columns": ("price", "colour"), "partition_by": ("colour", "size"), "rank": rank}
    source = {"path": str(made / "raw"), "scan": scan}
    report = score_table(spark, config(made, source, **settings, output=str(tmp_path / "scores")))
    assert (report["rows"], report["scan"]) == (60, scan)
    folders = {str(path.parent.relative_to(tmp_path / "scores")) for path in tmp_path.glob("scores/**/*.parquet")}
    # An empty text is in the same folder as null, like in Spark.
    names = {"red": "red", "blue": "blue", "": "__HIVE_DEFAULT_PARTITION__", None: "__HIVE_DEFAULT_PARTITION__"}
    assert folders == {f"colour={names[row[1]]}/size={row[2]}" for row in ROWS}
    read = spark.read.parquet(str(tmp_path / "scores"))
    assert read.columns == ["id", "price", "score", *["score_rank"] * rank, "colour", "size"]
    actual = Counter((*row[:2], round(row["score"], 4), row["colour"], row["size"]) for row in read.collect())
    all_expected = expected(made)
    assert actual == Counter(
        (id_, price, round(float(np.float32(score)), 4), colour or None, size)
        for (id_, colour, size, price, _), score in zip(ROWS, all_expected, strict=True)
    )


@pytest.mark.parametrize("rows_a_task", [1 << 20, 7])
def test_ranks_and_quantiles_equal_those_of_pandas(
    spark: SparkSession, made: Path, tmp_path: Path, rows_a_task: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RANKED_ROWS", rows_a_task)
    settings = {"columns": ("label",), "rank": True, "quantile": True, "output": str(tmp_path / "scores")}
    score_table(spark, config(made, made / "raw", **settings))
    actual = read_output(spark, tmp_path / "scores")
    assert list(actual.columns) == ["id", "label", "score", "score_rank", "score_quantile"]
    assert len(actual) == 60
    assert actual["score"].duplicated().any()  # equal scores share a rank
    assert actual["score_rank"].tolist() == actual["score"].rank(method="min", ascending=False).tolist()
    assert actual["score_quantile"].tolist() == actual["score"].rank(method="max", pct=True).tolist()
    np.testing.assert_allclose(sorted(actual["score"]), sorted(expected(made)), atol=1e-5)


def test_an_empty_table_has_the_rank_column(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.read.parquet(str(made / "raw")).limit(0).write.parquet(str(tmp_path / "raw"))
    settings = {"rank": True, "partition_by": ("colour",), "output": str(tmp_path / "scores")}
    assert score_table(spark, config(made, tmp_path / "raw", **settings))["rows"] == 0
    assert spark.read.parquet(str(tmp_path / "scores")).columns == ["id", "score", "score_rank"]


def test_csv_has_one_line_for_each_row(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = {"columns": ("colour", "price"), "format": "csv", "output": str(tmp_path / "scores")}
    score_table(spark, config(made, made / "raw", **settings))
    assert not list(tmp_path.glob("scores/*.parquet"))
    files = sorted(tmp_path.glob("scores/*.csv"))
    actual = pd.concat(
        [pd.read_csv(f, dtype={"id": "Int64"}, keep_default_na=False, na_values={"id": [""]}) for f in files]
    )
    assert list(actual.columns) == ["id", "colour", "price", "score"]
    assert Counter(actual["id"].dropna()) == Counter(row[0] for row in ROWS if row[0] is not None)  # no digit is lost
    assert Counter(actual["colour"]) == Counter(row[1] or "" for row in ROWS)
    np.testing.assert_allclose(sorted(actual["score"]), sorted(expected(made)), atol=1e-5)


def test_delta_lake_reads_the_output(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")  # an extra; `make test` installs all
    # Folder names are escaped, and so are file names in Delta's log.
    raw = spark.read.parquet(str(made / "raw")).selectExpr("*", "replace(colour, 'red', 'r/é d%') wild")
    raw.write.parquet(str(tmp_path / "raw"))
    for columns in ((), ("price",)):  # the second output replaces the first
        settings = {"columns": columns, "format": "delta", "partition_by": ("wild",), "output": str(tmp_path / "d")}
        score_table(spark, config(made, tmp_path / "raw", **settings))
    table = pa.table(deltalake.DeltaTable(str(tmp_path / "d")).to_pyarrow_table()).to_pandas()
    assert set(table.columns) == {"id", "price", "score", "wild"}
    assert Counter(table["wild"].fillna("")) == Counter((row[1] or "").replace("red", "r/é d%") for row in ROWS)
    np.testing.assert_allclose(sorted(table["score"]), sorted(expected(made)), atol=1e-5)


def test_files_have_about_the_configured_size(
    spark: SparkSession, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 700_000
    rng = np.random.default_rng(1)
    table = pa.table({"id": rng.integers(0, 2**62, count), "colour": ["red"] * count, "size": [1] * count})
    table = table.append_column("price", pa.array(rng.random(count)))
    (tmp_path / "raw").mkdir()
    pq.write_table(table, tmp_path / "raw/a.parquet", row_group_size=100_000)
    settings = {"output": str(tmp_path / "scores"), "file_mb": 2}
    assert score_table(spark, config(made, tmp_path / "raw", **settings))["rows"] == count
    sizes = [path.stat().st_size for path in tmp_path.glob("scores/*.parquet")]  # 8.4 MB in all
    assert len(sizes) > 2
    assert max(sizes) < 6 << 20
    assert sorted(pq.read_table(tmp_path / "scores", columns=["id"])["id"].to_pylist()) == sorted(
        table["id"].to_pylist()
    )


def test_only_the_scored_day_is_replaced(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    for day in ("2026-11-19", "2026-11-20"):
        score_table(spark, config(made, made / "raw", output=str(tmp_path / f"scores/ds={day}")))
    before = {path: path.read_bytes() for path in tmp_path.glob("scores/ds=2026-11-19/*")}
    few = spark.read.parquet(str(made / "raw")).where("size = 1")
    few.write.parquet(str(tmp_path / "few"))
    score_table(spark, config(made, tmp_path / "few", output=str(tmp_path / "scores/ds=2026-11-20")))
    assert {path: path.read_bytes() for path in tmp_path.glob("scores/ds=2026-11-19/*")} == before
    read = spark.read.parquet(str(tmp_path / "scores")).groupBy("ds").count().collect()
    assert {str(row["ds"]): row["count"] for row in read} == {"2026-11-19": 60, "2026-11-20": 20}


@pytest.mark.parametrize("scan", ["parquet", "spark"])
def test_a_dataset_has_the_scores_of_its_raw_rows(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    source = {"path": str(made / "dataset/fold=train"), "scan": scan}
    report = score_table(spark, config(made, source, encoded=True, output=str(tmp_path / "scores")))
    rows = scores(tmp_path / "scores")
    actual = sorted((row["id"] or 0, round(row["score"], 5)) for row in rows)
    np.testing.assert_allclose(
        [score for _, score in actual],
        [score for _, score in sorted((row[0] or 0, s) for row, s in zip(ROWS, expected(made), strict=True))],
        atol=1e-4,
    )
    assert report["values"]["colour"]["missing"]["count"] == 12
    assert report["values"]["price"] == {"values": 60, "psi": None}  # a dataset does not show missing numbers


def test_keys_of_a_dataset_that_are_also_fields(spark: SparkSession, tmp_path: Path) -> None:
    # The dataset has the ids of colour in the column colour, and the key in key_colour.
    rows = [(i, None if i % 30 == 7 else f"c{i % 30}", i % 3, None, i % 2) for i in range(60)]
    spark.createDataFrame(rows, SCHEMA).coalesce(1).write.parquet(str(tmp_path / "raw"))
    settings = config(tmp_path, tmp_path / "raw").model_dump(by_alias=True)
    columns = {"key": ("colour", "size"), "categorical": {"colour": {"min_count": 3}, "size": {}}, "numeric": {}}
    settings["columns"] |= columns  # every colour is out-of-vocabulary: has the same id
    build(spark, Config.model_validate(settings))
    save_model(tmp_path, 1)
    found = []
    for path, encoded in (("raw", False), ("dataset/fold=train", True)):
        score = {"source": {"path": str(tmp_path / path)}, "encoded": encoded}
        report = score_table(spark, Config.model_validate(settings | {"score": score}))
        assert [report["duplicate_keys"][name] for name in ("keys", "rows", "null_rows")] == [30, 60, 2]
        found.append(sorted(map(repr, scores(tmp_path / "scores"))))
    assert found[0] == found[1]
    assert sum("'colour': 'c8', 'size': 2," in row for row in found[1]) == 2


def test_a_folder_that_is_not_a_dataset_of_the_model_is_refused(
    spark: SparkSession, made: Path, tmp_path: Path
) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(DataError) as error:
            score_table(spark, config(made, path, encoded=True, output=str(tmp_path / "scores")))
        assert not (tmp_path / "scores").exists()
        return str(error.value)

    assert "but it has no _dataset.json. Name the dataset/" in refused(made / "raw")
    other = tmp_path / "dataset"
    pq.write_to_dataset(pq.read_table(made / "dataset/fold=train"), str(other))
    marker = json.loads((made / "dataset/_dataset.json").read_text())
    (other / "_dataset.json").write_text(json.dumps(marker | {"encoding_fingerprint": "0123456789abcdef"}))
    assert "was written with the encoding 0123456789ab…" in refused(other)
    # Other ids would select rows of another field in the embedding table, or rows beyond its end.
    table = pq.read_table(made / "dataset/fold=train")
    ids = np.array(table["size"].to_pylist(), np.int32)
    ids[3] = 99
    (other / "_dataset.json").write_text(json.dumps(marker))
    for path in other.glob("*.parquet"):
        pq.write_table(table.set_column(table.column_names.index("size"), "size", pa.array(ids)), path)
    assert "has ids of the field 'size' that its vocabulary does not have" in refused(other)


@pytest.mark.parametrize(
    ("type_", "settings", "message"),
    [
        ("interval day", {}, r"Column 'x' of .*raw is duration.*every type except intervals"),
        ("array<int>", {"format": "csv"}, r"Column 'x' of .*raw is list.*csv accepts every type except lists"),
        (
            "array<int>",
            {"partition_by": ("x",), "columns": ()},
            r"^score\.partition_by: column 'x' of .*raw is list.*can name folders",
        ),
    ],
)
def test_a_column_that_cannot_be_written_is_refused(
    spark: SparkSession, made: Path, tmp_path: Path, type_: str, settings: dict[str, Any], message: str
) -> None:
    values = {"interval day": "interval '1' day", "array<int>": "array(1)"}
    table = spark.read.parquet(str(made / "raw")).selectExpr("*", f"{values[type_]} x")
    table.write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match=message):
        score_table(
            spark, config(made, tmp_path / "raw", **{"columns": ("x",), **settings}, output=str(tmp_path / "s"))
        )


def test_carried_columns_of_every_type_are_unchanged(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    more = [
        "cast(size as tinyint) a",
        "cast(price as float) b",
        "cast(price as decimal(20,3)) c",
        "timestamp'2026-11-20 03:00:00' + make_dt_interval(size) d",
        "timestamp_ntz'2026-11-20 03:00:00' e",
        "date'2026-11-20' f",
        "cast(colour as binary) g",
        "array(colour, null) h",
        "named_struct('x', size, 'y', array(price)) i",
        "map(coalesce(colour, 'none'), size) j",
        "size > 1 k",
    ]
    spark.read.parquet(str(made / "raw")).selectExpr("*", *more).write.parquet(str(tmp_path / "raw"))
    names = tuple("abcdefghijk")
    raw = spark.read.parquet(str(tmp_path / "raw")).select("id", *names)
    for scan in ("parquet", "spark"):
        source = {"path": str(tmp_path / "raw"), "scan": scan}
        score_table(spark, config(made, source, columns=names, output=str(tmp_path / scan)))
        read = spark.read.parquet(str(tmp_path / scan)).drop("score")
        assert [(f.name, f.dataType) for f in read.schema.fields] == [(f.name, f.dataType) for f in raw.schema.fields]
        assert Counter(map(repr, read.collect())) == Counter(map(repr, raw.collect()))


def test_ranks_of_several_classes_are_refused(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    from nfm.contract.artifact import Network
    from tests.scoring.test_tasks import save_model

    save_model(made, tmp_path / "model", Network("multiclass", 3, (), "relu", ("a", "b")))
    settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "scores")}
    with pytest.raises(ConfigError, match=r"^score\.quantile: the model in .* is multiclass"):
        score_table(spark, config(made, made / "raw", **settings, quantile=True))


def test_the_plan_shows_the_output(spark: SparkSession, made: Path) -> None:
    settings = config(made, made / "raw", rank=True, partition_by=("colour",), format="csv", columns=("colour",))
    text = plan(spark, settings, *open_all(spark, settings))
    assert f"\n  source    {made}/raw\n  scan      parquet: its files are Parquet" in text
    assert f"\n  writes    id, score, score_rank\n  folders   by colour\n  output    {made}/scores (csv)\n" in text
    assert "; ranks take extra time" in text


@pytest.mark.parametrize("scan", ["parquet", "spark"])
def test_the_job_and_the_scorer_agree_bit_for_bit(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    source = {"path": str(made / "raw"), "scan": scan}
    columns = ("colour", "size", "price")
    score_table(spark, config(made, source, columns=columns, output=str(tmp_path / "scores")))
    rows = scores(tmp_path / "scores")
    table = pa.Table.from_pylist(rows)
    assert load(made / "model").score(table).to_pylist() == [row["score"] for row in rows]
