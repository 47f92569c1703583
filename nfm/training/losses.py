"""Loss of each task, for one sample, before sample weights.

The loss follows from `model.task`. Another loss for a task needs a setting in `config.train`, which `network` passes
here; and `control.end_epoch`, which takes the validation loss from the metrics (rmse² or log loss), must follow it.
"""

from typing import Any

import tensorflow as tf


def sample_losses(task: str, label_B: Any, logits_BC: Any) -> Any:
    """Return (B,) losses: log loss (binary), squared error (regression), cross-entropy of the softmax (multiclass).

    Labels are 0 or 1; numbers; or the numbers of the classes. C is 1 except for multiclass.

    >>> sample_losses("regression", tf.constant([1.0]), tf.constant([[4.0]])).numpy().tolist()
    [9.0]
    """
    match task:
        case "binary":
            return tf.nn.sigmoid_cross_entropy_with_logits(label_B, logits_BC[:, 0])
        case "regression":
            return tf.square(logits_BC[:, 0] - label_B)
        case "multiclass":
            return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(label_B, tf.int32), logits_BC)
    raise ValueError(f"no task is called {task!r}")  # the settings allow no other
