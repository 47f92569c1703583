"""The train job: fit the model to a dataset, measure it, and publish model/."""

import json
import logging
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from nfm.contract.publishing.publish import check_replaceable, locked
from nfm.contract.publishing.published import read_published
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.training import checkpoint
from nfm.training.data.batches import Fold, read_folds
from nfm.training.data.rows import Rows
from nfm.training.fit import EachEpoch, Places, fit
from nfm.training.metrics.profile import Collector
from nfm.training.metrics.tally import Tally, make_tally
from nfm.training.model import build, describe, export
from nfm.training.report import page as report
from nfm.training.report import tensorboard
from nfm.training.report.pairs import strongest_pairs
from nfm.training.report.verdict import warn_if_worse_than_constant
from nfm.training.result import Fitted, Trained
from nfm.training.warm_start import FM, start_from_fm, start_from_model

log = logging.getLogger(__name__)


def train(config: Config) -> Trained:
    """Read the dataset, fit and measure the model, and publish it with its report.

    Raises DataError if the dataset or the encoding is missing, they do not belong together, or the train fold is empty;
    DivergedError if the loss or a weight is not finite; BusyError if another training writes to the same folder.
    """
    target, checkpoints = Path(config.workdir, "model"), checkpoint_folder(config)
    check_replaceable(target, artifact.MARKER)
    with locked(checkpoints):
        encoding, folds = read(config)
        places = Places(checkpoints, Path(config.workdir, "tensorboard"))
        spec = encoding.spec
        trained = _fit_and_measure(config, spec, folds, places)
        model = trained.model

        def write_more(folder: Path) -> None:
            (folder / "keras").mkdir()
            model.save(folder / "keras" / "model.keras")
            report.write(folder / "report.html", config, trained)
            trained.profile.save(folder)

        fingerprint = artifact.save(
            target,
            encoding_folder=config.encoding_folder,
            encoding_fingerprint=spec.fingerprint,
            network=describe(spec, config.model),
            weights=export(trained.fitted.weights, spec, config.model),
            facts=_collect_facts(config, trained),
            write_more=write_more,
        )
        for folder in (checkpoints / FM, checkpoints):
            checkpoint.remove(folder)
    if (warning := warn_if_worse_than_constant(config, trained.metrics)) is not None:
        log.warning("%s", warning)
    return replace(trained, fingerprint=fingerprint)


def read(config: Config) -> tuple[Encoding, dict[str, Fold]]:
    """Read the encoding and the folds that were written with it; only the footers of the dataset's files are read.

    Both are of one run of nfm features. Raises DataError if one is missing, they do not belong together, or they were
    made with different settings.
    """
    return read_published([config.encoding_folder, config.dataset_folder], lambda: _read(config))


def _read(config: Config) -> tuple[Encoding, dict[str, Fold]]:
    encoding = read_encoding(config)
    encoding.verify(str(config.encoding_folder))
    folds = read_folds(config.dataset_folder, encoding.spec, config.train.group)
    made_with = json.loads((config.dataset_folder / DATASET_MARKER).read_text()).get("settings")
    if made_with is not None and (changed := list(differences(made_with, config.of_dataset))):
        raise DataError(
            f"{config.dataset_folder} was made with other settings than this configuration: "
            f"{listed(changed, '; ')}. Run nfm features with this configuration, or restore these settings."
        )
    if config.model.use.rates and not folds["train"].has_parts:
        log.warning(
            "%s was written by an older version of nfm, so the model has no target rates. Run nfm features again, or "
            "set model.use.rates: false",
            config.dataset_folder,
        )
    spec = replace(encoding.spec, has_parts=folds["train"].has_parts)
    return replace(encoding, spec=spec), folds


def read_encoding(config: Config) -> Encoding:
    """Read the encoding as the model uses it; raises DataError if it was made for another model task."""
    encoding = Encoding.load(config.encoding_folder)
    encoding = replace(encoding, spec=replace(encoding.spec, uses_bins=config.model.use.bins))
    task, spec = config.model.task, encoding.spec
    reason = None
    if task == "multiclass" and not spec.classes:
        reason = "its encoding has no classes"
    elif task != "multiclass" and spec.classes:
        reason = "its labels are the numbers of classes, as for model.task: multiclass"
    elif task != "binary" and spec.negative_rate != 1:
        reason = "some of its negatives were left out, as only model.task: binary allows"
    if reason is not None:
        raise DataError(
            f"The dataset of {config.workdir} was not made for model.task: {task}: {reason}. Run nfm features with "
            "this configuration, or restore the former model.task."
        )
    return encoding


def checkpoint_folder(config: Config) -> Path:
    """Return the folder of the checkpoint, from which a killed training resumes."""
    return Path(config.workdir, "checkpoint")


def fit_from(
    config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places, each_epoch: EachEpoch | None = None
) -> Fitted:
    """Fit with the configuration's settings, from the weights that `init_from` or `pretrain` name.

    Raises as `start_from_model` and `fit.fit` do.
    """
    if places.logs is not None and config.train.pretrain is None:
        tensorboard.remove(places.logs / FM)
    start = None
    if config.train.init_from is not None:
        start = start_from_model(Path(config.train.init_from), spec, config.model)
    elif config.train.pretrain == "fm":
        start = start_from_fm(spec, config.model, config.train, folds, places)
    return fit(spec, config.model, config.train, folds, places, start, each_epoch)


def _fit_and_measure(config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places) -> Trained:
    fitted = fit_from(config, spec, folds, places)
    fitted.unit.publish(fitted.weights)
    judged = next(fold for fold in reversed(FOLDS) if folds[fold].rows)

    def measure(fold: str, on_rows: Callable[[Rows, Any], None] | None = None) -> Tally:
        return fitted.measure(folds[fold], make_tally(config.model.task, spec.classes, fitted.constant), on_rows)

    in_float32 = None
    table = fitted.weights.tables.embedding
    if config.model.embedding_dtype == "float16":
        in_float32 = measure(judged).metrics()
        with np.errstate(over="ignore"):  # saving refuses a value that is too large
            rounded = table.astype(np.float16)
        if np.isfinite(rounded).all():
            table[:] = rounded
    collector = Collector(spec, config.model.task, describe(spec, config.model).outputs)
    unseen = "valid" if folds["valid"].rows else "train"  # if possible, rows that the model was not fitted to

    def collect(fold: str) -> Callable[[Rows, Any], None]:
        def on_rows(rows: Rows, logits_BC: Any) -> None:
            if fold == "train":
                collector.add_rows(rows)
            if fold == unseen:
                collector.add_scores(logits_BC)

        return on_rows

    tallies = {fold: measure(fold, collect(fold)) for fold in FOLDS if folds[fold].rows}
    return Trained(
        spec,
        json.loads((config.encoding_folder / "statistics.json").read_text()),
        fitted,
        build(spec, config.model, fitted.weights),
        {fold: tally.metrics() for fold, tally in tallies.items()},
        in_float32,
        tallies,
        {fold: folds[fold].rows for fold in FOLDS},
        strongest_pairs(spec, table, next(folds[judged].pieces()).inputs),
        collector.make_profile(unseen),
    )


def _collect_facts(config: Config, trained: Trained) -> dict[str, Any]:
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
        "revision": _read_revision(),
    }


def _read_revision() -> str | None:
    """Return the Git commit of this code; None outside a Git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        completed = subprocess.run(  # noqa: S603 (fixed arguments)
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return completed.stdout.strip()
