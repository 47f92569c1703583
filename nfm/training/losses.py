"""Loss of each model task: minimized in training, and computed for the validation fold from its metrics.

To give a task another loss, add a setting to `config.train.Model` and use it in `choose_loss`. If the mean of the loss
cannot be computed from the metrics of its task, add it as a new metric (see `metrics.names`); `val_loss` is wrong
otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from nfm.config.train import Model


class Loss(NamedTuple):
    """Loss of one sample, before sample weights, and its mean over a fold, computed from the fold's metrics."""

    per_sample: Callable[[Any, Any], Any]  # labels (B,) and logits (B, C) → losses (B,); C is 1 except for multiclass
    from_metrics: Callable[[Mapping[str, Any]], float | None]  # None where the metrics are not defined
    power: int = 0  # the loss has the label's unit to this power


def _log_loss(label_B: Any, logits_B1: Any) -> Any:
    return tf.nn.sigmoid_cross_entropy_with_logits(label_B, logits_B1[:, 0])


def _squared_error(label_B: Any, logits_B1: Any) -> Any:
    return tf.square(logits_B1[:, 0] - label_B)


def _cross_entropy(label_B: Any, logits_BC: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(label_B, tf.int32), logits_BC)


def _refuse(_: Any, __: Any) -> Any:
    raise ValueError("a loss of a ranking compares samples: see `ranking.losses`")


def _mean_log_loss(metrics: Mapping[str, Any]) -> float | None:
    loss: float | None = metrics["log_loss"]
    return loss


def _mean_squared_error(metrics: Mapping[str, Any]) -> float | None:
    return None if metrics["rmse"] is None else metrics["rmse"] ** 2


def choose_loss(model: Model) -> Loss:
    """Return the loss of a model task: log loss (binary), squared error (regression), cross-entropy (multiclass).

    >>> choose_loss(Model(task="regression")).per_sample(tf.constant([1.0]), tf.constant([[4.0]])).numpy().tolist()
    [9.0]
    """
    match model.task:
        case "binary":
            return Loss(_log_loss, _mean_log_loss)
        case "regression":
            return Loss(_squared_error, _mean_squared_error, power=2)
        case "multiclass":
            return Loss(_cross_entropy, _mean_log_loss)
        case "ranking":
            return Loss(_refuse, lambda _: None)
