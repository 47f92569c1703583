"""Metrics against scikit-learn and by hand: weights, ties, one class, nothing at all, huge logits, pieces of a fold."""

import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract.encoder import inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training import curves, evaluate_regression
from nfm.training.curves import ScoreCells
from nfm.training.evaluate import tally, train_mean
from nfm.training.evaluate_binary import BinaryTally
from nfm.training.evaluate_multiclass import MOST_RANKED, MulticlassTally
from nfm.training.evaluate_regression import RegressionTally
from nfm.training.metrics import Task
from nfm.training.pairs import strongest_pairs
from nfm.training.scores import sigmoid

Array = NDArray[Any]
NAMES = ("red", "green", "blue")
SCORES = [-2.0, -0.0, 0.0, 1e-9, 3.0]


def log_softmax(logits: Array) -> Array:
    z = logits.astype(np.float64)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(log_softmax(logits)))


def column(values: Any) -> Array:
    return np.asarray(values, np.float32)[:, np.newaxis]


def binary(label: Any, logit: Any, weight: Any = None, linear: Any = None, group: Any = None) -> BinaryTally:
    """A tally with constant 0.3, fed in pieces of 7 rows."""
    counted = tally("binary", (), (0.3,))
    assert isinstance(counted, BinaryTally)
    label = np.asarray(label, np.float32)
    weight = np.ones_like(label) if weight is None else np.asarray(weight, np.float32)
    linear = np.zeros_like(label) if linear is None else linear
    for begin in range(0, len(label), 7):
        piece = slice(begin, begin + 7)
        groups = None if group is None else group[piece]
        counted.add(label[piece], weight[piece], column(logit)[piece], column(linear)[piece], groups)
    return counted


def random_fold(rows: int, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Labels, weights (some 0), logits with ties, and a worse predictor."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows).round(1).astype(np.float32)
    label = (rng.uniform(size=rows) < sigmoid(logit.astype(float))).astype(np.float32)
    weight = rng.choice([0.0, 0.5, 1.0, 3.0], rows).astype(np.float32)
    return label, weight, logit, (logit + rng.normal(size=rows)).astype(np.float32)


def close(expected: float | None) -> Any:
    return None if expected is None else pytest.approx(expected, abs=1e-9)


def test_binary_metrics_are_scikit_learns() -> None:
    label, weight, logit, linear = random_fold(500)
    found = binary(label, logit, weight, linear).metrics()
    for name, scores in (("", logit), ("linear", linear)):
        of = found[name] if name else found
        z = scores.astype(np.float64)
        p = 1 / (1 + np.exp(-z))
        assert of["auc"] == close(reference.roc_auc_score(label, z, sample_weight=weight))
        assert of["pr_auc"] == close(reference.average_precision_score(label, z, sample_weight=weight))
        assert of["log_loss"] == close(reference.log_loss(label, p, sample_weight=weight))
        assert of["accuracy"] == close(reference.accuracy_score(label, p > 0.5, sample_weight=weight))
    constant = np.full(500, 0.3)
    assert found["constant"]["auc"] == 0.5
    assert found["constant"]["log_loss"] == close(reference.log_loss(label, constant, sample_weight=weight))
    assert found["constant"]["accuracy"] == close(reference.accuracy_score(label, constant > 0.5, sample_weight=weight))
    expected = reference.average_precision_score(label, constant, sample_weight=weight)
    assert found["constant"]["pr_auc"] == close(expected)
    assert found["rows"] == 500
    json.dumps(found, allow_nan=False)


def test_the_calibration_error_by_hand() -> None:
    # Bins of 1/15: p = ½ in the 8th, p = 0.8 in the 13th.
    found = binary([1, 0, 0, 1, 0], [0, 0, 0, np.log(4), np.log(4)], [1, 1, 2, 1, 3]).metrics()
    assert found["ece"] == pytest.approx((4 * abs(0.5 - 1 / 4) + 4 * abs(0.8 - 1 / 4)) / 8)
    assert found["constant"]["ece"] == pytest.approx(0.3 - 0.25)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_ranking(label: int) -> None:
    counted = binary([label] * 9, np.linspace(-1, 1, 9))
    found = counted.metrics()
    assert found["auc"] is found["pr_auc"] is found["constant"]["auc"] is found["linear"]["auc"] is None
    assert found["accuracy"] == pytest.approx((4 if label else 5) / 9)
    assert [counted.roc(), counted.precision_recall(), counted.linear_roc()] == [None] * 3
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("task", ["binary", "regression", "multiclass"])
@pytest.mark.parametrize("rows", [0, 3])
def test_without_rows_or_weight_nothing_is_defined(task: Task, rows: int) -> None:
    counted = tally(task, NAMES, (0.2, 0.3, 0.5))
    logits = np.ones((rows, 3 if task == "multiclass" else 1), np.float32)
    counted.add(np.arange(rows) % 2, np.zeros(rows), logits, logits)
    found = counted.metrics()
    assert found["rows"] == rows
    measured = [found, found["constant"], found["linear"]]
    assert {value for one in measured for name, value in one.items() if not isinstance(value, dict | int)} == {None}
    json.dumps(found, allow_nan=False)


def test_huge_logits_do_not_overflow() -> None:
    found = binary([1, 0, 1, 0], [1e4, -1e4, -1e4, 1e4], linear=[1e4, -1e4, 1e4, -1e4]).metrics()
    assert found["log_loss"] == pytest.approx(5000)
    assert found["linear"]["log_loss"] == 0
    assert found["auc"] == 0.5
    assert found["linear"]["auc"] == 1.0
    many = tally("multiclass", NAMES, (0.2, 0.3, 0.5))
    logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4]], np.float32)
    many.add(np.array([0, 2]), np.ones(2), logits, logits)
    assert many.metrics()["log_loss"] == pytest.approx(1e4)


