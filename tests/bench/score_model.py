"""Inputs of the scoring benchmarks: tables, the encoding, and models with random weights."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.feature import StringIndexer, StringIndexerModel
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.artifact import Network, save
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Spec
from nfm.features.dataset import build
from tests.bench.features import FOLDER, session
from tests.bench.table import FIELDS, NUMBERS, write

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

HOME = FOLDER / "score"
INDEXER, PARTS_MODEL = HOME / "indexer", HOME / "parts.keras"
DIM, HIDDEN = 64, (128, 128)
SMALL = 2_000_000


def table(millions: float) -> Path:
    """Write the benchmark's table with this number of million rows, and return its folder."""
    return write(FOLDER / f"raw-{millions:g}m", round(millions * 1_000_000))


def link_twice(source: Path, name: str) -> Path:
    """Return a folder with two hard links to each file of a table: twice the rows, no extra disk space."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    for copy in ("a", "b"):
        for path in source.glob("*.parquet"):
            linked = folder / f"{copy}-{path.name}"
            if not linked.exists():
                os.link(path.resolve(), linked)
    return folder


def config(
    raw: Path,
    scan: str = "auto",
    workdir: Path = HOME,
    fields: Sequence[str] = FIELDS,
    numbers: Sequence[str] = NUMBERS,
    dim: int = DIM,
    all_train: bool = False,
    **score: Any,
) -> Config:
    """Return a configuration with dense numbers and default settings; `all_train`: no valid and test folds."""
    columns = {
        "key": ("id",),
        "label": "label",
        "categorical": {name: {} for name in fields},
        "numeric": {name: {"as": "dense"} for name in numbers},
    }
    content: dict[str, Any] = {"name": "bench", "workdir": str(workdir), "columns": columns}
    content |= {"source": {"path": str(raw), "scan": scan}}
    content |= {"model": {"embedding_dim": dim, "hidden_units": HIDDEN}, "score": score}
    if all_train:
        content |= {"split": {"valid": 0.0, "test": 0.0}, "train": {"early_stopping": None}}
    return Config.model_validate(content)


def quiet_session(cores: int = 2, memory: str = "4g") -> SparkSession:
    """Start a session like the score job's, with settings that make Python functions fast."""
    spark = session(memory, cores)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "65536")
    # One task per file: by default, Spark makes three tasks of two million rows, which balance badly on two cores.
    spark.conf.set("spark.sql.files.maxPartitionBytes", "64m")
    return spark


def random_weights(network: Network, spec: Spec) -> dict[str, Any]:
    """Return random arrays in the form that a training exports."""
    rng = np.random.default_rng(7)
    shapes = network.weight_shapes(spec)
    return {name: rng.standard_normal(shape, np.float32) * np.float32(0.05) for name, shape in shapes.items()}


def save_random(
    settings: Config, write_more: Callable[[Path], None] = lambda _: None, hidden: tuple[int, ...] = HIDDEN
) -> Spec:
    """Save a model with random weights, without TensorFlow and without a Keras model."""
    spec = Encoding.load(settings.encoding_folder).spec
    network = Network("binary", settings.model.embedding_dim, hidden, "relu")
    publish(settings, network, random_weights(network, spec), write_more)
    return spec


def publish(settings: Config, network: Network, weights: Mapping[str, Any], write_more: Callable[[Path], None]) -> None:
    """Save a model in the configuration's model folder."""
    shutil.rmtree(settings.model_folder, ignore_errors=True)
    save(
        settings.model_folder,
        encoding_folder=settings.encoding_folder,
        network=network,
        weights=weights,
        facts={"name": settings.name},
        write_more=write_more,
    )


def prepare() -> None:
    """Build the encoding and the dataset of two million rows, fit a StringIndexer, and save both Keras models."""
    shutil.rmtree(HOME, ignore_errors=True)  # results of an earlier run
    spark, raw = quiet_session(), table(SMALL / 1e6)
    settings = config(raw)
    build(spark, settings)
    indexer = StringIndexer(inputCols=FIELDS, outputCols=[f"{name}_id" for name in FIELDS], handleInvalid="keep")
    fitted = indexer.fit(spark.read.parquet(str(raw)))
    fitted.write().overwrite().save(str(INDEXER))
    labels = [len(values) + 1 for values in fitted.labelsArray]  # one more for out-of-vocabulary values
    spark.stop()
    spec = Encoding.load(settings.encoding_folder).spec
    sizes = [max(field.size, count) for field, count in zip(spec.fields, labels, strict=True)]
    _save_keras_models(settings, spec, sizes)
    values = sum(field.values for field in spec.fields)
    print(f"prepared: {values:,} values in the vocabularies, {sum(labels):,} in the indexer")


def _save_keras_models(settings: Config, spec: Spec, sizes: Sequence[int]) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    from nfm.training.model import build as build_model
    from nfm.training.model import describe, export, initial_weights
    from tests.bench.score_keras import parts_model

    weights = initial_weights(spec, settings.model, 1)
    model = build_model(spec, settings.model, weights)

    def write_keras(folder: Path) -> None:
        (folder / "keras").mkdir()
        model.save(folder / "keras" / "model.keras")

    publish(settings, describe(spec, settings.model), export(weights, spec, settings.model), write_keras)
    parts_model(sizes, len(spec.dense)).save(PARTS_MODEL)
    (HOME / "sizes.json").write_text(json.dumps(sizes))


def indexer() -> StringIndexerModel:
    """Load the fitted StringIndexer."""
    return StringIndexerModel.load(str(INDEXER))
