"""Warm starts: training from the weights of an older model or of a factorization machine, not from random ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from nfm.config.settings import Config
from nfm.config.train import Model, Train
from nfm.contract.artifact import Artifact, Network
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold
from nfm.training.fit import Places, Start, fit
from nfm.training.model import BIAS, TABLES, Weights, describe
from nfm.training.unit import Unit

FM = "fm"  # name of this start, and of the subfolder for its checkpoints and events


def choose_start(config: Config, spec: Spec, folds: Mapping[str, Fold], places: Places) -> Start | None:
    """Return the start that `init_from` or `pretrain` names, if any.

    Raises as `start_from_model` and `start_from_fm` do.
    """
    if config.train.init_from is not None:
        return start_from_model(Path(config.train.init_from), spec, config.model)
    if config.train.pretrain == "fm":
        return start_from_fm(spec, config.model, config.train, folds, places)
    return None


def start_from_model(folder: Path, spec: Spec, settings: Model) -> Start:
    """Return a start from the weights of an older model, whose encoding is the same or was grown into `spec`.

    Each row of a table is copied to the row of the same id of the same field; rows of new values keep their initial
    weights. The first predictions are those of the older model, whatever the unit of either training. The optimizer
    starts from its initial state. Raises DataError if there is no model in `folder`, its
    encoding is not an ancestor of `spec`, or its network has a different form.
    """
    artifact = Artifact.load(folder)
    old = artifact.encoding.spec
    if old.fingerprint not in (spec.fingerprint, *spec.ancestors):
        raise DataError(
            f"train.init_from: the model in {folder} ({artifact.network.task}) was trained with the encoding "
            f"{old.fingerprint[:12]}…, but the dataset's encoding ({spec.fingerprint[:12]}…) was not grown from it, "
            f"so its ids stand for other values. Run nfm features with --grow-from {folder}/encoding, or leave "
            "train.init_from out."
        )
    before = artifact.metadata["configuration"]["model"]
    before = {"batch_norm_epsilon": 1e-5, **before}  # of models that are older than the setting
    names = ["batch_norm", "output", *(["batch_norm_epsilon"] if settings.batch_norm else [])]
    model = {name: before[name] for name in names}
    form = _describe_form(describe(spec, settings), spec) | {name: getattr(settings, name) for name in names}
    changed = list(differences(_describe_form(artifact.network, old) | model, form))
    if changed:
        raise DataError(
            f"train.init_from: the model in {folder} has a different form: {listed(changed, '; ')}. Restore these "
            "settings, or leave train.init_from out."
        )

    def set_weights(weights: Weights, unit: Unit) -> None:
        file = folder / "keras" / "model.keras"
        older = artifact.read_more(lambda: keras.models.load_model(file, compile=False))
        arrays = {variable.path: variable.numpy() for variable in older.variables}
        for table, path in zip(weights.tables, TABLES, strict=True):
            _copy_rows(table, arrays[path], old, spec)
        for path, array in weights.network.items():
            array[:] = arrays[path]
        unit.unpublish(weights)

    return Start(set_weights, artifact.fingerprint)


def _describe_form(network: Network, spec: Spec) -> dict[str, Any]:
    """Return everything that must be equal in both models, by names for messages."""
    names = ("task", "embedding_dim", "hidden_units", "classes", "activation")
    numbers = {
        "dense numbers": spec.dense,
        "numbers in the pooling": spec.field_numbers,
        "edges of bins": {number.name: number.edges for number in spec.binned},
        "fields with target rates": network.rates,
        "counts beside the target rates": network.counts,
    }
    return {name: getattr(network, name) for name in names} | numbers


def _copy_rows(table: Any, older: Any, old: Spec, new: Spec) -> None:
    """Copy each row of an old table to the row for the same value, or number, of a new table."""
    old_rows = {field.name: (offset, field.size) for field, offset in zip(old.fields, old.offsets, strict=True)}
    for field, offset in zip(new.fields, new.offsets, strict=True):
        start, size = old_rows[field.name]
        table[offset : offset + size] = older[start : start + size]
    size = new.bin_offsets[-1] - new.bin_offsets[0]
    table[new.bin_offsets[0] : new.bin_offsets[-1]] = older[old.bin_offsets[0] : old.bin_offsets[0] + size]
    numbers = len(new.field_numbers)
    if numbers:
        table[new.rows - numbers :] = older[old.rows - numbers : old.rows]


def start_from_fm(spec: Spec, model: Model, settings: Train, folds: Mapping[str, Fold], places: Places) -> Start:
    """Fit a factorization machine, and return a start from its embeddings and linear part (paper, section 4.4).

    `model`: settings of the model that will start from it. The factorization machine's checkpoints and events are
    written to the subfolder `fm` of those in `places`. Raises as `fit` does.
    """
    plain = {"hidden_units": (), "batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0}
    outputs = {} if model.task == "multiclass" else {"output": "ones"}
    fm = fit(
        spec,
        model.model_copy(update={**plain, **outputs}),
        settings.model_copy(update={"pretrain": None}),
        folds,
        places.below(FM),
    ).weights

    def set_weights(weights: Weights, _: Unit) -> None:  # both trainings have the same rows, and so the same unit
        for table, trained in zip(weights.tables, fm.tables, strict=True):
            table[:] = trained
        for path in (BIAS, "dense_linear/kernel"):
            if path in weights.network:
                weights.network[path][:] = fm.network[path]

    return Start(set_weights, FM)
