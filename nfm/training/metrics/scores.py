"""Logits → scores, as they are published."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def sigmoid(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)), without overflow."""
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1.0, small) / (1.0 + small)


def scores_of(task: str, logits_NC: NDArray[Any]) -> NDArray[np.float64]:
    """(N, C) probabilities of label 1, numbers, or probabilities of the classes, as the task is."""
    logits = logits_NC.astype(np.float64)
    match task:
        case "binary":
            return sigmoid(logits)
        case "regression":
            return logits
        case _:
            # The largest exponent is 0, which cannot overflow.
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
