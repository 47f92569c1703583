"""The train job: fit the model to a dataset, measure it, and publish model/."""

import json
import logging
import shutil
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
from nfm.config.recipe import complete
from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.publishing.publish import check_replaceable, locked
from nfm.contract.publishing.published import read_published
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.forward.catalogue import CATALOGUE
from nfm.training import checkpoint
from nfm.training.data.batches import Fold, join_folds, read_folds
from nfm.training.data.rows import Rows
from nfm.training.fit import EachEpoch, Places, Start, fit
from nfm.training.metrics.profile import Collector
from nfm.training.metrics.tally import make_tally
from nfm.training.model import build, describe, export
from nfm.training.ranking.data import learn_from, read_ranked
from nfm.training.ranking.evaluate import RankingTally
from nfm.training.report import page as report
from nfm.training.report import tensorboard
from nfm.training.report.pairs import strongest_pairs
from nfm.training.report.verdict import list_warnings
from nfm.training.result import Fitted, Trained
from nfm.training.warm_start import FM, choose_start

log = logging.getLogger(__name__)

OnRows = Callable[[Rows, Any], None]
REFIT = "refit"  # subfolder for the checkpoints and events of the second training


def train(config: Config) -> Trained:
    """Read the dataset, fit and measure the model, and publish it with its report.

    Raises DataError if the dataset or the encoding is missing, they do not belong together, or the train fold is empty;
    DivergedError if the loss or a weight is not finite; BusyError if another training writes to the same folder.
    """
    target, checkpoints = config.below("model"), checkpoint_folder(config)
    check_replaceable(target, artifact.MARKER)
    with locked(checkpoints):
        encoding, folds = read(config)
        config = complete(config, folds["train"].rows)
        places = Places(checkpoints, config.below("tensorboard"))
        for name, used in ((FM, config.train.pretrain == "fm"), (REFIT, config.train.refit)):
            if not used:
                tensorboard.remove(config.below("tensorboard") / name)
        trained = _fit_and_measure(config, encoding.spec, folds, places)
        model, spec = trained.model, encoding.spec

        def write_more(folder: Path) -> None:
            (folder / "keras").mkdir()
            model.save(folder / "keras" / "model.keras")
            report.write(folder / "report.html", config, trained)
            if trained.profile is not None:
                trained.profile.save(folder)
            if config.ranking is not None:
                (folder / CATALOGUE).parent.mkdir()
                shutil.copyfile(config.dataset_folder / CATALOGUE, folder / CATALOGUE)

        fingerprint = artifact.save(
            target,
            encoding_folder=config.encoding_folder,
            encoding_fingerprint=spec.fingerprint,
            network=describe(spec, config.model),
            weights=export(trained.fitted.weights, spec, config.model),
            facts=_collect_facts(config, trained),
            write_more=write_more,
        )
        for folder in (checkpoints / FM, checkpoints / REFIT, checkpoints):
            checkpoint.remove(folder)
    for warning in list_warnings(config, trained.metrics, trained.fitted):
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
    if config.ranking is not None:
        folds = read_ranked(config, encoding)
    else:
        folds = read_folds(config.dataset_folder, encoding.spec, config.train.group)
    made_with = json.loads((config.dataset_folder / DATASET_MARKER).read_text()).get("settings")
    for number in (made_with or {}).get("columns", {}).get("numeric", {}).values():
        if "buckets" not in number:
            number.setdefault("as", "dense")  # the default of older versions
    if made_with is not None and (changed := list(differences(made_with, config.of_dataset))):
        raise DataError(
            f"{config.dataset_folder} was made with other settings than this configuration: "
            f"{listed(changed, '; ')}. Run nfm features with this configuration, or restore these settings."
        )
    if config.ranking is None and config.model.use.rates and not folds["train"].has_parts:
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
    return config.below("checkpoint")


def fit_from(
    config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places, each_epoch: EachEpoch | None = None
) -> Fitted:
    """Fit with the configuration's settings, from the weights that `init_from` or `pretrain` name; without a refit.

    Raises as `choose_start` and `fit.fit` do.
    """
    config = complete(config, folds["train"].rows)
    start = choose_start(config, spec, folds, places)
    return fit(spec, config.model, config.train, folds, places, start, each_epoch)


def _refit(
    config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places, start: Start | None, epochs: int
) -> Fitted:
    """Fit again, to the rows of the train and the valid fold, for this number of epochs."""
    log.info("the second training (train.refit) has the rows of the train and the valid fold, for %d epochs", epochs)
    joined = join_folds(folds["train"], folds["valid"])
    settings = config.train.model_copy(update={"early_stopping": None})
    folds = {**folds, "train": joined, "valid": Fold(spec, (), False, "")}
    return fit(spec, config.model, settings, folds, places.below(REFIT), start, last_epoch=epochs)


