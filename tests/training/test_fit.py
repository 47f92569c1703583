"""Fitting: quality on known data, sample and class weights, reproducibility, and refusals."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from nfm.config.train import Model, Train
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training import network
from nfm.training.data.batches import Fold, Rows
from nfm.training.fit import Places, fit
from nfm.training.network import Network
from tests.training.examples import (
    CHECKERBOARD,
    SIDE,
    checkerboard,
    folds_of,
    no_rows,
    noise_folds,
    random_ids,
    rows_of,
    small_model,
    training,
)
from tests.training.trained import are_same, logits, rows, sigmoid, weights


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 0.01), ("adagrad", 0.2), ("sgd", 0.5)])
def test_interactions_learn_a_label_that_the_linear_part_cannot(optimizer: str, learning_rate: float) -> None:
    folds = folds_of(checkerboard(6000, 1), checkerboard(1000, 2), checkerboard(2000, 3))
    settings = training(optimizer=optimizer, learning_rate=learning_rate)
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    model, linear = logits(fitted, folds["test"])
    label = rows(folds["test"]).label
    assert roc_auc_score(label, model[:, 0]) >= 0.99
    assert roc_auc_score(label, linear[:, 0]) <= 0.6
    # The labels have no noise, so the best loss is 0.
    assert log_loss(label, sigmoid(model[:, 0])) < 0.02


def test_the_error_of_a_regression_is_near_the_noise() -> None:
    rng = np.random.default_rng(5)
    effects = rng.normal(size=(SIDE + 2, SIDE + 2))  # of pairs, which are not a sum of effects of a and b
    sigma = 0.2

    def draw(count: int, seed: int) -> Rows:
        ids = random_ids(count, seed)
        x = np.random.default_rng(seed + 50).normal(size=count)
        noise = sigma * np.random.default_rng(seed + 100).normal(size=count)
        return rows_of(ids, 3 + 2 * effects[ids[:, 0], ids[:, 1]] - x + noise, dense_BD=x[:, np.newaxis])

    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    folds = folds_of(draw(6000, 1), draw(1000, 2), draw(2000, 3), spec)
    model = small_model(task="regression", hidden_units=(32, 32), hidden_dropout=0.0)
    fitted = fit(spec, model, training(learning_rate=0.02, epochs=15, schedule={"kind": "cosine"}), folds)
    label = rows(folds["test"]).label
    predictions = logits(fitted, folds["test"])
    rmse, linear = (float(np.sqrt(np.mean((predicted[:, 0] - label) ** 2))) for predicted in predictions)
    assert sigma * 0.9 < rmse < 2 * sigma < 1 < linear
    assert fitted.constant == pytest.approx((float(rows(folds["train"]).label.mean()),), rel=1e-4)
    best = fitted.best_epoch - 1
    assert fitted.history["val_loss"][best] == pytest.approx(fitted.history["val_rmse"][best] ** 2)


def multiclass(count: int, seed: int, classes: int) -> Rows:
    """Draw rows whose class is (a + b) mod C with a probability of 0.8, and otherwise random."""
    ids = random_ids(count, seed)
    rng = np.random.default_rng(seed + 100)
    kept = rng.random(count) < 0.8
    return rows_of(ids, np.where(kept, (ids[:, 0] + ids[:, 1]) % classes, rng.integers(0, classes, count)))


def test_the_accuracy_of_a_multiclass_model_is_near_the_bayes_accuracy() -> None:
    spec = replace(CHECKERBOARD, classes=("low", "mid", "high", "top"))
    folds = folds_of(multiclass(6000, 0, 4), multiclass(1000, 1, 4), multiclass(2000, 2, 4), spec)
    fitted = fit(spec, small_model(task="multiclass", hidden_units=(32,)), training(epochs=15), folds)
    guess = logits(fitted, folds["test"])[0].argmax(axis=1)
    bayes = 0.8 + 0.2 / 4
    assert np.mean(guess == rows(folds["test"]).label) > bayes - 0.03
    shares = np.bincount(rows(folds["train"]).label.astype(int)) / 6000
    assert fitted.constant == pytest.approx(tuple(shares))
    assert {"val_loss", "val_accuracy"} <= fitted.history.keys()


def test_equal_seeds_give_equal_weights_and_other_seeds_other_weights() -> None:
    folds = noise_folds()

    def trained(seed: int) -> list[NDArray[Any]]:
        settings = training(seed=seed, epochs=2, unknown_dropout=0.1)
        return weights(fit(CHECKERBOARD, small_model(hidden_dropout=0.5), settings, folds))

    first, again, other = trained(1), trained(1), trained(2)
    assert are_same(first, again)
    assert not are_same(first, other)


def test_a_long_training_compiles_full_batches_with_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[NDArray[Any]]:
        settings = training(epochs=1, batch_size=60)  # of 300 rows: no batch is smaller
        return weights(fit(CHECKERBOARD, small_model(hidden_dropout=0.5), settings, noise_folds()))

    plain = trained()

    def fail(_: Network) -> None:
        raise AssertionError("a full batch was not compiled by XLA")

    monkeypatch.setattr(network, "_MIN_XLA_ROWS", 300)  # rows that one epoch learns from
    monkeypatch.setattr(Network, "_any_batch_step", property(fail))
    compiled = trained()
    for with_xla, without in zip(compiled, plain, strict=True):  # the same units are dropped
        np.testing.assert_allclose(with_xla, without, rtol=1e-2, atol=2e-4)
    assert are_same(compiled, trained())


def test_rows_with_weight_0_have_no_effect() -> None:
    data = checkerboard(500, 1)
    ids = data.inputs.ids_BF
    # Repeat every row with the other label and weight 0.
    repeated = rows_of(
        np.repeat(ids, 2, axis=0), np.stack([data.label, 1 - data.label], axis=1).ravel(), np.tile([1, 0], 500)
    )
    folds = folds_of(repeated, data, data)
    settings = training(epochs=25, early_stopping=None, learning_rate=0.03)
    fitted = fit(CHECKERBOARD, small_model(batch_norm=False), settings, folds)
    assert roc_auc_score(data.label, logits(fitted, folds["test"])[0][:, 0]) > 0.95
    assert fitted.constant == pytest.approx((float(data.label.mean()),))


def test_a_train_fold_without_weight_is_not_an_error() -> None:
    data = checkerboard(64, 1)
    folds = folds_of(rows_of(data.inputs.ids_BF, data.label, np.zeros(64)), data, data)
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=1, optimizer="sgd"), folds)
    assert fitted.history["loss"] == [0.0]


def test_a_diverging_training_is_an_error(tmp_path: Path) -> None:
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    data = checkerboard(300, 1)
    number = np.ones((300, 1))
    number[290:] = 3e38
    extreme = rows_of(data.inputs.ids_BF, data.label, dense_BD=number)
    folds = folds_of(extreme, extreme, extreme, spec)
    with pytest.raises(
        DataError, match=r"(?s)^The loss was (nan|inf) at step \d, in epoch 1: the training diverged.*learning_rate"
    ) as error:
        fit(spec, small_model(), training(early_stopping=None, batch_size=32), folds, Places(tmp_path))
    assert "checkpoint" not in str(error.value)  # none was written


def test_weights_that_are_not_finite_after_the_last_step_are_an_error() -> None:
    # The loss of the only step is that of the initial weights, and finite; the weights after it are not.
    data = checkerboard(40, 1)
    folds = folds_of(data, no_rows(data), no_rows(data))
    settings = training(optimizer="sgd", learning_rate=1e38, loss_reduction="sum", epochs=1, early_stopping=None)
    with pytest.raises(DataError, match=r"^A weight was not finite after step 1, in epoch 1: the training div"):
        fit(CHECKERBOARD, small_model(), settings, folds)


def mean_probabilities(
    folds: dict[str, Fold], model: Model, settings: Train, spec: Spec = CHECKERBOARD
) -> NDArray[Any]:
    """Fit a model, and return its mean probabilities on the train fold."""
    fitted = fit(spec, model, settings, folds)
    outputs = logits(fitted, folds["train"])[0]
    if outputs.shape[1] == 1:
        return np.array([sigmoid(outputs).mean()])
    return np.asarray(tf.nn.softmax(outputs).numpy().mean(axis=0))


def test_class_weights_multiply_the_weights_of_rows() -> None:
    # All rows have the same ids, so the best prediction is the share of each class by weight.
    label = np.array([1.0] * 12 + [0.0] * 48)  # one batch
    data = rows_of(np.full((60, 3), 2), label, np.where(label, 1.0, 0.5))  # weights: 12 and 24
    folds = folds_of(data, no_rows(data), no_rows(data))
    plain = {"early_stopping": None, "epochs": 15, "optimizer": "sgd", "learning_rate": 1.0, "batch_size": 100}
    model = small_model(batch_norm=False, hidden_units=(), hidden_dropout=0.0)

    def share(**changes: Any) -> float:
        return float(mean_probabilities(folds, model, training(**plain, **changes))[0])

    assert share() == pytest.approx(12 / 36, abs=0.01)
    assert share(class_weights="balanced") == pytest.approx(0.5, abs=0.01)
    assert share(class_weights={"1": 4.0}) == pytest.approx(48 / 72, abs=0.01)
    with pytest.raises(DataError, match=r"class_weights names 'yes', but the label's classes are '0', '1'\. Use these"):
        share(class_weights={"yes": 4.0, "0": 1.0})


def test_class_weights_of_a_multiclass_label_are_by_name() -> None:
    spec = replace(CHECKERBOARD, classes=("x", "y", "z"))
    label = np.repeat([0.0, 1.0, 2.0], [6, 18, 36])  # one batch
    data = rows_of(np.full((60, 3), 2), label)
    folds = folds_of(data, no_rows(data), no_rows(data), spec)
    model = small_model(task="multiclass", batch_norm=False, hidden_units=(), hidden_dropout=0.0)
    plain = {"early_stopping": None, "epochs": 30, "optimizer": "sgd", "learning_rate": 1.0, "batch_size": 100}
    balanced = mean_probabilities(folds, model, training(**plain, class_weights="balanced"), spec)
    np.testing.assert_allclose(balanced, [1 / 3] * 3, atol=0.01)
    named = mean_probabilities(folds, model, training(**plain, class_weights={"x": 6.0, "z": 0.5}), spec)
    np.testing.assert_allclose(named, np.array([36, 18, 18]) / 72, atol=0.01)
    with pytest.raises(DataError, match=r"class_weights names '0', but the label's classes are 'x', 'y', 'z'"):
        fit(spec, model, training(class_weights={"0": 1.0}, early_stopping=None), folds)


@pytest.mark.parametrize(
    ("task", "fold"), list(itertools.product(["binary", "regression", "multiclass"], ["train", "test"]))
)
def test_labels_not_valid_for_the_task_are_counted_in_an_error(task: str, fold: str) -> None:
    spec = replace(CHECKERBOARD, classes=("x", "y", "z") if task == "multiclass" else ())
    right = checkerboard(100, 1)
    wrong = {"binary": 2.0, "regression": np.nan, "multiclass": 3.0}[task]
    label = right.label.copy()
    label[[3, 50, 99]] = wrong, wrong, np.nan
    folds = dict.fromkeys(("train", "valid", "test"), right) | {fold: right._replace(label=label)}
    allowed = {"binary": "0 and 1", "regression": "numbers", "multiclass": "the numbers of its classes, 0 to 2"}[task]
    with pytest.raises(DataError) as refused:
        fit(spec, small_model(task=task), training(), folds_of(**folds, spec=spec))
    assert str(refused.value).startswith(
        f"The labels of a {task} task are {allowed}, but 3 of the 100 rows of the {fold} fold have other labels, for "
        f"example {wrong:g}. "
    )


def test_a_model_learns_from_a_bag() -> None:
    """The label is whether the bag contains the value of the field."""
    spec = Spec(
        ("k",),
        (
            Field("wanted", ("wanted",), ("text",), 1, 6, "wanted"),
            Field("tags", ("tags",), ("text",), 1, 6, "tags", None, Bag(None, ",", None)),
        ),
        (),
        (),
    )

    def draw(count: int, seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        wanted, has = rng.integers(0, 6, count), rng.random((count, 6)) < 0.4
        row, tag = np.nonzero(has)
        plain = rows_of(2 + wanted[:, np.newaxis], has[np.arange(count), wanted])
        splits = np.concatenate([[0], np.cumsum(has.sum(axis=1))]).astype(np.int64)
        members = (spec.offsets[1] + 2 + tag).astype(np.int32)
        return plain._replace(
            inputs=plain.inputs._replace(bag_rows=members, bag_values=np.ones(len(row), np.float32), bag_splits=splits)
        )

    folds = folds_of(draw(4000, 1), draw(500, 2), draw(1000, 3), spec)
    assert any(np.diff(rows(folds["train"]).inputs.bag_splits) == 0)  # an empty bag is among them
    fitted = fit(spec, small_model(), training(epochs=8), folds)
    assert roc_auc_score(rows(folds["test"]).label, logits(fitted, folds["test"])[0][:, 0]) > 0.99
