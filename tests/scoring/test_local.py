"""Scoring tables in memory, and scoring with a user-defined function of Spark."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import nfm.scoring
from nfm.contract.artifact import Artifact, Network
from nfm.contract.errors import DataError
from tests.scoring.examples import ROWS, expected_score
from tests.scoring.test_tasks import save_model

NAMES = ["id", "colour", "size", "price", "label"]


def expected(made: Path) -> list[float]:
    model = Artifact.load(made / "model")
    return [expected_score(model, colour, size, price) for _, colour, size, price, _ in ROWS]


def frame() -> pd.DataFrame:
    table = pd.DataFrame(ROWS, columns=NAMES)
    return table.set_index(pd.Index([f"row{i}" for i in range(60)]))


def test_a_pandas_table_is_scored_in_order(made: Path) -> None:
    table = frame()
    table["colour"] = table["colour"].astype("category")
    scores = nfm.scoring.load(made / "model").score(table)
    assert (scores.name, scores.index.tolist(), scores.dtype) == ("score", table.index.tolist(), np.float32)
    np.testing.assert_allclose(scores, expected(made), atol=1e-5)


@pytest.mark.parametrize("cuts", [60, 7, 1])
def test_an_arrow_table_is_scored_in_order(made: Path, cuts: int) -> None:
    table = pa.Table.from_pylist([dict(zip(NAMES, row, strict=True)) for row in ROWS])
    chunked = pa.concat_tables([table.slice(i, cuts) for i in range(0, 60, cuts)])
    scorer = nfm.scoring.load(str(made / "model"))
    np.testing.assert_allclose(scorer.score(chunked).to_pylist(), expected(made), atol=1e-5)
    np.testing.assert_allclose(scorer.score(table.to_batches()[0]).to_pylist(), expected(made), atol=1e-5)
    assert len(scorer.score(table.slice(0, 0))) == 0


def test_each_class_has_a_column(made: Path, tmp_path: Path) -> None:
    save_model(made, tmp_path / "model", Network("multiclass", 3, (4,), "relu", ("a", "b c")))
    scorer = nfm.scoring.load(tmp_path / "model")
    scores = scorer.score(frame())
    assert (list(scores.columns), scores.index[0]) == (["score_a", "score_b c"], "row0")
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    arrow = scorer.score(pa.Table.from_pandas(frame()))
    assert arrow.column_names == ["score_a", "score_b c"]
    np.testing.assert_array_equal(np.column_stack([c.to_numpy() for c in arrow.columns]), scores)


def test_mistakes_are_reported(made: Path, tmp_path: Path) -> None:
    scorer = nfm.scoring.load(made / "model")
    with pytest.raises(
        DataError, match=r"Column 'size' is missing from the table; the table has id, colour, price, label"
    ):
        scorer.score(frame().drop(columns=["size"]))
    with pytest.raises(DataError, match=r"The table's columns cannot be read: .*one type"):
        scorer.score(frame().assign(size=["x", 1] * 30))
    with pytest.raises(DataError, match=r"Column 'size' of the table now contains boolean values"):
        scorer.score(frame().assign(size=[True, False] * 30))
    with pytest.raises(DataError, match="There is no model in"):
        nfm.scoring.load(tmp_path)


def test_a_scorer_needs_neither_spark_nor_tensorflow(made: Path) -> None:
    program = f"""
import sys
import pandas as pd
import nfm.scoring
table = pd.DataFrame({{"colour": ["red"], "size": [1], "price": [2.0]}})
print(nfm.scoring.load({str(made / "model")!r}).score(table)[0])
assert not any(name in sys.modules for name in ("pyspark", "tensorflow", "keras"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    score = expected_score(Artifact.load(made / "model"), "red", 1, 2.0)
    assert float(done.stdout) == pytest.approx(score, abs=1e-5)


def test_the_udf_scores_a_struct_of_all_columns(spark: SparkSession, made: Path) -> None:
    table = spark.read.parquet(str(made / "raw"))
    scored = table.select("*", nfm.scoring.score_udf(made / "model")(F.struct("*")).alias("s")).collect()
    model = Artifact.load(made / "model")
    assert len(scored) == 60
    for row in scored:
        assert row["s"] == pytest.approx(expected_score(model, row["colour"], row["size"], row["price"]), abs=1e-5)


def test_the_udf_works_in_sql(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.read.parquet(str(made / "raw")).createOrReplaceTempView("visits")
    spark.udf.register("nfm_score", nfm.scoring.score_udf(made / "model"))
    rows = spark.sql("select colour, size, price, nfm_score(struct(*)) s from visits where size = 2").collect()
    model = Artifact.load(made / "model")
    assert len(rows) == 20
    for row in rows:
        assert row["s"] == pytest.approx(expected_score(model, row["colour"], row["size"], row["price"]), abs=1e-5)

    save_model(made, tmp_path / "model", Network("multiclass", 3, (4,), "relu", ("a", "b c")))
    spark.udf.register("nfm_classes", nfm.scoring.score_udf(tmp_path / "model"))
    sums = spark.sql("select c.`score_a` + c.`score_b c` from (select nfm_classes(struct(*)) c from visits)").collect()
    assert [row[0] for row in sums] == pytest.approx([1.0] * 60)


def test_the_udf_reports_columns_that_the_struct_lacks(spark: SparkSession, made: Path) -> None:
    table = spark.read.parquet(str(made / "raw"))
    with pytest.raises(PythonException, match=r"Columns 'colour', 'price' are missing from the struct"):
        table.select(nfm.scoring.score_udf(made / "model")(F.struct("size", "id"))).collect()