def _fit_and_measure(config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places) -> Trained:
    """Fit, and measure the published model on each fold; with a refit, the first training's model on the valid fold."""
    refit = config.train.refit
    if refit and not folds["valid"].rows:
        raise DataError(
            "train.refit adds the rows of the valid fold to those of the train fold, but the valid fold has no rows. "
            "Give it a larger share (split.valid) and run nfm features again, or remove train.refit."
        )
    is_ranking = config.ranking is not None
    judged = next(fold for fold in reversed(FOLDS) if folds[fold].rows)
    # Fold of the profile's scores: if possible, rows that the published model was not fitted to.
    unseen = "test" if refit and folds["test"].rows else "valid" if folds["valid"].rows else "train"
    collector = Collector(spec, config.model.task, describe(spec, config.model).outputs)

    def measure(fold: str, fitted: Fitted) -> Any:
        if is_ranking:
            return fitted.measure(folds[fold], RankingTally(with_baselines=True))

        def on_rows(rows: Rows, logits_BC: Any) -> None:
            if fold == "train":
                collector.add_rows(rows)
            if fold == unseen:
                collector.add_scores(logits_BC)

        return _measure(config, spec, fitted, folds[fold], on_rows)

    start = choose_start(config, spec, folds, places)
    fitted = fit(spec, config.model, config.train, folds, places, start)
    in_float32, of_first = _finish_weights(config, spec, fitted, folds[judged]), {}
    if refit:
        of_first = {"valid": measure("valid", fitted)}
        history, epochs, constant = fitted.history, fitted.best_epoch, fitted.constant
        del fitted  # its tables need as much memory as those of the second training
        fitted = _refit(config, spec, folds, places, start, epochs)
        fitted = replace(fitted, history=history, best_epoch=epochs, constant=constant)
        folds = learn_from(folds, ("train", "valid")) if is_ranking else folds
        refitted_in_float32 = _finish_weights(config, spec, fitted, folds[judged])
        in_float32 = in_float32 if judged == "valid" else refitted_in_float32
    # Lists of a ranking could only repeat the interactions of the train fold.
    measured = [fold for fold in FOLDS if folds[fold].rows and not (is_ranking and fold == "train")]
    tallies = {fold: of_first.get(fold) or measure(fold, fitted) for fold in measured}
    return Trained(
        config,
        spec,
        json.loads((config.encoding_folder / "statistics.json").read_text()),
        fitted,
        build(spec, config.model, fitted.weights),
        {"train": {"rows": folds["train"].rows}} | {fold: tally.metrics() for fold, tally in tallies.items()},
        in_float32,
        tallies,
        {fold: folds[fold].rows for fold in FOLDS},
        ()
        if is_ranking
        else strongest_pairs(spec, fitted.weights.tables.embedding, next(folds[judged].pieces()).inputs),
        None if is_ranking else collector.make_profile(unseen),
    )


def _measure(config: Config, spec: Spec, fitted: Fitted, fold: Fold, on_rows: OnRows | None = None) -> Any:
    if config.ranking is not None:
        return fitted.measure(fold, RankingTally())
    return fitted.measure(fold, make_tally(config.model.task, spec.classes, fitted.constant), on_rows)


def _finish_weights(config: Config, spec: Spec, fitted: Fitted, judged: Fold) -> Mapping[str, Any] | None:
    """Convert fitted weights to those that are published, in place: unit, and precision of the embeddings.

    Returns the metrics of a fold before the embeddings are rounded; None if they are not.
    """
    fitted.unit.publish(fitted.weights)
    if config.model.embedding_dtype == "float32":
        return None
    in_float32: Mapping[str, Any] = _measure(config, spec, fitted, judged).metrics()
    table = fitted.weights.tables.embedding
    with np.errstate(over="ignore"):  # saving refuses a value that is too large
        rounded = table.astype(np.float16)
    if np.isfinite(rounded).all():
        table[:] = rounded
    return in_float32


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
        "refit": _describe_refit(config, trained),
        "libraries": {library.__name__: library.__version__ for library in (tf, keras, np, pa)},
        "nfm": nfm.__version__,
        "revision": _read_revision(),
    }


def _describe_refit(config: Config, trained: Trained) -> dict[str, Any] | None:
    """Describe the second training; `metrics` of the valid fold, `epochs` and `best_epoch` are of the first one."""
    if not config.train.refit:
        return None
    rows = trained.rows["train"] + trained.rows["valid"]
    return {"folds": ["train", "valid"], "rows": rows, "epochs": trained.fitted.best_epoch}


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
