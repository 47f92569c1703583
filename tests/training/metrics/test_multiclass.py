"""Multiclass metrics against scikit-learn: of all classes, of each class, of a class without rows, of many classes."""

import json
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference

from nfm.training.metrics.multiclass import MOST_RANKED, MulticlassTally
from nfm.training.metrics.tally import make_tally
from tests.training.tallies import NAMES, Array, close


def log_softmax(logits: Array) -> Array:
    z = logits.astype(np.float64)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(log_softmax(logits)))


def multiclass(label: Any, logits: Any, weight: Any, linear: Any) -> MulticlassTally:
    counted = make_tally("multiclass", NAMES, (0.2, 0.3, 0.5))
    assert isinstance(counted, MulticlassTally)
    for piece in np.array_split(np.arange(len(label)), 4):
        counted.add(label[piece], weight[piece], logits[piece], linear[piece])
    return counted


def test_multiclass_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, 3, 400)
    weight = rng.choice([0.0, 1.0, 2.5], 400)
    logits, linear = ((rng.normal(size=(400, 3)) + k * np.eye(3)[label]).astype(np.float32) for k in (1.5, 0.5))
    counted = multiclass(label.astype(np.float32), logits, weight.astype(np.float32), linear)
    found = counted.metrics()
    for name, z in (("", logits), ("linear", linear)):
        metrics, p = found[name] if name else found, softmax(z)
        assert metrics["log_loss"] == close(reference.log_loss(label, p, sample_weight=weight))
        assert metrics["accuracy"] == close(reference.accuracy_score(label, p.argmax(1), sample_weight=weight))
        areas = [reference.roc_auc_score(label == i, p[:, i], sample_weight=weight) for i in range(3)]
        assert metrics["macro_auc"] == close(float(np.mean(areas)))
    constant = np.tile([0.2, 0.3, 0.5], (400, 1))
    assert found["constant"]["log_loss"] == close(reference.log_loss(label, constant, sample_weight=weight))
    assert found["constant"]["accuracy"] == close(reference.accuracy_score(label, [2] * 400, sample_weight=weight))
    guess = logits.argmax(1)
    expected = reference.precision_recall_fscore_support(label, guess, sample_weight=weight)[:3]
    for i, name in enumerate(NAMES):
        metrics = found["classes"][name]
        assert [metrics["precision"], metrics["recall"], metrics["f1"]] == pytest.approx(
            [values[i] for values in expected]
        )
        assert metrics["auc"] == close(
            float(reference.roc_auc_score(label == i, softmax(logits)[:, i], sample_weight=weight))
        )
        assert metrics["rows"] == (label == i).sum()
    matrix = counted.confusion()
    assert matrix is not None
    np.testing.assert_allclose(matrix, reference.confusion_matrix(label, guess, sample_weight=weight))
    json.dumps(found, allow_nan=False)


def test_a_class_without_rows_and_a_class_that_is_never_predicted() -> None:
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


def test_many_classes_have_neither_confusion_matrix_nor_auc() -> None:
    names = tuple(map(str, range(MOST_RANKED + 1)))
    counted = make_tally("multiclass", names, [1 / len(names)] * len(names))
    assert isinstance(counted, MulticlassTally)
    logits = np.eye(len(names), dtype=np.float32)
    counted.add(np.arange(len(names)), np.ones(len(names)), logits, logits)
    found = counted.metrics()
    assert counted.confusion() is None
    assert found["macro_auc"] is found["classes"]["7"]["auc"] is None
    assert found["accuracy"] == found["classes"]["7"]["f1"] == 1