def test_outputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=re.escape("those of 1 of 2 rows are not, [nan] for one")):
        binary([0, 1], [0, np.nan])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1]), st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from(SCORES)),
        min_size=1,
        max_size=30,
    )
)
def test_the_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, float, float]]) -> None:
    label, weight, logit = (np.array(part, np.float32) for part in zip(*rows, strict=True))
    pairs = np.outer(weight * (label == 1), weight * (label == 0)).astype(float)
    apart = logit[:, np.newaxis] - logit[np.newaxis, :]
    expected = (pairs * ((apart > 0) + 0.5 * (apart == 0))).sum() / pairs.sum() if pairs.sum() else None
    assert binary(label, logit, weight).metrics()["auc"] == close(expected)


def test_many_scores_are_cells_and_the_areas_nearly_exact() -> None:
    rng = np.random.default_rng(1)
    rows = 200_000
    score = rng.normal(-4, 1.5, rows).astype(np.float32)
    label = (rng.uniform(size=rows) < sigmoid(score.astype(float))).astype(np.float32)
    weight = rng.uniform(0.5, 2, rows)
    sums = np.stack([weight * label, weight * (1 - label)], axis=1)
    exact, coarse, shuffled = ScoreCells(2), ScoreCells(2, 1 << 14), ScoreCells(2, 1 << 14)
    order = rng.permutation(rows)
    for piece in np.array_split(np.arange(rows), 11):
        exact.add(score[piece], sums[piece])
        coarse.add(score[piece], sums[piece])
        shuffled.add(score[order[piece]], sums[order[piece]])
    assert exact.exact
    assert not coarse.exact
    assert len(coarse.cells()) <= 1 << 14
    np.testing.assert_allclose(shuffled.cells(), coarse.cells())
    expected = reference.roc_auc_score(label, score, sample_weight=weight)
    assert curves.auc(*exact.cells().T) == pytest.approx(expected, abs=1e-9)
    assert curves.auc(*coarse.cells().T) == pytest.approx(expected, abs=1e-4)
    precision = reference.average_precision_score(label, score, sample_weight=weight)
    few, all_of_them = (curves.precision_recall(*cells.cells().T) for cells in (coarse, exact))
    assert few is not None and all_of_them is not None
    assert all_of_them.average_precision == pytest.approx(precision, abs=1e-9)
    assert few.average_precision == pytest.approx(precision, abs=1e-4)


def test_cells_of_one_exponent_are_told_apart_by_their_leading_bits() -> None:
    cells = ScoreCells(1, limit=2)
    cells.add(np.array([1.0, 1.25, 1.5, 1.75, -3.0]), np.ones((5, 1)))
    assert not cells.exact  # 5 scores, 2 cells: the sign is what is left
    assert cells.cells()[:, 0].tolist() == [1, 4]


def test_curves_are_scikit_learns_and_thinned() -> None:
    label, weight, logit, _ = random_fold(400, 3)
    weight += 0.25  # scikit-learn leaves out thresholds without weight
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


def test_a_weight_counts_as_so_many_rows() -> None:
    label, _, logit, linear = random_fold(200, 7)
    times = np.random.default_rng(2).integers(0, 3, 200)
    weighted = binary(label, logit, times, linear)
    repeated = binary(np.repeat(label, times), np.repeat(logit, times), None, np.repeat(linear, times))
    found, expected = weighted.metrics(), repeated.metrics()
    for part in ("constant", "linear"):
        assert found.pop(part) == pytest.approx(expected.pop(part))
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
        mine = np.array([one == name for one in group])
        areas.append(reference.roc_auc_score(label[mine], logit[mine], sample_weight=weight[mine]))
        weights.append(weight[mine].sum())
    groups = pa.array(group) if as_arrow else np.array(group, object)
    found = binary(label, logit, weight, group=groups).metrics()["gauc"]
    assert found == pytest.approx(np.average(areas, weights=weights))
    assert binary(label, logit, group=np.arange(300)).metrics()["gauc"] is None  # each row a group
    assert binary(label, logit, group=np.zeros(300, int)).metrics()["gauc"] == pytest.approx(
        reference.roc_auc_score(label, logit)
    )
    assert "gauc" not in binary(label, logit).metrics()


