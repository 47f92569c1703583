"""Regression metrics against scikit-learn, with labels far from 0 and equal labels; the sample of rows."""

import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference

from nfm.training.metrics import regression as regression_module
from nfm.training.metrics.regression import RegressionTally
from nfm.training.metrics.tally import make_tally
from tests.training.tallies import column


def regression(label: Any, predicted: Any, weight: Any, linear: Any) -> RegressionTally:
    counted = make_tally("regression", (), (2.0,))
    assert isinstance(counted, RegressionTally)
    for piece in np.array_split(np.arange(len(label)), 5):
        counted.add(label[piece], weight[piece], column(predicted)[piece], column(linear)[piece])
    return counted


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_regression_metrics_equal_scikit_learn(offset: float) -> None:
    rng = np.random.default_rng(4)
    label = (rng.normal(size=400) + offset).astype(np.float32)
    weight = rng.choice([0.0, 1.0, 2.5], 400).astype(np.float32)
    predicted, linear = ((label + rng.normal(size=400) / 2).astype(np.float32) for _ in range(2))
    found = regression(label, predicted, weight, linear).metrics()
    y = label.astype(np.float64)
    for name, p in (("", predicted.astype(float)), ("constant", np.full(400, 2.0)), ("linear", linear.astype(float))):
        metrics = found[name] if name else found
        assert metrics["rmse"] == pytest.approx(reference.root_mean_squared_error(y, p, sample_weight=weight))
        assert metrics["mae"] == pytest.approx(reference.mean_absolute_error(y, p, sample_weight=weight))
        assert metrics["r2"] == pytest.approx(reference.r2_score(y, p, sample_weight=weight), rel=1e-6)
    json.dumps(found, allow_nan=False)


def test_equal_labels_have_no_r2() -> None:
    label = np.full(20, 0.1, np.float32)
    found = regression(label, label, np.ones(20), label + 1).metrics()
    assert (found["rmse"], found["mae"], found["r2"]) == (0, 0, None)
    assert found["linear"]["rmse"] == pytest.approx(1)


def test_the_sample_is_drawn_from_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression_module, "SAMPLED_ROWS", 50)
    label = np.arange(5000.0)
    drawn, predicted, weight = regression(label, label + 1, label + 2, label).sample()
    assert len(drawn) == 50
    np.testing.assert_allclose(predicted, drawn + 1)
    np.testing.assert_allclose(weight, drawn + 2)
    assert 1500 < drawn.mean() < 3500  # more than three standard errors
