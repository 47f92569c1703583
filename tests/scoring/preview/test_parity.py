"""`--parity`: scores of the job and of Keras for rows of the real table."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nfm.config.train import Model
from nfm.contract import artifact as contract
from nfm.contract.artifact import Artifact
from nfm.contract.dataset import Inputs
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.scoring.prepare import open_all
from nfm.scoring.preview.parity import _sample, check, compare, deltas
from nfm.table.splits import Piece, file_at
from nfm.training.model import describe, export
from nfm.training.parity import keras_scores
from tests.scoring.examples import ROWS, SCHEMA, config
from tests.scoring.test_tasks import config as bags_config
from tests.scoring.test_tasks import made as bag_model  # noqa: F401 (a fixture)
from tests.training.test_model import build_random
from tests.training.trained import weights_of

SCANS = pytest.mark.parametrize("scan", ["parquet", "spark"])


def save(folder: Path, target: Path, *, keras_of: int = 0, classes: tuple[str, ...] = (), **form: Any) -> Path:
    """Save a model with random weights; its Keras file is another model's if `keras_of` is not 0."""
    encoding = folder / "encoding"
    spec = replace(Encoding.load(encoding).spec, classes=classes)
    settings = Model.model_validate({"embedding_dim": 3, "hidden_units": (4,), **form})
    models = [build_random(spec, settings, seed) for seed in (0, keras_of)]
    for model in models:
        if settings.embedding_dtype == "float16":  # like in training
            table = model.get_layer("embedding").table
            table.assign(table.numpy().astype(np.float16).astype(np.float32))

    def write(staging: Path) -> None:
        (staging / "keras").mkdir()
        models[1].save(staging / "keras/model.keras")

    contract.save(
        target,
        encoding_folder=encoding,
        network=describe(spec, settings),
        weights=export(weights_of(models[0]), spec, settings),
        facts={"name": "shop"},
        write_more=write,
    )
    return target


@pytest.fixture(scope="module")
def model(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(made, tmp_path_factory.mktemp("parity") / "model")


@SCANS
def test_the_job_and_keras_agree_and_nothing_is_written(
    spark: SparkSession, made: Path, model: Path, tmp_path: Path, scan: str
) -> None:
    source = {"path": str(made / "raw"), "scan": scan}
    settings = config(made, source, model=str(model), output=str(tmp_path / "scores"))
    parity = compare(spark, settings, keras_scores, 1000)
    assert (parity.rows, parity.beyond, len(parity.worst)) == (60, 0, 5)  # all rows of the table
    assert 0 <= parity.mean <= parity.largest <= 1e-5
    assert [row.delta for row in parity.worst] == sorted((row.delta for row in parity.worst), reverse=True)
    ids = {row[0] for row in ROWS}
    assert all(row.key["id"] in ids and 0 < row.nfm < 1 for row in parity.worst)
    message = check(parity)
    assert message.startswith(f"Parity: 60 rows of {made}/raw, from ")
    assert f"\n    id {parity.worst[0].key['id']!r}: score {parity.worst[0].nfm:.7g}, Keras " in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "classes"),
    [
        ({"task": "regression"}, ()),
        ({"task": "multiclass", "embedding_dtype": "float16"}, ("a", "b c", "")),
        ({"embedding_dtype": "float16", "hidden_units": ()}, ()),
    ],
    ids=str,
)
def test_bags_agree_in_every_task(
    spark: SparkSession,
    bag_model: Path,  # noqa: F811
    tmp_path: Path,
    form: dict[str, Any],
    classes: tuple[str, ...],
) -> None:
    target = save(bag_model, tmp_path / "model", classes=classes, **form)
    settings = bags_config(bag_model, bag_model / "tonight", model=str(target))
    parity = compare(spark, settings, keras_scores, 50)
    assert (parity.rows, parity.beyond) == (5, 0)
    assert parity.largest <= 1e-5
    assert {row.column for row in parity.worst} <= ({f"score_{name}" for name in classes} or {"score"})


def test_a_dataset_is_compared(spark: SparkSession, made: Path, model: Path) -> None:
    parity = compare(spark, config(made, made / "dataset", encoded=True, model=str(model)), keras_scores, 60)
    assert (parity.rows, parity.beyond) == (60, 0)


