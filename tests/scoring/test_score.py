"""The score job on a real Spark session, compared with the model's formula in plain Python."""

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError, DataError
from nfm.scoring.output import layout
from nfm.scoring.prepare import open_all
from nfm.scoring.score import score_table
from nfm.scoring.tasks import Output, score_rows
from nfm.table.write import Writer
from tests.scoring.examples import ROWS, SCHEMA, config, expected_score, save_model, scores


def test_every_row_has_one_score_with_its_key_and_columns(spark: SparkSession, made: Path) -> None:
    report = score_table(spark, config(made, made / "raw", columns=("colour", "size", "price", "id")))
    rows = scores(made / "scores")
    model = Artifact.load(made / "model")
    assert report["rows"] == 60
    assert list(rows[0]) == ["id", "colour", "size", "price", "score"]
    carried = Counter(tuple(row.values())[:4] for row in rows)
    assert carried == Counter(row[:4] for row in ROWS)  # keys of 61 bits beside nulls keep all digits
    for row in rows:
        expected = expected_score(model, row["colour"], row["size"], row["price"])
        assert row["score"] == pytest.approx(expected, abs=1e-5)


def test_shuffled_and_repartitioned_input_gives_equal_scores(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    score_table(spark, config(made, made / "raw", columns=("colour", "size", "price")))
    shuffled = spark.read.parquet(str(made / "raw")).orderBy("price", "size").repartition(5, "colour")
    shuffled.write.parquet(str(tmp_path / "raw"))
    settings = {"columns": ("colour", "size", "price"), "output": str(tmp_path / "scores")}
    score_table(spark, config(made, tmp_path / "raw", **settings))
    assert Counter(map(repr, scores(made / "scores"))) == Counter(map(repr, scores(tmp_path / "scores")))


SCANS = pytest.mark.parametrize("scan", ["parquet", "spark"])


def raw(folder: Path, scan: str, **more: str) -> dict[str, str]:
    return {"path": str(folder / "raw"), "scan": scan, **more}


@SCANS
def test_unusual_values_are_scored_and_counted(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    unusual = [
        (1, None, None, None),
        (2, "", 0, math.nan),
        (3, "unseen", 99, math.inf),
        (4, "red", 1, -math.inf),
        (5, "blue", 2, 1.0),
    ]
    frame = spark.createDataFrame(unusual, "id long, colour string, size int, price double")
    frame.write.parquet(str(tmp_path / "raw"))  # without the label, which scoring does not need
    report = score_table(spark, config(made, raw(tmp_path, scan), output=str(tmp_path / "scores")))
    assert report["scan"] == scan
    rows = {row["id"]: row["score"] for row in scores(tmp_path / "scores")}
    model = Artifact.load(made / "model")
    for id_, colour, size, price in unusual:
        if size != 99:  # a hash chooses one of the two out-of-vocabulary ids
            assert rows[id_] == pytest.approx(expected_score(model, colour, size, price), abs=1e-5)
    assert 0 < rows[3] < 1
    counts = {
        name: {kind: c["count"] for kind, c in values.items() if kind in ("missing", "out_of_vocabulary")}
        for name, values in report["values"].items()
    }
    assert counts == {
        "colour": {"missing": 1, "out_of_vocabulary": 1},
        "size": {"missing": 1, "out_of_vocabulary": 1},
        "price": {"missing": 4},
    }
    assert report["values"]["colour"]["missing"]["rate_in_training"] == pytest.approx(12 / 60)
    assert report["values"]["price"]["missing"]["rate_in_training"] == pytest.approx(20 / 60)


@SCANS
def test_a_column_of_type_null_is_missing(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    """pandas writes a column of None with Parquet's type null, which Spark reads as integers."""
    (tmp_path / "raw").mkdir()
    sizes, prices = [1, None, 2, 1], [0.5, 1.0, None, 2.0]
    columns = {"id": list(range(4)), "colour": pa.nulls(4), "size": sizes, "price": prices}
    for name in "ab":
        pq.write_table(pa.table(columns), tmp_path / f"raw/{name}.parquet")
    settings = config(made, raw(tmp_path, scan), columns=("size", "price"), output=str(tmp_path / "scores"))
    report = score_table(spark, settings)
    assert report["values"]["colour"]["missing"]["count"] == 8
    model, rows = Artifact.load(made / "model"), scores(tmp_path / "scores")
    assert sorted(row["id"] for row in rows) == sorted([*range(4)] * 2)
    for row in rows:
        expected = expected_score(model, None, row["size"], row["price"])
        assert row["score"] == pytest.approx(expected, abs=1e-5)
    pq.write_table(pa.table(columns | {"colour": [7] * 4}), tmp_path / "raw/c.parquet")
    with pytest.raises(DataError, match=r"'colour' of .* now contains number values"):
        score_table(spark, settings)


@pytest.fixture(scope="module")
def as_trained(spark: SparkSession, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """Scores of the table whose columns have the types of the training, with `colour` and `price`."""
    output = tmp_path_factory.mktemp("as_trained") / "scores"
    score_table(spark, config(made, made / "raw", columns=("colour", "price"), output=str(output)))
    return Counter(map(repr, scores(output)))


@SCANS
@pytest.mark.parametrize("size_type", ["int", "string", "double", "decimal(10,2)", "bigint"])
def test_a_column_of_another_type_gets_the_same_scores(
    spark: SparkSession, made: Path, as_trained: Counter[str], tmp_path: Path, size_type: str, scan: str
) -> None:
    table = spark.read.parquet(str(made / "raw"))
    table.selectExpr("id", "colour", f"cast(size as {size_type}) size", "price").write.parquet(str(tmp_path / "raw"))
    settings = {"columns": ("colour", "price"), "output": str(tmp_path / "scores")}
    report = score_table(spark, config(made, raw(tmp_path, scan), **settings))
    assert report["values"]["size"]["out_of_vocabulary"]["count"] == 0
    assert Counter(map(repr, scores(tmp_path / "scores"))) == as_trained


@pytest.mark.parametrize("size_type", ["boolean", "date", "timestamp"])
def test_a_type_under_which_values_would_be_lost_is_refused(
    spark: SparkSession, made: Path, tmp_path: Path, size_type: str
) -> None:
    table = spark.read.parquet(str(made / "raw"))
    table.selectExpr("id", "colour", f"cast(null as {size_type}) size", "price").write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match=r"Column 'size' of .*raw"):
        score_table(spark, config(made, tmp_path / "raw", output=str(tmp_path / "scores")))
    assert not (tmp_path / "scores").exists()


def test_a_text_among_numbers_is_reported_with_its_file(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, price in (("a", "1.5"), ("b", "n/a")):
        columns = {"id": [1], "colour": ["red"], "size": [1], "price": [price]}
        pq.write_table(pa.table(columns), tmp_path / f"raw/{name}.parquet")
    with pytest.raises(DataError, match=r"^Column 'price' is numeric, but contains the text 'n/a'\.") as error:
        score_table(spark, config(made, tmp_path / "raw"))
    assert str(error.value).endswith(f" It is in {tmp_path}/raw/b.parquet.")


def test_unusual_column_names_are_carried(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    names = ("scored", "a.b", "two words", "größe", "back`tick", "counts")
    table = spark.read.parquet(str(made / "raw"))
    for i, name in enumerate(names):
        table = table.withColumn(name, table["size"] + i)
    table.write.parquet(str(tmp_path / "raw"))
    score_table(spark, config(made, tmp_path / "raw", columns=("size", *names), output=str(tmp_path / "scores")))
    for row in scores(tmp_path / "scores"):
        assert [row[name] for name in names] == [row["size"] + i for i in range(len(names))]


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("partition_by", [(), ("colour",)])
def test_no_two_publications_have_a_file_of_the_same_name(
    spark: SparkSession, made: Path, tmp_path: Path, format_: str, partition_by: tuple[str, ...]
) -> None:
    output, published = tmp_path / "scores", []
    for _ in range(2):
        report = score_table(
            spark, config(made, made / "raw", format=format_, partition_by=partition_by, output=str(output))
        )
        names = [path.name for path in output.rglob(f"*.{format_}")]
        assert names
        assert all(name.endswith(f"-{report['publication']}.{format_}") for name in names)
        assert json.loads((output / "_report.json").read_text())["publication"] == report["publication"]
        published.append(report["publication"])
    assert len(set(published)) == 2


def test_the_output_names_its_model(spark: SparkSession, made: Path) -> None:
    score_table(spark, config(made, made / "raw"))
    fingerprint = Artifact.load(made / "model").fingerprint
    assert json.loads((made / "scores/_report.json").read_text())["model_fingerprint"] == fingerprint
    for path in (made / "scores").glob("*.parquet"):
        assert json.loads(pq.read_schema(path).metadata[b"nfm"])["model_fingerprint"] == fingerprint


@SCANS
@pytest.mark.parametrize("partitions", [1, 3])
def test_an_empty_table_gives_empty_scores_with_their_columns(
    spark: SparkSession, made: Path, tmp_path: Path, partitions: int, scan: str
) -> None:
    spark.createDataFrame([], SCHEMA).repartition(partitions).write.parquet(str(tmp_path / "raw"))
    report = score_table(spark, config(made, raw(tmp_path, scan), output=str(tmp_path / "scores")))
    assert report["rows"] == 0
    assert spark.read.parquet(str(tmp_path / "scores")).columns == ["id", "score"]
    assert scores(tmp_path / "scores") == []


@SCANS
def test_files_with_zero_one_and_many_rows_are_scored(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str
) -> None:
    table = pa.Table.from_batches(
        spark.read.parquet(str(made / "raw")).orderBy("price", "size", "id").toArrow().to_batches()
    )
    (tmp_path / "raw").mkdir()
    for i, (start, stop) in enumerate(pairwise([0, 0, 1, 60, 60])):
        pq.write_table(table.slice(start, stop - start), tmp_path / f"raw/{i}.parquet", row_group_size=9)
    columns = ("colour", "size", "price")
    report = score_table(spark, config(made, raw(tmp_path, scan), columns=columns, output=str(tmp_path / "scores")))
    score_table(spark, config(made, made / "raw", columns=columns))
    assert report["rows"] == 60
    assert Counter(map(repr, scores(tmp_path / "scores"))) == Counter(map(repr, scores(made / "scores")))


@SCANS
@pytest.mark.parametrize("damage", ["cut off", "no Parquet"])
def test_a_corrupt_file_among_many_is_refused_or_skipped(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str, damage: str
) -> None:
    table = spark.read.parquet(str(made / "raw")).toArrow()
    (tmp_path / "raw").mkdir()
    for i in range(3):
        pq.write_table(table.slice(20 * i, 20), tmp_path / f"raw/{i}.parquet")
    broken = tmp_path / "raw/1.parquet"
    broken.write_bytes(broken.read_bytes()[:-40] if damage == "cut off" else b"id,colour\n1,red\n" * 20)
    output = {"output": str(tmp_path / "scores")}
    with pytest.raises(DataError, match=r"has a file that cannot be read: .*raw/1\.parquet"):
        score_table(spark, config(made, raw(tmp_path, scan), **output))
    assert not (tmp_path / "scores").exists()
    report = score_table(spark, config(made, raw(tmp_path, scan, on_corrupt="skip"), **output))
    assert (report["rows"], report["skipped_files"]) == (40, [str(broken)])
    kept = [*table["id"].to_pylist()[:20], *table["id"].to_pylist()[40:]]
    assert Counter(row["id"] for row in scores(tmp_path / "scores")) == Counter(kept)


@SCANS
def test_a_condition_filters_rows(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    spark.read.parquet(str(made / "raw")).write.partitionBy("size").parquet(str(tmp_path / "raw"))
    source = raw(tmp_path, scan, where="size in (0, 2)")
    report = score_table(spark, config(made, source, columns=("size", "price"), output=str(tmp_path / "scores")))
    assert (report["rows"], report["scan"]) == (40, scan)
    assert Counter(row["size"] for row in scores(tmp_path / "scores")) == {0: 20, 2: 20}


def test_a_missing_column_is_reported_before_any_work(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.createDataFrame(ROWS, SCHEMA).drop("size").write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError) as error:
        score_table(spark, config(made, tmp_path / "raw", output=str(tmp_path / "scores")))
    assert str(error.value) == (
        f"Column 'size' is missing from {tmp_path}/raw; the table has id, colour, price, label. "
        "The model was trained with the columns in its encoding/spec.json: provide a column with that name, for "
        "example through a view, or train a model without it."
    )
    with pytest.raises(DataError, match=r"Column 'shape' is missing from .*raw; the table has id, colour"):
        score_table(spark, config(made, made / "raw", columns=("shape",)))


def test_a_column_called_score_cannot_be_carried(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.createDataFrame(ROWS, SCHEMA).selectExpr("*", "1 as Score").write.parquet(str(tmp_path / "raw"))
    with pytest.raises(ConfigError, match="the output has a column 'score' already"):
        score_table(spark, config(made, tmp_path / "raw", columns=("Score",)))


def test_a_tampered_model_is_refused_and_yesterdays_scores_stay(
    spark: SparkSession, made: Path, tmp_path: Path
) -> None:
    score_table(spark, config(made, made / "raw", output=str(tmp_path / "scores")))
    before = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    weights = made / "model/weights/embedding.npy"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DataError, match=r"embedding\.npy is refused: its checksum"):
            score_table(spark, config(made, made / "raw", output=str(tmp_path / "scores")))
    finally:
        weights.write_bytes(content)
    assert {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()} == before


def test_a_folder_of_other_files_is_never_replaced(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="was not written by this job"):
        score_table(spark, config(made, made / "raw", output=str(tmp_path)))
    with pytest.raises(DataError, match="was not written by this job"):  # the same for a plan
        open_all(spark, config(made, made / "raw", output=str(tmp_path)))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_new_model_of_the_same_name_is_used_at_once(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    score_table(spark, config(made, made / "raw", output=str(tmp_path / "before")))
    save_model(made, 2)
    score_table(spark, config(made, made / "raw", output=str(tmp_path / "after")))
    before, after = ([row["score"] for row in scores(tmp_path / name)] for name in ("before", "after"))
    assert before != after


@pytest.mark.parametrize("cuts", [[0, 60], [0, 0, 1, 41, 41, 60]])
def test_a_task_writes_and_counts_its_rows(made: Path, tmp_path: Path, cuts: list[int]) -> None:
    """Run a task's code without Spark; one batch is empty, one has a single row."""
    model = Artifact.load(made / "model")
    table = pa.table(list(zip(*ROWS, strict=True)), ["id", "colour", "size", "price", "label"])
    output = Output(("id", "size"), (), False)
    schema = output.schema(model, table.schema)
    batches = [table.slice(a, b - a).combine_chunks() for a, b in pairwise(cuts)]
    rows = [batch.to_batches()[0] if len(batch) else pa.RecordBatch.from_pylist([], table.schema) for batch in batches]
    chunk = score_rows(7, rows, model, output, schema, Writer(tmp_path, layout(schema)))
    (file,) = chunk.files
    written = pq.read_table(file.path)
    assert (chunk.number, file.rows, written.column_names) == (7, 60, ["id", "size", "score"])
    assert written["id"].to_pylist() == [row[0] for row in ROWS]
    expected = [expected_score(model, colour, size, price) for _, colour, size, price, _ in ROWS]
    np.testing.assert_allclose(written["score"].to_numpy(), expected, atol=1e-5)
    tally = chunk.tally
    assert (tally.rows, tally.not_finite) == (60, 0)
    # Missing, out-of-vocabulary and known values; numbers have one bin without a profile. An empty text is not missing.
    assert tally.values == {"colour": [12, 0, 48], "size": [0, 0, 60], "price": [60]}
    assert (tally.missing, tally.new) == ({"price": 20}, {})
    (score_counts,) = tally.scores
    assert score_counts.total == pytest.approx(sum(expected), abs=1e-3)
    assert (score_counts.low, score_counts.high) == (
        min(written["score"].to_pylist()),
        max(written["score"].to_pylist()),
    )


def test_a_score_that_is_not_finite_is_never_published(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    table = spark.createDataFrame(
        [(1, "red", 1, 1.0), (2, "red", 1, 1e300)], "id long, colour string, size int, price double"
    )
    table.write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match=r"1 of 2 rows of .*raw have a NaN or infinite score"):
        score_table(spark, config(made, tmp_path / "raw", output=str(tmp_path / "scores")))
    assert not (tmp_path / "scores").exists()


def test_a_file_that_was_read_in_part_is_refused(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    _, scan, _ = open_all(spark, config(made, made / "raw"))
    paths = sorted(path for path in map(str, (made / "raw").glob("*.parquet")))
    rows = {path: pq.read_metadata(path).num_rows for path in paths}
    assert sum(rows.values()) == 60
    read = {path: (n, n) for path, n in rows.items()}
    scan.check_complete(read)
    for wrong in ({paths[0]: (rows[paths[0]] - 1, rows[paths[0]])}, {paths[0]: (2 * rows[paths[0]], rows[paths[0]])}):
        with pytest.raises(DataError, match=rf"{wrong[paths[0]][0]} rows of {paths[0]} were read, but it has"):
            scan.check_complete(read | wrong)
    with pytest.raises(DataError, match=rf"^0 rows of {paths[-1]} were read, but it has {rows[paths[-1]]}"):
        scan.check_complete({path: n for path, n in read.items() if path != paths[-1]})  # no task reported it