def regression(label: Any, predicted: Any, weight: Any, linear: Any) -> RegressionTally:
    counted = tally("regression", (), (2.0,))
    assert isinstance(counted, RegressionTally)
    for piece in np.array_split(np.arange(len(label)), 5):
        counted.add(label[piece], weight[piece], column(predicted)[piece], column(linear)[piece])
    return counted


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_regression_metrics_are_scikit_learns(offset: float) -> None:
    rng = np.random.default_rng(4)
    label = (rng.normal(size=400) + offset).astype(np.float32)
    weight = rng.choice([0.0, 1.0, 2.5], 400).astype(np.float32)
    predicted, linear = ((label + rng.normal(size=400) / 2).astype(np.float32) for _ in range(2))
    found = regression(label, predicted, weight, linear).metrics()
    y = label.astype(np.float64)
    for name, p in (("", predicted.astype(float)), ("constant", np.full(400, 2.0)), ("linear", linear.astype(float))):
        of = found[name] if name else found
        assert of["rmse"] == pytest.approx(reference.root_mean_squared_error(y, p, sample_weight=weight))
        assert of["mae"] == pytest.approx(reference.mean_absolute_error(y, p, sample_weight=weight))
        assert of["r2"] == pytest.approx(reference.r2_score(y, p, sample_weight=weight), rel=1e-6)
    json.dumps(found, allow_nan=False)


def test_equal_labels_have_no_r2() -> None:
    label = np.full(20, 0.1, np.float32)
    found = regression(label, label, np.ones(20), label + 1).metrics()
    assert (found["rmse"], found["mae"], found["r2"]) == (0, 0, None)
    assert found["linear"]["rmse"] == pytest.approx(1)


def test_the_sample_is_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_regression, "SAMPLED_ROWS", 50)
    label = np.arange(5000.0)
    drawn, predicted, weight = regression(label, label + 1, label + 2, label).sample()
    assert len(drawn) == 50
    np.testing.assert_allclose(predicted, drawn + 1)
    np.testing.assert_allclose(weight, drawn + 2)
    assert 1500 < drawn.mean() < 3500  # by far more than three standard errors


def multiclass(label: Any, logits: Any, weight: Any, linear: Any) -> MulticlassTally:
    counted = tally("multiclass", NAMES, (0.2, 0.3, 0.5))
    assert isinstance(counted, MulticlassTally)
    for piece in np.array_split(np.arange(len(label)), 4):
        counted.add(label[piece], weight[piece], logits[piece], linear[piece])
    return counted


def test_multiclass_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, 3, 400)
    weight = rng.choice([0.0, 1.0, 2.5], 400)
    logits, linear = ((rng.normal(size=(400, 3)) + k * np.eye(3)[label]).astype(np.float32) for k in (1.5, 0.5))
    counted = multiclass(label.astype(np.float32), logits, weight.astype(np.float32), linear)
    found = counted.metrics()
    for name, z in (("", logits), ("linear", linear)):
        of, p = found[name] if name else found, softmax(z)
        assert of["log_loss"] == close(reference.log_loss(label, p, sample_weight=weight))
        assert of["accuracy"] == close(reference.accuracy_score(label, p.argmax(1), sample_weight=weight))
        areas = [reference.roc_auc_score(label == i, p[:, i], sample_weight=weight) for i in range(3)]
        assert of["macro_auc"] == close(float(np.mean(areas)))
    constant = np.tile([0.2, 0.3, 0.5], (400, 1))
    assert found["constant"]["log_loss"] == close(reference.log_loss(label, constant, sample_weight=weight))
    assert found["constant"]["accuracy"] == close(reference.accuracy_score(label, [2] * 400, sample_weight=weight))
    guess = logits.argmax(1)
    parts = reference.precision_recall_fscore_support(label, guess, sample_weight=weight)[:3]
    for i, name in enumerate(NAMES):
        of = found["classes"][name]
        assert [of["precision"], of["recall"], of["f1"]] == pytest.approx([part[i] for part in parts])
        assert of["auc"] == close(
            float(reference.roc_auc_score(label == i, softmax(logits)[:, i], sample_weight=weight))
        )
        assert of["rows"] == (label == i).sum()
    matrix = counted.confusion()
    assert matrix is not None
    np.testing.assert_allclose(matrix, reference.confusion_matrix(label, guess, sample_weight=weight))
    json.dumps(found, allow_nan=False)


