"""Binary metrics against scikit-learn and by hand: weights, ties, one class, curves, groups."""

import json

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.kernels.activations import sigmoid
from nfm.training.metrics import curves
from tests.training.tallies import Array, binary, close

SCORES = [-2.0, -0.0, 0.0, 1e-9, 3.0]


def random_fold(rows: int, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Draw labels, weights (some are 0), logits with ties, and the logits of a worse predictor."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows).round(1).astype(np.float32)
    label = (rng.uniform(size=rows) < sigmoid(logit.astype(float))).astype(np.float32)
    weight = rng.choice([0.0, 0.5, 1.0, 3.0], rows).astype(np.float32)
    return label, weight, logit, (logit + rng.normal(size=rows)).astype(np.float32)


def test_binary_metrics_equal_scikit_learn() -> None:
    label, weight, logit, linear = random_fold(500)
    found = binary(label, logit, weight, linear).metrics()
    for name, scores in (("", logit), ("linear", linear)):
        metrics = found[name] if name else found
        z = scores.astype(np.float64)
        p = 1 / (1 + np.exp(-z))
        assert metrics["auc"] == close(reference.roc_auc_score(label, z, sample_weight=weight))
        assert metrics["pr_auc"] == close(reference.average_precision_score(label, z, sample_weight=weight))
        assert metrics["log_loss"] == close(reference.log_loss(label, p, sample_weight=weight))
        assert metrics["accuracy"] == close(reference.accuracy_score(label, p > 0.5, sample_weight=weight))
    constant = np.full(500, 0.3)
    assert found["constant"]["auc"] == 0.5
    assert found["constant"]["log_loss"] == close(reference.log_loss(label, constant, sample_weight=weight))
    assert found["constant"]["accuracy"] == close(reference.accuracy_score(label, constant > 0.5, sample_weight=weight))
    expected = reference.average_precision_score(label, constant, sample_weight=weight)
    assert found["constant"]["pr_auc"] == close(expected)
    assert found["rows"] == 500
    json.dumps(found, allow_nan=False)


def test_the_calibration_error_by_hand() -> None:
    # Bins of 1/15: p = ½ is in the 8th, p = 0.8 in the 13th.
    found = binary([1, 0, 0, 1, 0], [0, 0, 0, np.log(4), np.log(4)], [1, 1, 2, 1, 3]).metrics()
    assert found["ece"] == pytest.approx((4 * abs(0.5 - 1 / 4) + 4 * abs(0.8 - 1 / 4)) / 8)
    assert found["constant"]["ece"] == pytest.approx(0.3 - 0.25)


@pytest.mark.parametrize("label", [0, 1])
def test_ranking_metrics_are_undefined_with_one_class(label: int) -> None:
    counted = binary([label] * 9, np.linspace(-1, 1, 9))
    found = counted.metrics()
    assert found["auc"] is found["pr_auc"] is found["constant"]["auc"] is found["linear"]["auc"] is None
    assert found["accuracy"] == pytest.approx((4 if label else 5) / 9)
    assert [counted.roc(), counted.precision_recall(), counted.linear_roc()] == [None] * 3
    json.dumps(found, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1]), st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from(SCORES)),
        min_size=1,
        max_size=30,
    )
)
def test_the_auc_is_the_share_of_ordered_pairs(rows: list[tuple[int, float, float]]) -> None:
    label, weight, logit = (np.array(values, np.float32) for values in zip(*rows, strict=True))
    pairs = np.outer(weight * (label == 1), weight * (label == 0)).astype(float)
    difference = logit[:, np.newaxis] - logit[np.newaxis, :]
    expected = (pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum() if pairs.sum() else None
    assert binary(label, logit, weight).metrics()["auc"] == close(expected)


def test_curves_equal_scikit_learn_and_are_thinned() -> None:
    label, weight, logit, _ = random_fold(400, 3)
    weight += 0.25  # because scikit-learn leaves out thresholds without weight
    counted = binary(label, logit, weight)
    roc, ranked = counted.roc(), counted.precision_recall()
    assert roc is not None and ranked is not None
    false_positive, true_positive, _ = reference.roc_curve(label, logit, sample_weight=weight, drop_intermediate=False)
    np.testing.assert_allclose(roc.false_positive_rate, false_positive, atol=1e-7)
    np.testing.assert_allclose(roc.true_positive_rate, true_positive, atol=1e-7)
    precision, recall, _ = reference.precision_recall_curve(label, logit, sample_weight=weight)
    np.testing.assert_allclose(ranked.precision, precision[-2::-1], atol=1e-7)
    np.testing.assert_allclose(ranked.recall, recall[-2::-1], atol=1e-7)
    assert ranked.base == pytest.approx(float(label @ weight / weight.sum()))
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 20_000)
    long = binary(label, rng.normal(size=20_000) + label).roc()
    assert long is not None and len(long.false_positive_rate) <= curves.MOST_POINTS
    assert reference.auc(long.false_positive_rate, long.true_positive_rate) == pytest.approx(long.auc, abs=0.002)


def test_calibration_bins_have_equal_weight_and_equal_scores_share_one() -> None:
    logit = np.repeat(np.log([1 / 9, 2 / 8, 9]), [30, 10, 40])
    bins = binary([0] * 40 + [1] * 40, logit).calibration()
    assert bins is not None
    assert bins.predicted == pytest.approx([0.1, 0.2, 0.9])
    assert bins.observed == pytest.approx([0, 0, 1], abs=1e-12)
    bins = binary([0, 1] * 5, np.zeros(10)).calibration()
    assert bins is not None  # Wilson's interval of 5 in 10
    assert (bins.low[0], bins.high[0]) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert binary([0, 1], [1, 2], [0, 0]).calibration() is None


def test_a_weight_equals_repeated_rows() -> None:
    label, _, logit, linear = random_fold(200, 7)
    times = np.random.default_rng(2).integers(0, 3, 200)
    weighted = binary(label, logit, times, linear)
    repeated = binary(np.repeat(label, times), np.repeat(logit, times), None, np.repeat(linear, times))
    found, expected = weighted.metrics(), repeated.metrics()
    for baseline in ("constant", "linear"):
        assert found.pop(baseline) == pytest.approx(expected.pop(baseline))
    del found["rows"], expected["rows"]
    assert found == pytest.approx(expected)
    assert weighted.scores()[1] == pytest.approx(repeated.scores()[1])


@pytest.mark.parametrize("as_arrow", [True, False])
def test_the_auc_within_groups(as_arrow: bool) -> None:
    label, weight, logit, _ = random_fold(300, 11)
    rng = np.random.default_rng(0)
    names = [None, "a", "b", "", "only ones"]
    group = [names[i] for i in rng.integers(0, 5, 300)]
    label[[name == "only ones" for name in group]] = 1
    areas, weights = [], []
    for name in names[:4]:
        is_group = np.array([value == name for value in group])
        areas.append(reference.roc_auc_score(label[is_group], logit[is_group], sample_weight=weight[is_group]))
        weights.append(weight[is_group].sum())
    groups = pa.array(group) if as_arrow else np.array(group, object)
    found = binary(label, logit, weight, group=groups).metrics()["gauc"]
    assert found == pytest.approx(np.average(areas, weights=weights))
    assert binary(label, logit, group=np.arange(300)).metrics()["gauc"] is None  # each row is a group
    assert binary(label, logit, group=np.zeros(300, int)).metrics()["gauc"] == pytest.approx(
        reference.roc_auc_score(label, logit)
    )
    assert "gauc" not in binary(label, logit).metrics()
