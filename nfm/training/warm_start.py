"""Start a training from the weights of an older model or of a factorization machine, instead of random ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from nfm.config.train import Model, Train
from nfm.contract.artifact import Artifact, Network
from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold
from nfm.training.data.labels import correct_bias
from nfm.training.fit import Places, Start, fit
from nfm.training.model import BIAS, TABLES, Weights, describe

FM = "fm"  # what a model starts from, and the folder below those of the model


def start_from_model(folder: Path, spec: Spec, settings: Model) -> Start:
    """The weights of an older model, for one whose encoding is the same or grew from it.

    A row of the table goes to the row of the same id of the same field; rows of new values keep their initial weights.
    The optimizer starts from its initial state. Raises DataError if there is no such model, its encoding is not an
    ancestor, or its network is another.
    """
    artifact = Artifact.load(folder)
    old = artifact.encoding.spec
    if old.fingerprint not in (spec.fingerprint, *spec.ancestors):
        raise DataError(
            f"train.init_from: the model in {folder} ({artifact.network.task}) was trained with the encoding "
            f"{old.fingerprint[:12]}…, and the present one ({spec.fingerprint[:12]}…) did not grow from it: its ids "
            f"mean other values. Make the features with --grow-from {folder}/encoding, or leave train.init_from out."
        )
    before = artifact.metadata["configuration"]["model"]
    model = {name: before[name] for name in ("batch_norm", "output")}
    now = _form(describe(spec, settings), spec) | {name: getattr(settings, name) for name in model}
    changed = list(differences(_form(artifact.network, old) | model, now))
    if changed:
        raise DataError(
            f"train.init_from: the model in {folder} has another form: {listed(changed, '; ')}. Set these as they "
            "were, or leave train.init_from out."
        )

    def set_weights(weights: Weights) -> None:
        older = keras.models.load_model(folder / "keras" / "model.keras", compile=False)
        there = {variable.path: variable.numpy() for variable in older.variables}
        for table, path in zip(weights.tables, TABLES, strict=True):
            _copy_rows(table, there[path], old, spec)
        for path, array in weights.network.items():
            array[:] = there[path]
        correct_bias(weights.network[BIAS], 1 / old.negative_rate)

    return Start(set_weights, artifact.fingerprint)


def _form(of: Network, spec: Spec) -> dict[str, Any]:
    names = ("task", "embedding_dim", "hidden_units", "classes", "activation")
    numbers = {"dense numbers": spec.dense, "numbers in the pooling": spec.field_numbers}
    return {name: getattr(of, name) for name in names} | numbers


def _copy_rows(table: Any, older: Any, old: Spec, new: Spec) -> None:
    """Set the rows of a new table to those of the old one that mean the same."""
    before = {field.name: (offset, field.size) for field, offset in zip(old.fields, old.offsets, strict=True)}
    for field, offset in zip(new.fields, new.offsets, strict=True):
        start, size = before[field.name]
        table[offset : offset + size] = older[start : start + size]
    numbers = len(new.field_numbers)
    if numbers:
        table[new.rows - numbers :] = older[old.rows - numbers : old.rows]


def start_from_fm(spec: Spec, model: Model, settings: Train, folds: Mapping[str, Fold], places: Places) -> Start:
    """Fit a factorization machine first, and start from its embeddings and its linear part (paper, section 4.4).

    `model` is the one that starts from it; the factorization machine's folders are below those of its training.
    """
    plain = {"hidden_units": (), "batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0}
    outputs = {} if model.task == "multiclass" else {"output": "ones"}
    fm = fit(
        spec,
        model.model_copy(update={**plain, **outputs}),
        settings.model_copy(update={"pretrain": None}),
        folds,
        Places(*(folder and folder / FM for folder in (places.checkpoint, places.logs))),
    ).weights

    def set_weights(weights: Weights) -> None:
        for table, trained in zip(weights.tables, fm.tables, strict=True):
            table[:] = trained
        for path in (BIAS, "dense_linear/kernel"):
            if path in weights.network:
                weights.network[path][:] = fm.network[path]

    return Start(set_weights, FM)
