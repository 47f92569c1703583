"""Warnings of a finished training: a model that predicts worse than a constant, too few epochs, overfitting at once."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nfm.config.settings import Config
from nfm.training.result import Fitted

_FALLING_EPOCHS = 3  # last epochs, in each of which the train loss fell, …
_FALL = 0.01  # … by this share of it in all
_RISING_EPOCHS = 2  # epochs after the first one, after which the validation loss is higher than after the first, …
_RISE = 0.01  # … finally by this share of it
_CONSTANTS = {"binary": "label rate", "regression": "mean label", "multiclass": "class shares"}


def list_warnings(config: Config, metrics: Mapping[str, Mapping[str, Any]], fitted: Fitted) -> list[str]:
    """Return the warnings of a training, for its log, summary and report.

    Args:
        config: settings of the training.
        metrics: metrics by fold, as `Tally.metrics` returns them.
        fitted: the fitted weights with their history.
    """
    curves = config, fitted.history, fitted.best_epoch
    warnings = (
        warn_if_worse_than_constant(config, metrics)
        if config.ranking is None
        else warn_if_worse_than_popularity(metrics),
        warn_if_still_learning(*curves),
        warn_if_overfitting(*curves),
    )
    return [warning for warning in warnings if warning is not None]


def warn_if_still_learning(config: Config, history: Mapping[str, Sequence[float]], best_epoch: int) -> str | None:
    """Describe a training whose last epoch was the best, and in which the train loss fell until the end.

    None without a validation loss, because the train loss also falls while a model overfits; and for a cosine schedule,
    whose last epoch is the best by intention.
    """
    loss, valid = history["loss"], history.get("val_loss", [])
    epochs, last = len(loss), loss[-_FALLING_EPOCHS - 1 :]
    if epochs < config.train.epochs or best_epoch < epochs or config.train.schedule.kind == "cosine":
        return None
    # Without early stopping, the last epoch counts as the best in any case.
    if len(valid) < epochs or min(valid) < valid[-1] or len(last) <= _FALLING_EPOCHS:
        return None
    if any(later >= earlier for earlier, later in pairwise(last)) or last[0] - last[-1] < _FALL * abs(last[0]):
        return None
    return (
        f"The train loss was still falling when the epochs ended (from {last[0]:,.4g} after epoch "
        f"{epochs - _FALLING_EPOCHS} to {last[-1]:,.4g} after epoch {epochs}), and the last epoch was the best. Raise "
        f"train.epochs (it is {config.train.epochs}): the model would probably become better."
    )


def warn_if_overfitting(config: Config, history: Mapping[str, Sequence[float]], best_epoch: int) -> str | None:
    """Describe a training whose validation loss rose from the first epoch on, while the train loss fell.

    None if the training started from an older model or a factorization machine, which had been fitted before.
    """
    train, model, loss, valid = config.train, config.model, history["loss"], history.get("val_loss", [])
    if train.init_from is not None or train.pretrain is not None or (train.early_stopping and best_epoch > 1):
        return None
    if len(valid) <= _RISING_EPOCHS or min(valid[1:]) <= valid[0] or not loss[-1] < loss[0]:
        return None
    if valid[-1] - valid[0] < _RISE * abs(valid[0]):
        return None
    return (
        f"The validation loss rose from epoch 1 on ({valid[0]:,.4g}, after epoch {len(valid)} {valid[-1]:,.4g}), while "
        f"the train loss fell: the model overfits within an epoch. Lower train.learning_rate (it is "
        f"{train.learning_rate:g}), raise model.pooling_dropout (it is {model.pooling_dropout:g}) and "
        f"model.hidden_dropout (it is {model.hidden_dropout:g}), or raise model.l2.embedding (it is "
        f"{model.l2.embedding:g})."
    )


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


def warn_if_worse_than_popularity(metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Describe a ranking whose NDCG on the valid or test fold is below that of the most popular items."""
    compared = [
        f"{values[key]:.4f} on the {fold} fold, where the most popular items have {values['popularity'][key]:.4f}"
        for fold, values in metrics.items()
        for key in [name for name in values if name.startswith("ndcg@")][:1]
        if values["intervals"][key][1] < values["popularity"][key]
    ]
    if not compared:
        return None
    return (
        f"The model ranks worse than the most popular items: its NDCG is {', and '.join(compared)}. Do not use its "
        "lists. Raise train.epochs and ranking.negatives, or try another train.learning_rate; also check split."
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
