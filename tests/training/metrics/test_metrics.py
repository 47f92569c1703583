"""Metrics of all tasks: empty folds, huge logits, the constant; and scores in cells."""

import json
import re

import numpy as np
import pytest
import sklearn.metrics as reference

from nfm.contract.cells import CellTable, auc
from nfm.contract.errors import DataError
from nfm.kernels.activations import sigmoid
from nfm.training.metrics import curves
from nfm.training.metrics.names import Task
from nfm.training.metrics.tally import compute_constant, make_tally
from tests.training.tallies import NAMES, binary


@pytest.mark.parametrize("task", ["binary", "regression", "multiclass"])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_metric_is_defined_without_rows_or_weight(task: Task, rows: int) -> None:
    counted = make_tally(task, NAMES, (0.2, 0.3, 0.5))
    logits = np.ones((rows, 3 if task == "multiclass" else 1), np.float32)
    counted.add(np.arange(rows) % 2, np.zeros(rows), logits, logits)
    found = counted.metrics()
    assert found["rows"] == rows
    measured = [found, found["constant"], found["linear"]]
    assert {value for metrics in measured for name, value in metrics.items() if not isinstance(value, dict | int)} == {
        None
    }
    json.dumps(found, allow_nan=False)


def test_huge_logits_do_not_overflow() -> None:
    found = binary([1, 0, 1, 0], [1e4, -1e4, -1e4, 1e4], linear=[1e4, -1e4, 1e4, -1e4]).metrics()
    assert found["log_loss"] == pytest.approx(5000)
    assert found["linear"]["log_loss"] == 0
    assert found["auc"] == 0.5
    assert found["linear"]["auc"] == 1.0
    many = make_tally("multiclass", NAMES, (0.2, 0.3, 0.5))
    logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4]], np.float32)
    many.add(np.array([0, 2]), np.ones(2), logits, logits)
    assert many.metrics()["log_loss"] == pytest.approx(1e4)


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match=re.escape("the outputs of 1 of 2 rows are not, for example [nan]")):
        binary([0, 1], [0, np.nan])


def test_areas_from_merged_cells_are_nearly_exact() -> None:
    rng = np.random.default_rng(1)
    rows = 200_000
    score = rng.normal(-4, 1.5, rows).astype(np.float32)
    label = (rng.uniform(size=rows) < sigmoid(score.astype(float))).astype(np.float32)
    weight = rng.uniform(0.5, 2, rows)
    sums = np.stack([weight * label, weight * (1 - label)], axis=1)
    exact, coarse, shuffled = CellTable(2, curves.LIMIT), *(CellTable(2, 1 << 14, 1 << 14) for _ in range(2))
    order = rng.permutation(rows)
    for piece in np.array_split(np.arange(rows), 11):
        exact.add(score[piece], sums[piece])
        coarse.add(score[piece], sums[piece])
        shuffled.add(score[order[piece]], sums[order[piece]])
    assert exact.cells().exact
    assert not coarse.cells().exact
    assert len(coarse.cells().keys) <= 1 << 14
    np.testing.assert_array_equal(shuffled.cells().keys, coarse.cells().keys)
    np.testing.assert_allclose(shuffled.cells().counts, coarse.cells().counts)
    expected = reference.roc_auc_score(label, score, sample_weight=weight)
    assert auc(*exact.cells().counts.T) == pytest.approx(expected, abs=1e-9)
    assert auc(*coarse.cells().counts.T) == pytest.approx(expected, abs=1e-4)
    precision = reference.average_precision_score(label, score, sample_weight=weight)
    merged, separate = (curves.precision_recall(*cells.cells().counts.T) for cells in (coarse, exact))
    assert merged is not None and separate is not None
    assert separate.average_precision == pytest.approx(precision, abs=1e-9)
    assert merged.average_precision == pytest.approx(precision, abs=1e-4)


def test_the_constant_is_the_weighted_mean_of_the_train_fold() -> None:
    pieces = [(np.array([1, 0], np.float32), np.array([3, 1])), (np.array([0.0]), np.array([2]))]
    assert compute_constant("binary", (), pieces) == pytest.approx((0.5,))
    assert compute_constant("multiclass", NAMES, pieces) == pytest.approx((0.5, 0.5, 0))
    assert compute_constant("regression", (), [(label, 0 * weight) for label, weight in pieces]) == pytest.approx(
        (1 / 3,)
    )
    assert compute_constant("multiclass", NAMES, []) == (0, 0, 0)
