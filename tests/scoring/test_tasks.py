"""The score job with several classes, bags with weights and a float16 table, on a real Spark session."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import nfm.scoring
from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.artifact import Artifact, Network
from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.errors import ConfigError, DataError
from nfm.features.dataset import build
from nfm.scoring.health.tally import Tally
from nfm.scoring.prepare import open_all
from nfm.scoring.preview.plan import plan
from nfm.scoring.score import score_table
from nfm.scoring.scorer import score_batch
from nfm.scoring.summary import summary
from tests.forward.test_rows_forward import brute_force

CLASSES = ("a.b", "two words", "", "größe`")
COLUMNS = ["score_a.b", "score_two words", "score_", "score_größe`"]
MULTICLASS = Network("multiclass", 3, (4,), "relu", CLASSES, "float16")
SCHEMA = "id long, tags array<string>, tag_weights array<double>, colour string, label int"
TRAINED_ON: list[tuple[Any, ...]] = [
    (0, ["x", "y"], [1.0, 0.5], "red", 0),
    (1, ["x", None, "y"], [1.0, 1.0, 2.0], None, 1),
    (2, [], [], "red", 0),
    (3, None, None, "blue", 1),
]
# x and y are in the vocabulary.
TONIGHT: list[tuple[Any, ...]] = [
    (10, ["y", "unseen", "x", "x"], [0.5, 2.0, 1.0, -1.0], "red"),
    (11, None, None, "unseen"),
    (12, [], [], None),
    (13, [None, "new"], [1.0, 3.0], "blue"),
    (14, ["x"] * 70, [0.25] * 70, "blue"),
]


def config(workdir: Path, source: Path, **score: Any) -> Config:
    return Config.model_validate(
        {
            "name": "shop",
            "workdir": str(workdir),
            "source": {"path": str(source)},
            "columns": {
                "key": ("id",),
                "label": "label",
                "categorical": {"tags": {"bag": True, "weights": "tag_weights"}, "colour": {}},
            },
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
            "score": score,
        }
    )


def save_model(folder: Path, target: Path, network: Network, **changes: Any) -> None:
    random = np.random.default_rng(1)
    shapes = network.weight_shapes(Encoding.load(folder / "encoding").spec)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    artifact.save(
        target,
        encoding_folder=folder / "encoding",
        network=network,
        weights={**weights, **changes},
        facts={"name": "shop"},
        write_more=lambda _: None,
    )


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with an encoding, tonight's table, and a model with four classes."""
    folder = tmp_path_factory.mktemp("shop")
    spark.createDataFrame(TRAINED_ON, SCHEMA).coalesce(1).write.parquet(str(folder / "raw"))
    build(spark, config(folder, folder / "raw"))
    tonight = spark.createDataFrame(TONIGHT, SCHEMA.rpartition(",")[0])
    tonight.repartition(2).write.parquet(str(folder / "tonight"))
    save_model(folder, folder / "model", MULTICLASS)
    return folder


def raw_batch() -> pa.RecordBatch:
    names = ["id", "tags", "tag_weights", "colour"]
    return pa.RecordBatch.from_pylist([dict(zip(names, row, strict=True)) for row in TONIGHT])


def expected(model: Artifact) -> Any:
    spec = model.encoding.spec
    rows = arrange_inputs(spec, model.encoding.encode(raw_batch()))
    return brute_force(spec, model.network, dict(model.weights), rows)


def scores(folder: Path) -> list[dict[str, Any]]:
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(rows, key=lambda row: int(row["id"]))


