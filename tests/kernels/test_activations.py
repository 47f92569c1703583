"""Activations and scores, compared with their formulas in double precision."""

import math
from typing import Any

import numpy as np
import pytest

from nfm.kernels.activations import activate, compute_scores, sigmoid, softmax

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid(dtype: Any) -> None:
    z = np.linspace(-30, 30, 1001).astype(dtype)
    got = sigmoid(z)
    assert got.dtype == dtype
    wanted = [1 / (1 + math.exp(-number)) for number in z.tolist()]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2 * np.finfo(dtype).eps)
    assert sigmoid(np.array([-np.inf, -1e30, 0, 1e30, np.inf], dtype)).tolist() == [0, 0, 0.5, 1, 1]
    assert np.isnan(sigmoid(np.array([np.nan], dtype))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype: Any) -> None:
    logits = np.random.default_rng(1).normal(scale=5, size=(100, 4)).astype(dtype)
    got = softmax(logits)
    assert got.dtype == dtype
    powers = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(got, powers / powers.sum(axis=1, keepdims=True), atol=4 * np.finfo(dtype).eps)
    assert softmax(np.array([[1e30, 1e30, -1e30], [0, math.log(3), -np.inf]], dtype)).tolist() == [
        [0.5, 0.5, 0],
        [pytest.approx(0.25, rel=1e-6), pytest.approx(0.75, rel=1e-6), 0],
    ]
    assert softmax(np.empty((0, 3), dtype)).shape == (0, 3)


def test_scores_of_a_task() -> None:
    logits = np.array([[0.0, 2.0]], np.float32)
    assert compute_scores("regression", logits) is logits
    np.testing.assert_array_equal(compute_scores("binary", logits), sigmoid(logits))
    np.testing.assert_array_equal(compute_scores("multiclass", logits), softmax(logits))
    with pytest.raises(ValueError, match="unknown task 'ranks'"):
        compute_scores("ranks", logits)


def test_activations_in_place() -> None:
    for name, wanted in (("tanh", np.tanh([-1, 2])), ("sigmoid", [1 / (1 + math.e), 1 / (1 + math.e**-2)])):
        x = np.array([-1, 2], np.float32)
        activate(name, x)
        np.testing.assert_allclose(x, wanted, rtol=1e-6)
    for name in ("linear", "relu"):  # unchanged: the layer applies them
        activate(name, x)
        np.testing.assert_allclose(x, [1 / (1 + math.e), 1 / (1 + math.e**-2)], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown activation 'gelu'"):
        activate("gelu", x)
