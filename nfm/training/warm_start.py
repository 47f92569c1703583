"""What a model starts from, where it is not chance: an older model's weights, or a factorization machine's."""

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
from nfm.training.data.labels import correct
from nfm.training.fit import Initial, fit
from nfm.training.model import network

TABLES = ("embedding", "linear")
FM = "fm"  # what a model starts from, and the folder below those of the model


def from_artifact(folder: Path, spec: Spec, settings: Model) -> tuple[Initial, str]:
    """The weights of an older model, for one whose encoding is the same or grew from it.

    A row of the table goes to the row of the same id of the same field; rows of new values keep their initial weights.
    The optimizer starts from its initial state.

    Returns:
        A function that sets a new model's weights, and the older model's fingerprint.

    Raises:
        DataError: there is no such model, its encoding is not an ancestor, or its network is another.
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
    changed = list(
        differences(
            _form(artifact.network, old) | model,
            _form(network(spec, settings), spec) | {name: getattr(settings, name) for name in model},
        )
    )
    if changed:
        raise DataError(
            f"train.init_from: the model in {folder} has another form: {listed(changed, '; ')}. Set these as they "
            "were, or leave train.init_from out."
        )

    def initial(model: keras.Model) -> None:
        older = keras.models.load_model(folder / "keras" / "model.keras", compile=False)
        there = {variable.path: variable for variable in older.variables}
        tables = [model.get_layer(name).table.path for name in TABLES]
        for variable in model.variables:
            if variable.path in tables:
                variable.assign(_carried(variable.numpy(), there[variable.path].numpy(), old, spec))
            elif variable.path in there and "seed" not in variable.path:
                variable.assign(there[variable.path])
        correct(model, 1 / old.negative_rate)

    return initial, artifact.fingerprint


def _form(of: Network, spec: Spec) -> dict[str, Any]:
    names = ("task", "embedding_dim", "hidden_units", "classes", "activation")
    numbers = {"dense numbers": spec.dense, "numbers in the pooling": spec.field_numbers}
    return {name: getattr(of, name) for name in names} | numbers


def _carried(fresh: Any, older: Any, old: Spec, new: Spec) -> Any:
    """The new table's rows, with those of the old one that have the same meaning."""
    before = {field.name: (offset, field.size) for field, offset in zip(old.fields, old.offsets, strict=True)}
    for field, offset in zip(new.fields, new.offsets, strict=True):
        start, size = before[field.name]
        fresh[offset : offset + size] = older[start : start + size]
    numbers = len(new.field_numbers)
    if numbers:
        fresh[new.rows - numbers : new.rows] = older[old.rows - numbers : old.rows]
    return fresh


def from_fm(
    spec: Spec,
    model_settings: Model,
    settings: Train,
    folds: Mapping[str, Fold],
    folder: Path | None,
    logs: Path | None = None,
) -> tuple[Initial, str]:
    """The embeddings and the linear part of a factorization machine, which is fitted first (paper, section 4.4).

    The checkpoints and the event files of the machine are below those of the model, in `fm/`.
    """
    plain = {"hidden_units": (), "batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0}
    outputs = {} if model_settings.task == "multiclass" else {"output": "ones"}
    fm = fit(
        spec,
        model_settings.model_copy(update={**plain, **outputs}),
        settings.model_copy(update={"pretrain": None}),
        folds,
        folder and folder / FM,
        logs=logs and logs / FM,
    ).model

    def initial(model: keras.Model) -> None:
        for name in TABLES:
            model.get_layer(name).table.assign(fm.get_layer(name).table)
        model.get_layer("linear").bias.assign(fm.get_layer("linear").bias)
        if spec.dense:
            model.get_layer("dense_linear").kernel.assign(fm.get_layer("dense_linear").kernel)

    return initial, FM