def test_every_class_has_a_column(spark: SparkSession, made: Path) -> None:
    settings = config(made, made / "tonight", columns=("colour",))
    report = score_table(spark, settings)
    rows, model = scores(made / "scores"), Artifact.load(made / "model")
    assert list(rows[0]) == ["id", "colour", *COLUMNS]
    assert [row["id"] for row in rows] == [10, 11, 12, 13, 14]
    actual, expected_scores = np.array([[row[name] for name in COLUMNS] for row in rows]), expected(model)
    np.testing.assert_allclose(actual, expected_scores, atol=1e-4)
    assert len(np.unique(actual.round(3))) > 10  # scores differ by row and class
    np.testing.assert_allclose(actual.sum(axis=1), 1, atol=1e-6)

    assert report == json.loads((made / "scores/_report.json").read_text())
    assert report["task"] == "multiclass"
    assert list(report["scores"]) == COLUMNS
    for i, name in enumerate(COLUMNS):
        class_scores = actual[:, i]
        assert (report["scores"][name]["min"], report["scores"][name]["max"]) == (
            class_scores.min(),
            class_scores.max(),
        )
        assert report["scores"][name]["mean"] == pytest.approx(class_scores.mean())
    # Members: 4, 1 missing one for the null bag, 0, 2, 70. In training: 2, 3, 0, and 1 for the null bag.
    assert report["values"] == {
        "tags": {
            "values": 77,
            "missing": {"count": 2, "rate": 2 / 77, "rate_in_training": 2 / 6},
            "out_of_vocabulary": {"count": 2, "rate": 2 / 77, "rate_in_training": 0.0},
            "new_values": [{"value": "new", "count": 1}, {"value": "unseen", "count": 1}],
            "new_values_exact": True,
            "psi": None,
        },
        "colour": {
            "values": 5,
            "missing": {"count": 1, "rate": 1 / 5, "rate_in_training": 1 / 4},
            "out_of_vocabulary": {"count": 1, "rate": 1 / 5, "rate_in_training": 0.0},
            "new_values": [{"value": "unseen", "count": 1}],
            "new_values_exact": True,
            "psi": None,
        },
    }
    for path in (made / "scores").glob("*.parquet"):
        fingerprints = {"model_fingerprint": model.fingerprint, "encoding_fingerprint": model.encoding.spec.fingerprint}
        assert json.loads(pq.read_schema(path).metadata[b"nfm"]) == fingerprints

    lines = summary(settings, report).splitlines()
    assert lines[1:5] == [f"  {name:<15} {score_range(report, name)}" for name in COLUMNS]
    assert lines[6].split() == ["tags", "2.6%", "(33.3%)", "2.6%", "(0.0%)", "–"]


def score_range(report: Any, name: str) -> str:
    score = report["scores"][name]
    return f"{score['mean']:.4f} on average, {score['min']:.4f} to {score['max']:.4f}"


def test_bag_members_are_counted_and_new_values_named(made: Path) -> None:
    model, tally = Artifact.load(made / "model"), Tally()
    actual = score_batch(model, raw_batch(), tally=tally)
    assert tally.values == {"tags": [2, 2, 73], "colour": [1, 1, 3]}
    assert (tally.new, tally.dropped) == ({"tags": {"unseen": 1, "new": 1}, "colour": {"unseen": 1}}, [])
    np.testing.assert_allclose(actual, expected(model), atol=1e-4)
    no_scores = score_batch(model, raw_batch().slice(0, 0), tally=(empty := Tally()))
    assert (no_scores.shape, empty.values) == ((0, 4), {"tags": [0, 0, 0], "colour": [0, 0, 0]})


