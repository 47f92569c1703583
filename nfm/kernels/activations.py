"""Activations and scores of NumPy arrays, in the precision of the argument.

    sigmoid(z) = 1 / (1 + e⁻ᶻ) = ½ (1 + tanh(z / 2))                softmax(z)_c = e^(z_c − max z) / Σ e^(z_c − max z)

Neither formula overflows.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = TypeVar("Floats", NDArray[np.float32], NDArray[np.float64])


def sigmoid(z: Floats) -> Floats:
    """Return 1 / (1 + e⁻ᶻ)."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def softmax(logits_BC: Floats) -> Floats:
    """Return the (B, C) probabilities of the classes."""
    powers_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return np.asarray(powers_BC / powers_BC.sum(axis=1, keepdims=True))


def activate(name: str, x: NDArray[np.float32]) -> None:
    """Apply a hidden layer's activation in place, after `layers.apply_layer`, which applies ReLU itself.

    To add an activation, add its Keras name to `config.train.Model.activation` and its formula here: Keras computes it
    in training, this function in scoring.
    """
    match name:
        case "tanh":
            np.tanh(x, out=x)
        case "sigmoid":
            x[:] = sigmoid(x)
        case "linear" | "relu":
            pass
        case _:
            raise ValueError(f"unknown activation {name!r}")  # a mistake in the code: the settings are checked


def compute_scores(task: str, logits_BC: Floats) -> Floats:
    """Return (B, C) scores: probabilities of label 1, numbers, or probabilities of the classes."""
    match task:
        case "binary":
            return sigmoid(logits_BC)
        case "regression" | "ranking":
            return logits_BC
        case "multiclass":
            return softmax(logits_BC)
        case _:
            raise ValueError(f"unknown task {task!r}")  # a mistake in the code: the settings are checked
