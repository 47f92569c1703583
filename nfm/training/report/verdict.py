"""Warn of a model that predicts worse than a constant."""

from collections.abc import Mapping
from typing import Any

from nfm.config.settings import Config

_CONSTANTS = {"binary": "label rate", "regression": "mean label", "multiclass": "class shares"}


def warn_if_worse_than_constant(config: Config, metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Describe a model whose loss on the valid or test fold is larger than that of the train fold's constant.

    The text lists the settings to change. None if the model is not worse, or neither fold can be compared.

    Args:
        config: settings of the training.
        metrics: metrics by fold, as `Tally.metrics` returns them.
    """
    task = config.model.task
    key, name = ("rmse", "RMSE") if task == "regression" else ("log_loss", "log loss")
    compared = [
        f"{values[key]:,.6g} on the {fold} fold, where the constant has {values['constant'][key]:,.6g}"
        for fold, values in metrics.items()
        if fold in ("valid", "test") and _is_worse(values, key)
    ]
    if not compared:
        return None
    has_learned = not _is_worse(metrics["train"], key)
    advice = _against_overfitting(config) if has_learned else _against_divergence(config)
    return (
        f"The model predicts worse than a constant, the train fold's {_CONSTANTS[task]}: its {name} is "
        f"{', and '.join(compared)}. Do not use its scores. {advice}"
    )


def _is_worse(values: Mapping[str, Any], key: str) -> bool:
    model, constant = values[key], values["constant"][key]
    if model is None or constant is None:
        return False
    if constant <= (0 if key == "rmse" else 1e-12):  # all labels are equal: no model can be better
        return False
    return bool(model > constant * (1 + 1e-6))


def _against_overfitting(config: Config) -> str:
    model, train = config.model, config.train
    advice = (
        f"On the train fold it is better than the constant, so it overfits or the folds differ. Lower "
        f"model.embedding_dim (it is {model.embedding_dim}) and model.hidden_units (it is {list(model.hidden_units)}), "
        f"raise model.pooling_dropout (it is {model.pooling_dropout:g}) and model.hidden_dropout (it is "
        f"{model.hidden_dropout:g}), and set min_count for fields with many rare values; nfm tune searches such "
        "settings. Also check split."
    )
    if train.early_stopping is None:
        advice += " Set train.early_stopping, which keeps the weights of the best epoch."
    return advice + _about_class_weights(config)


def _against_divergence(config: Config) -> str:
    train = config.train
    advice = (
        "On the train fold it is worse, too, so it has not learned. Change train.learning_rate (it is "
        f"{train.learning_rate:g}; too high a rate diverges, too low a rate learns nothing), raise train.epochs (it is "
        f"{train.epochs}), and limit extreme numbers with scale and clip under columns.numeric."
    )
    if config.model.task == "regression" and not config.model.standardize_label:
        advice += " Set model.standardize_label: true, which makes the settings fit the size of the labels."
    if train.init_from is not None:
        advice += " Leave train.init_from out if the labels have another size or meaning than those of the older model."
    return advice + _about_class_weights(config)


def _about_class_weights(config: Config) -> str:
    if config.train.class_weights is None:
        return ""
    return (
        " train.class_weights shifts all scores away from the shares of the classes: remove it, unless only the order "
        "of the scores matters."
    )
