"""The train job's work: dataset and encoding → model/."""

import json
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

import nfm
from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.publish import check_replaceable, locked
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.training import checkpoint
from nfm.training.data.batches import Fold, read_folds
from nfm.training.data.labels import correct_bias
from nfm.training.data.rows import Rows
from nfm.training.fit import EachEpoch, Places, fit
from nfm.training.metrics.profile import Collector
from nfm.training.metrics.tally import Tally, make_tally
from nfm.training.model import BIAS, build, describe, export
from nfm.training.report import page as report
from nfm.training.report import tensorboard
from nfm.training.report.pairs import strongest_pairs
from nfm.training.result import Fitted, Trained
from nfm.training.warm_start import FM, start_from_fm, start_from_model


def train(config: Config) -> Trained:
    """Read the dataset, fit, measure, and publish the artifact with its report.

    Raises DataError if dataset or encoding is missing, they do not belong together, there is nothing to train on, or
    the loss is not finite; BusyError if another training is running.
    """
    target, checkpoints = Path(config.workdir, "model"), checkpoint_folder(config)
    check_replaceable(target, artifact.MARKER)
    with locked(checkpoints):
        encoding, folds = read(config)
        places = Places(checkpoints, Path(config.workdir, "tensorboard"))
        trained = _trained(config, encoding.spec, folds, places)
        model, spec = trained.model, encoding.spec

        def write_more(folder: Path) -> None:
            (folder / "keras").mkdir()
            model.save(folder / "keras" / "model.keras")
            report.write(folder / "report.html", config, trained)
            trained.profile.save(folder)

        artifact.save(
            target,
            encoding_folder=config.encoding_folder,
            network=describe(spec, config.model),
            weights=export(trained.fitted.weights, spec, config.model),
            facts=_facts(config, trained),
            write_more=write_more,
        )
        for folder in (checkpoints / FM, checkpoints):
            checkpoint.remove(folder)
    return trained


def read(config: Config) -> tuple[Encoding, dict[str, Fold]]:
    """Return the encoding and the folds that were written with it; of their files, only the footers are read.

    Raises DataError if one is missing, they do not belong together, or they were made with other settings.
    """
    encoding = read_encoding(config)
    encoding.verify(str(config.encoding_folder))
    folds = read_folds(config.dataset_folder, encoding.spec, config.train.group)
    made_with = json.loads((config.dataset_folder / DATASET_MARKER).read_text()).get("settings")
    if made_with is not None and (changed := list(differences(made_with, config.of_dataset))):
        raise DataError(
            f"{config.dataset_folder} was made with other settings than this configuration's: "
            f"{listed(changed, '; ')}. Run jobs/features.py with this configuration, or put them back."
        )
    return encoding, folds


def read_encoding(config: Config) -> Encoding:
    """The encoding, if the task is the one that it was made for."""
    encoding = Encoding.load(config.encoding_folder)
    task, spec = config.model.task, encoding.spec
    why = None
    if task == "multiclass" and not spec.classes:
        why = "its encoding has no classes"
    elif task != "multiclass" and spec.classes:
        why = "its labels are the numbers of classes, which is model.task: multiclass"
    elif task != "binary" and spec.negative_rate != 1:
        why = "some of its negatives were left out, which is model.task: binary"
    if why is not None:
        raise DataError(
            f"The dataset of {config.workdir} was made for another task than model.task: {task}: {why}. Run "
            "jobs/features.py with this configuration, or put model.task back."
        )
    return encoding


def checkpoint_folder(config: Config) -> Path:
    """Where a training keeps what a killed one goes on from."""
    return Path(config.workdir, "checkpoint")


def fit_from(
    config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places, each_epoch: EachEpoch | None = None
) -> Fitted:
    """Fit as the configuration says, from the start that it names."""
    if places.logs is not None and config.train.pretrain is None:
        tensorboard.remove(places.logs / FM)
    start = None
    if config.train.init_from is not None:
        start = start_from_model(Path(config.train.init_from), spec, config.model)
    elif config.train.pretrain == "fm":
        start = start_from_fm(spec, config.model, config.train, folds, places)
    return fit(spec, config.model, config.train, folds, places, start, each_epoch)


def _trained(config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places) -> Trained:
    done = fit_from(config, spec, folds, places)
    correct_bias(done.weights.network[BIAS], spec.negative_rate)
    judged = next(fold for fold in reversed(FOLDS) if folds[fold].rows)

    def measured(fold: str, also: Callable[[Rows, Any], None] | None = None) -> Tally:
        return done.measure(folds[fold], make_tally(config.model.task, spec.classes, done.constant), also)

    in_float32 = None
    table = done.weights.tables.embedding
    if config.model.embedding_dtype == "float16":
        in_float32 = measured(judged).metrics()
        with np.errstate(over="ignore"):  # what is too large is refused when it is saved
            rounded = table.astype(np.float16)
        if np.isfinite(rounded).all():
            table[:] = rounded
    collector = Collector(spec, config.model.task, describe(spec, config.model).outputs)
    unseen = "valid" if folds["valid"].rows else "train"  # rows that the model was not fitted to, if there are any

    def collect(fold: str) -> Callable[[Rows, Any], None]:
        def also(rows: Rows, logits_BC: Any) -> None:
            if fold == "train":
                collector.add_rows(rows)
            if fold == unseen:
                collector.add_scores(logits_BC)

        return also

    tallies = {fold: measured(fold, collect(fold)) for fold in FOLDS if folds[fold].rows}
    return Trained(
        spec,
        json.loads((config.encoding_folder / "statistics.json").read_text()),
        done,
        build(spec, config.model, done.weights),
        {fold: one.metrics() for fold, one in tallies.items()},
        in_float32,
        tallies,
        {fold: folds[fold].rows for fold in FOLDS},
        strongest_pairs(spec, table, next(folds[judged].pieces()).inputs),
        collector.make_profile(unseen),
    )


def _facts(config: Config, trained: Trained) -> dict[str, Any]:
    return {
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": config.model_dump(mode="json", by_alias=True),
        "rows": trained.rows,
        "metrics": trained.metrics,
        "metrics_in_float32": trained.in_float32,
        "epochs": len(trained.fitted.history["loss"]),
        "best_epoch": trained.fitted.best_epoch,
        "libraries": {library.__name__: library.__version__ for library in (tf, keras, np, pa)},
        "nfm": nfm.__version__,
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The commit this code is from; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