def test_a_class_without_rows_and_one_never_predicted() -> None:
    logits = np.array([[2, 1, 0], [0, 0.5, 0], [3, 0, 0]], np.float32)
    found = multiclass(np.array([0, 0, 1.0]), logits, np.ones(3), logits).metrics()
    red, green, blue = (found["classes"][name] for name in NAMES)
    assert (red["precision"], red["recall"], red["f1"], red["rows"]) == (0.5, 0.5, 0.5, 2)
    assert (green["precision"], green["recall"], green["f1"]) == (0, 0, 0)
    assert blue == {"rows": 0, "precision": None, "recall": None, "f1": None, "auc": None}
    log_p = log_softmax(logits)
    assert found["log_loss"] == close(-float(log_p[[0, 1, 2], [0, 0, 1]].mean()))
    # red: the one other row has the highest score; green: the one row has the lowest
    assert (red["auc"], green["auc"], found["macro_auc"]) == (0, 0, 0)


def test_many_classes_have_no_confusion_matrix_and_too_many_no_auc() -> None:
    names = tuple(map(str, range(MOST_RANKED + 1)))
    counted = tally("multiclass", names, [1 / len(names)] * len(names))
    assert isinstance(counted, MulticlassTally)
    logits = np.eye(len(names), dtype=np.float32)
    counted.add(np.arange(len(names)), np.ones(len(names)), logits, logits)
    found = counted.metrics()
    assert counted.confusion() is None
    assert found["macro_auc"] is found["classes"]["7"]["auc"] is None
    assert found["accuracy"] == found["classes"]["7"]["f1"] == 1


def test_the_constant_is_the_weighted_mean_of_the_train_fold() -> None:
    pieces = [(np.array([1, 0], np.float32), np.array([3, 1])), (np.array([0.0]), np.array([2]))]
    assert train_mean("binary", (), pieces) == pytest.approx((0.5,))
    assert train_mean("multiclass", NAMES, pieces) == pytest.approx((0.5, 0.5, 0))
    assert train_mean("regression", (), [(label, 0 * weight) for label, weight in pieces]) == pytest.approx((1 / 3,))
    assert train_mean("multiclass", NAMES, []) == (0, 0, 0)


def test_the_strongest_pairs_are_those_of_brute_force() -> None:
    spec = Spec(
        ("k",),
        (
            Field("a", ("a",), ("text",), 1, 2, "a"),
            Field("tags", ("tags",), ("text",), 1, 3, "tags", bag=Bag(None, "|", None)),
            Field("b", ("b",), ("text",), 1, 1, "b"),
        ),
        (Number("x", "x", "field", 0.0, False, None, False, 0.0, 1.0),),
        (),
    )
    rng = np.random.default_rng(0)
    rows, table = 40, rng.normal(size=(spec.rows, 5)).astype(np.float32)
    bags = [[int(i) for i in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(rows)]  # some are empty
    weights = [[float(w) for w in rng.uniform(size=len(bag))] for bag in bags]
    columns = {
        "a": rng.integers(0, 4, rows).astype(np.int32),
        "b": rng.integers(0, 3, rows).astype(np.int32),
        "x": rng.normal(size=rows).astype(np.float32),
        "tags": pa.array(bags, pa.list_(pa.int32())),
        "tags_weights": pa.array(weights, pa.list_(pa.float32())),
    }
    expected = dict.fromkeys([("a", "b"), ("a", "tags"), ("a", "x"), ("b", "tags"), ("b", "x"), ("tags", "x")], 0.0)
    for row in range(rows):
        starts = dict(zip(("a", "tags", "b"), spec.offsets, strict=True))
        vectors = {name: table[starts[name] + columns[name][row]] for name in ("a", "b")}
        members = zip(bags[row], weights[row], strict=True)
        vectors["tags"] = sum((table[starts["tags"] + i] * w for i, w in members), np.zeros(5))
        vectors["x"] = table[-1] * columns["x"][row]
        for one, other in expected:
            expected[one, other] += float(np.abs(vectors[one] * vectors[other]).mean()) / rows
    found = strongest_pairs(spec, table, inputs(spec, columns))
    assert {(one, other): strength for one, other, strength in found} == pytest.approx(expected, rel=1e-5)
    assert found == sorted(found, key=lambda pair: -pair[2])
    assert strongest_pairs(spec, table, inputs(spec, columns), most=2) == found[:2]
    nothing = {name: values[:0] for name, values in columns.items()}
    assert strongest_pairs(spec, table, inputs(spec, nothing)) == []