def test_the_keras_file_of_another_model_is_refused(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = config(made, made / "raw", model=str(save(made, tmp_path / "model", keras_of=1)))
    parity = compare(spark, settings, keras_scores, 60)
    with pytest.raises(
        DataError, match=r"keras/ and weights/ of .*/model do not belong together.*nfm train"
    ) as refused:
        check(parity)
    assert refused.value.exit_code == 3
    lines = str(refused.value).splitlines()
    assert len(lines) == 6
    assert lines[1].startswith(f"    id {parity.worst[0].key['id']!r}: score ")


def test_the_rows_that_differ_are_named(spark: SparkSession, made: Path, model: Path) -> None:
    def skewed(artifact: Artifact, rows: Inputs) -> NDArray[Any]:
        return np.asarray(keras_scores(artifact, rows) + np.where(rows.values_BN == 8, 0.01, 0.0))

    parity = compare(spark, config(made, made / "raw", model=str(model)), skewed, 60)
    wrong = Counter(id_ for id_, _, _, price, _ in ROWS if price == 8)
    assert parity.beyond == wrong.total() == 20
    assert {row.key["id"] for row in parity.worst} <= set(wrong)
    assert parity.largest == pytest.approx(0.01, abs=1e-5)
    assert parity.mean == pytest.approx(0.01 / 3, abs=1e-5)
    with pytest.raises(DataError, match=r"but 20 of 60 rows of .*raw differ by more, by 0\.01 at most"):
        check(parity)


def test_a_wrong_or_missing_keras_file_is_reported(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = config(made, made / "raw")  # its model was saved without a Keras file
    with pytest.raises(DataError, match=r"keras/model\.keras cannot score the rows .*Restore it from a copy"):
        compare(spark, settings, keras_scores, 10)

    def write(staging: Path) -> None:
        (staging / "keras").mkdir()
        two = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        two.save(staging / "keras/model.keras")

    model = Artifact.load(made / "model")
    contract.save(
        tmp_path / "model",
        encoding_folder=made / "encoding",
        network=model.network,
        weights=dict(model.weights),
        facts={"name": "shop"},
        write_more=write,
    )
    settings = config(made, made / "raw", model=str(tmp_path / "model"))
    with pytest.raises(DataError, match=r"keras/model\.keras cannot score the rows"):
        compare(spark, settings, keras_scores, 10)


COUNTS = (1, 0, 3, 1, 1, 2, 1, 1, 1, 1, 37, 11)  # rows of each split; 60 in all


@pytest.mark.parametrize(
    ("scan", "rows_wanted", "least"),
    [("parquet", 4, 3), ("parquet", 30, 8), ("parquet", 59, 8), ("parquet", 500, 11), ("spark", 500, 11)],
)
def test_rows_come_from_distant_splits_and_each_row_once(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str, rows_wanted: int, least: int
) -> None:
    edges = np.cumsum([0, *COUNTS]).tolist()
    parts = list(pairwise(edges))
    if scan == "parquet":
        (tmp_path / "raw").mkdir()
        rows = pa.table(
            {
                "id": pa.array(range(60), pa.int64()),
                "colour": ["red", None, "new", "", "blue"] * 12,
                "size": pa.array([0, 1, 2, None, 9, 1] * 10, pa.int32()),
                "price": [1.0, None, 8.0] * 20,
            }
        )
        for i, (start, stop) in enumerate(parts):
            pq.write_table(rows.slice(start, stop - start), tmp_path / f"raw/{i:02}.parquet", row_group_size=9)
        settings = config(made, tmp_path / "raw")
    else:
        counts = ", ".join(map(str, COUNTS))
        before = ", ".join(map(str, edges))
        spark.range(0, 100 * len(parts), 1, len(parts)).where(
            f"id % 100 < element_at(array({counts}), int(id div 100) + 1)"
        ).selectExpr(
            f"element_at(array({before}), int(id div 100) + 1) + id % 100 as id",
            *("'red' as colour", "int(id % 3) as size", "double(null) as price"),
        ).createOrReplaceTempView("uneven")
        settings = config(made, {"table": "uneven"})
    artifact, opened, _ = open_all(spark, settings)
    if scan == "parquet":
        files = [file_at(str(path)) for path in sorted((tmp_path / "raw").glob("*"))]
        opened = replace(opened, splits=tuple((Piece(file, 0, file.size),) for file in files))
    sample = _sample(spark, settings, artifact, opened, rows_wanted)
    ids = [id_ for batches in sample.values() for _, batch in batches for id_ in batch.column("id").to_pylist()]
    assert len(ids) == len(set(ids)) == min(rows_wanted, 60)
    for split, batches in sample.items():
        split_ids = {id_ for _, batch in batches for id_ in batch.column("id").to_pylist()}
        assert split_ids <= set(range(*parts[split]))
        assert all(len(scores_NC) == batch.num_rows for scores_NC, batch in batches)
    assert len(sample) >= least


def test_an_empty_table_agrees(spark: SparkSession, made: Path, model: Path, tmp_path: Path) -> None:
    spark.createDataFrame([], SCHEMA).write.parquet(str(tmp_path / "none"))
    parity = compare(spark, config(made, tmp_path / "none", model=str(model)), keras_scores, 10)
    assert (parity.rows, parity.largest, parity.worst) == (0, 0.0, ())
    assert check(parity).startswith("Parity: 0 rows of ")


def test_differences_of_scores() -> None:
    inf, nan = np.inf, np.nan
    nfm_NC, keras_NC = np.array([[0.5, 0.3], [nan, inf], [1, -inf]]), np.array([[0.4, 0.35], [nan, 1], [nan, -inf]])
    np.testing.assert_allclose(deltas(nfm_NC, keras_NC, "multiclass"), [[0.1, 0.05], [0, inf], [inf, 0]], atol=1e-12)
    # The mean size is 500; the difference of a score close to zero is relative to it.
    nfm_NC, keras_NC = np.array([[1000.5], [0.01], [-499.0]]), np.array([[1000.0], [0.0], [-500.0]])
    np.testing.assert_allclose(deltas(nfm_NC, keras_NC, "regression"), [[0.0005], [0.00002], [0.002]])
    np.testing.assert_array_equal(deltas(np.zeros((2, 1)), np.zeros((2, 1)), "regression"), 0)
    assert deltas(np.empty((0, 1)), np.empty((0, 1)), "regression").shape == (0, 1)