def test_a_worker_does_not_import_pandas(made: Path, tmp_path: Path) -> None:
    # Importing pandas would cost every worker a third of a second and 25 MB, and scoring does not use it.
    script = """
import json, sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.artifact import Artifact
from nfm.scoring.tasks import Output, score_rows
from nfm.table.parquet.files import Files
from nfm.table.splits import Piece, file_at
from nfm.table.write import Layout, Writer

model, table, written = map(Path, sys.argv[1:])
model, paths = Artifact.load(model), sorted(table.rglob("*.parquet"))
columns = pq.read_schema(paths[0])
files = Files("the table", columns, pa.RecordBatch.from_arrays([], schema=pa.schema([])), True)
split = tuple(Piece(file_at(str(path)), 0, path.stat().st_size) for path in paths)
output = Output(("id",), (), encoded=False, explain=2)
schema = output.schema(model, columns)
chunk = score_rows(0, files.read(split), model, output, schema, Writer(written, Layout((), ())))
print(json.dumps([sum(file.rows for file in chunk.files), chunk.tally.new, "pandas" in sys.modules]))
"""
    new = {"tags": {"unseen": 1, "new": 1}, "colour": {"unseen": 1}}
    command = [sys.executable, "-c", script, str(made / "model"), str(made / "tonight"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert json.loads(run.stdout) == [5, new, False]


def test_a_regression_scores_numbers(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    save_model(made, tmp_path / "model", Network("regression", 3, (), "relu"), bias=np.array([100], np.float32))
    settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "scores")}
    report = score_table(spark, config(made, made / "tonight", **settings))
    actual, expected_scores = (
        [row["score"] for row in scores(tmp_path / "scores")],
        expected(Artifact.load(tmp_path / "model")),
    )
    np.testing.assert_allclose(actual, expected_scores[:, 0], rtol=1e-5)
    assert report["score"]["mean"] == pytest.approx(np.mean(actual))
    assert (report["score"]["min"], report["score"]["max"], report["task"]) == (min(actual), max(actual), "regression")
    assert max(actual) > 50  # not a probability


def test_an_infinite_score_is_never_published(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    save_model(made, tmp_path / "model", Network("regression", 3, (), "relu"), bias=np.array([math.inf], np.float32))
    settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "scores")}
    with pytest.raises(DataError, match=r"^5 of 5 rows of .*tonight have a NaN or infinite score"):
        score_table(spark, config(made, made / "tonight", **settings))
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("classes", "columns", "message"),
    [
        (("red", "blue", "Red"), (), r"^score\.model: the output would have the columns 'score_red' and 'score_Red'"),
        (
            ("red", "Blue"),
            ("SCORE_BLUE",),
            r"^score\.columns: the output has a column 'score_Blue' already.*_BLUE' out",
        ),
        (("red", "Blue"), ("colour", "ID"), r"^score\.columns: the output has a column 'id' already.*leave 'ID' out"),
        ((), ("Score",), r"^score\.columns: the output has a column 'score' already.*leave 'Score' out"),
        ((), ("score",), r"^score\.columns: the output has a column 'score' already"),
    ],
    ids=str,
)
def test_two_columns_with_the_same_name_are_refused_before_any_work(
    spark: SparkSession, made: Path, tmp_path: Path, classes: tuple[str, ...], columns: tuple[str, ...], message: str
) -> None:
    task = "multiclass" if classes else "binary"
    save_model(made, tmp_path / "model", Network(task, 3, (), "relu", classes))
    settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "scores"), "columns": columns}
    with pytest.raises(ConfigError, match=message) as refused:
        score_table(spark, config(made, made / "tonight", **settings))
    assert refused.value.exit_code == 2
    assert not (tmp_path / "scores").exists()


def test_the_plan_and_the_summary_name_the_first_of_many_classes(
    spark: SparkSession, made: Path, tmp_path: Path
) -> None:
    names = tuple(f"c{i}" for i in range(13))
    save_model(made, tmp_path / "model", Network("multiclass", 3, (), "relu", names))
    settings = config(made, made / "tonight", model=str(tmp_path / "model"))
    shown = [f"score_c{i}" for i in range(10)]
    assert f"  writes    {', '.join(['id', *shown])}, … and 3 more\n" in plan(
        spark, settings, *open_all(spark, settings)
    )
    nothing = {"min": None, "mean": None, "max": None, "psi": None}
    report = {
        "rows": 0,
        "source": "raw",
        "skipped_files": [],
        "bad_rows": 0,
        "model": "model",
        "model_fingerprint": "f",
        "scores": {f"score_{name}": nothing for name in names},
        "values": {"tags": {"values": 0, "missing": {"count": 0, "rate": None, "rate_in_training": 0.5}, "psi": None}},
    }
    lines = [line.split() for line in summary(settings, report).splitlines()]
    assert lines[1:12] == [*([name, "none"] for name in shown), ["…", "and", "3", "more"]]
    assert lines[13] == ["tags", "–", "–", "–"]


@pytest.mark.parametrize("scan", ["parquet", "spark"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("partition_by", [(), ("colour",)], ids=["whole", "folders"])
def test_the_job_scores_bit_for_bit_like_the_scorer(
    spark: SparkSession, made: Path, tmp_path: Path, scan: str, dtype: str, partition_by: tuple[str, ...]
) -> None:
    """Bags with weights, both scans, both types of the embedding table, with and without partitions."""
    save_model(made, tmp_path / "model", Network("binary", 3, (4,), "tanh", (), dtype))
    settings = {"model": str(tmp_path / "model"), "output": str(tmp_path / "scores"), "partition_by": partition_by}
    base = config(made, made / "tonight", **settings)
    score_table(spark, base.model_copy(update={"source": base.source.model_copy(update={"scan": scan})}))
    actual = {row["id"]: row["score"] for row in spark.read.parquet(str(tmp_path / "scores")).collect()}
    alone = nfm.scoring.load(tmp_path / "model").score(raw_batch()).to_pylist()
    assert actual == dict(zip([row[0] for row in TONIGHT], alone, strict=True))
