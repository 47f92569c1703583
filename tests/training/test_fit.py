"""Fitting: what must be found is found, the best weights are kept, a seed is repeatable; and what cannot be fitted."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from nfm.config_train import Model, Train
from nfm.contract.errors import DataError
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training.data import Fold, Rows, features_of
from nfm.training.fit import Fitted, fit
from nfm.training.model import linear_part
from tests.training.examples import (
    CHECKERBOARD,
    SIDE,
    checkerboard,
    folds_of,
    noise_folds,
    nothing,
    random_ids,
    rows_of,
    small_model,
    training,
)


def rows(fold: Fold) -> Rows:
    (all_rows,) = fold.pieces()
    return all_rows


def logits(fitted: Fitted, fold: Fold, spec: Spec = CHECKERBOARD) -> tuple[NDArray[Any], NDArray[Any]]:
    """(B, C) of the model, and of its linear part."""
    both = linear_part(fitted.model)(features_of(rows(fold).inputs, spec), training=False)
    return np.asarray(both[0], np.float64), np.asarray(both[1], np.float64)


def sigmoid(logit: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-logit)))


def weights(fitted: Fitted) -> list[NDArray[Any]]:
    return [np.asarray(variable) for variable in fitted.model.variables]


def same(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adam", 0.01), ("adagrad", 0.2), ("sgd", 0.5)])
def test_a_label_of_a_pair_of_fields_is_found_by_the_interactions_and_not_by_the_linear_part(
    optimizer: str, learning_rate: float
) -> None:
    folds = folds_of(checkerboard(6000, 1), checkerboard(1000, 2), checkerboard(2000, 3))
    settings = training(optimizer=optimizer, learning_rate=learning_rate)
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    model, linear = logits(fitted, folds["test"])
    label = rows(folds["test"]).label
    assert roc_auc_score(label, model[:, 0]) >= 0.99
    assert roc_auc_score(label, linear[:, 0]) <= 0.6
    # Labels without noise: the best loss is 0.
    assert log_loss(label, sigmoid(model[:, 0])) < 0.02


def test_a_regression_comes_near_to_the_noise() -> None:
    rng = np.random.default_rng(5)
    effects = rng.normal(size=(SIDE + 2, SIDE + 2))  # of the pairs: no sum of effects of a and b
    sigma = 0.2

    def part(count: int, seed: int) -> Rows:
        ids = random_ids(count, seed)
        x = np.random.default_rng(seed + 50).normal(size=count)
        noise = sigma * np.random.default_rng(seed + 100).normal(size=count)
        return rows_of(ids, 3 + 2 * effects[ids[:, 0], ids[:, 1]] - x + noise, dense_BD=x[:, np.newaxis])

    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, False, 0.0, 1.0),))
    folds = folds_of(part(6000, 1), part(1000, 2), part(2000, 3), spec)
    model = small_model(task="regression", hidden_units=(32, 32), hidden_dropout=0.0)
    fitted = fit(spec, model, training(learning_rate=0.02, epochs=15, schedule={"kind": "cosine"}), folds)
    label = rows(folds["test"]).label
    of_model, of_linear = logits(fitted, folds["test"], spec)
    rmse, linear = (float(np.sqrt(np.mean((one[:, 0] - label) ** 2))) for one in (of_model, of_linear))
    assert sigma * 0.9 < rmse < 2 * sigma < 1 < linear
    assert fitted.constant == pytest.approx((float(rows(folds["train"]).label.mean()),), rel=1e-4)
    best = fitted.best_epoch - 1
    assert fitted.history["val_loss"][best] == pytest.approx(fitted.history["val_rmse"][best] ** 2)


def multiclass(count: int, seed: int, classes: int) -> Rows:
    """With a chance of 0.8 the class is (a + b) mod C; else it is any, at random."""
    ids = random_ids(count, seed)
    rng = np.random.default_rng(seed + 100)
    kept = rng.random(count) < 0.8
    return rows_of(ids, np.where(kept, (ids[:, 0] + ids[:, 1]) % classes, rng.integers(0, classes, count)))


def test_a_multiclass_model_comes_near_to_the_accuracy_of_bayes() -> None:
    spec = replace(CHECKERBOARD, classes=("low", "mid", "high", "top"))
    folds = folds_of(multiclass(6000, 0, 4), multiclass(1000, 1, 4), multiclass(2000, 2, 4), spec)
    fitted = fit(spec, small_model(task="multiclass", hidden_units=(32,)), training(epochs=15), folds)
    guess = logits(fitted, folds["test"], spec)[0].argmax(axis=1)
    bayes = 0.8 + 0.2 / 4
    assert np.mean(guess == rows(folds["test"]).label) > bayes - 0.03
    shares = np.bincount(rows(folds["train"]).label.astype(int)) / 6000
    assert fitted.constant == pytest.approx(tuple(shares))
    assert {"val_loss", "val_accuracy"} <= fitted.history.keys()


def stopping(**settings: Any) -> dict[str, Any]:
    return {"early_stopping": settings, "epochs": 40, "batch_size": 32, "learning_rate": 0.02}


def test_early_stopping_restores_the_weights_of_the_best_epoch() -> None:
    folds = noise_folds()
    fitted = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_loss", patience=3)), folds)
    losses = fitted.history["val_loss"]
    assert len(losses) == fitted.best_epoch + 3 < 40
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    by_hand = log_loss(rows(folds["valid"]).label, sigmoid(logits(fitted, folds["valid"])[0][:, 0]))
    assert by_hand == pytest.approx(min(losses), abs=1e-6)
    assert by_hand < losses[-1]


def test_all_epochs_are_run_where_stopping_never_triggers_and_the_best_weights_are_kept_all_the_same() -> None:
    folds = noise_folds()
    settings = training(**{**stopping(monitor="val_loss", patience=100), "epochs": 8})
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    losses = fitted.history["val_loss"]
    assert (len(losses), fitted.best_epoch) == (8, int(np.argmin(losses)) + 1)
    assert fitted.best_epoch < 8
    # The best weights are those that a training of so many epochs ends with.
    shorter = fit(CHECKERBOARD, small_model(), settings.model_copy(update={"epochs": fitted.best_epoch}), folds)
    assert same(weights(shorter), weights(fitted))


def test_monitor_mode_and_min_delta_decide_when_to_stop() -> None:
    folds = noise_folds()
    by_auc = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_auc", patience=2)), folds)
    assert by_auc.best_epoch == int(np.argmax(by_auc.history["val_auc"])) + 1
    # Against its sense, and with a step that no epoch makes: each stops after the first epoch and its patience.
    upwards = training(**stopping(monitor="loss", mode="max", patience=2))
    assert fit(CHECKERBOARD, small_model(), upwards, folds).best_epoch == 1
    coarse = training(**stopping(monitor="loss", patience=2, min_delta=10.0))
    assert len(fit(CHECKERBOARD, small_model(), coarse, folds).history["loss"]) == 3


def test_a_metric_of_the_train_fold_can_be_watched_without_a_validation_fold() -> None:
    folds = noise_folds()
    folds["valid"] = Fold.in_memory(CHECKERBOARD, nothing(rows(folds["valid"])))
    settings = training(**{**stopping(monitor="auc", patience=2), "epochs": 4})
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    found = fitted.history["auc"]
    assert fitted.best_epoch == int(np.argmax(found)) + 1
    data = rows(folds["train"])
    assert roc_auc_score(data.label, logits(fitted, folds["train"])[0][:, 0]) == pytest.approx(max(found))


def test_without_early_stopping_the_last_weights_stay() -> None:
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=3), noise_folds())
    assert (len(fitted.history["loss"]), fitted.best_epoch) == (3, 3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    folds = noise_folds()

    def trained(seed: int) -> list[NDArray[Any]]:
        settings = training(seed=seed, epochs=2, unknown_dropout=0.1)
        return weights(fit(CHECKERBOARD, small_model(hidden_dropout=0.5), settings, folds))

    first, again, other = trained(1), trained(1), trained(2)
    assert same(first, again)
    assert not same(first, other)


def test_an_empty_validation_fold_needs_no_validation() -> None:
    folds = noise_folds()
    folds["valid"] = Fold.in_memory(CHECKERBOARD, nothing(rows(folds["valid"])))
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=1), folds)
    assert fitted.history.keys() == {"loss", "learning_rate"}
    with pytest.raises(DataError, match=r"train\.early_stopping watches val_loss, but no row of the dataset fell to"):
        fit(CHECKERBOARD, small_model(), training(), folds)
    plateau = training(early_stopping=None, schedule={"kind": "plateau"})
    with pytest.raises(DataError, match=r"train\.schedule watches val_loss, but no row"):
        fit(CHECKERBOARD, small_model(), plateau, folds)


def test_a_metric_that_is_not_defined_cannot_be_watched() -> None:
    folds = noise_folds()
    valid = rows(folds["valid"])
    folds["valid"] = Fold.in_memory(CHECKERBOARD, valid._replace(label=np.ones_like(valid.label)))
    with pytest.raises(DataError, match=r"watches val_auc, which is not defined: the rows of the validation fold .*cl"):
        fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_auc")), folds)
    folds["valid"] = Fold.in_memory(CHECKERBOARD, valid._replace(weight=np.zeros_like(valid.weight)))
    with pytest.raises(DataError, match=r"watches val_loss, which is not defined"):
        fit(CHECKERBOARD, small_model(), training(), folds)


def test_rows_of_weight_zero_teach_nothing() -> None:
    data = checkerboard(500, 1)
    ids = data.inputs.ids_BF
    # Every row once more, with the other label and no weight.
    both = rows_of(
        np.repeat(ids, 2, axis=0), np.stack([data.label, 1 - data.label], axis=1).ravel(), np.tile([1, 0], 500)
    )
    folds = folds_of(both, data, data)
    settings = training(epochs=25, early_stopping=None, learning_rate=0.03)
    fitted = fit(CHECKERBOARD, small_model(batch_norm=False), settings, folds)
    assert roc_auc_score(data.label, logits(fitted, folds["test"])[0][:, 0]) > 0.95
    assert fitted.constant == pytest.approx((float(data.label.mean()),))


def test_no_weight_at_all_teaches_nothing_and_is_no_error() -> None:
    data = checkerboard(64, 1)
    folds = folds_of(rows_of(data.inputs.ids_BF, data.label, np.zeros(64)), data, data)
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=1, optimizer="sgd"), folds)
    assert fitted.history["loss"] == [0.0]


def test_a_training_that_diverges_is_told_and_gives_no_model(tmp_path: Path) -> None:
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, False, 0.0, 1.0),))
    data = checkerboard(300, 1)
    number = np.ones((300, 1))
    number[290:] = 3e38
    extreme = rows_of(data.inputs.ids_BF, data.label, dense_BD=number)
    folds = folds_of(extreme, extreme, extreme, spec)
    with pytest.raises(
        DataError, match=r"(?s)^The loss was (nan|inf) at step \d, in epoch 1: the training diverged.*learning_rate"
    ) as told:
        fit(spec, small_model(), training(early_stopping=None, batch_size=32), folds, tmp_path)
    assert "checkpoint" not in str(told.value)  # there is none


def test_weights_that_are_no_numbers_after_the_last_step_are_told() -> None:
    # One step: its loss is of the fresh weights, and finite. What it does to them is not.
    data = checkerboard(64, 1)
    folds = folds_of(data, nothing(data), nothing(data))
    settings = training(optimizer="sgd", learning_rate=1e38, loss_reduction="sum", epochs=1, early_stopping=None)
    with pytest.raises(DataError, match=r"^A weight was no finite number after step 1, in epoch 1: the training div"):
        fit(CHECKERBOARD, small_model(), settings, folds)


def rates(steps: int, **settings: Any) -> list[float]:
    """The rate at the end of each epoch, of so many steps each; nothing is learned at a weight of 0."""
    data = noise_folds()
    train = rows(data["train"])
    few = rows_of(train.inputs.ids_BF[: 8 * steps], train.label[: 8 * steps])
    folds = folds_of(few, rows(data["valid"]), nothing(few))
    asked = training(**{"batch_size": 8, "learning_rate": 0.1, "early_stopping": None, **settings})
    return fit(CHECKERBOARD, small_model(), asked, folds).history["learning_rate"]


def test_the_learning_rate_follows_its_schedule() -> None:
    assert rates(2, epochs=2) == [0.1, 0.1]
    # After 2 and 4 of 5 steps of warming up, the next steps are the 3rd and 5th.
    assert rates(2, epochs=4, schedule={"warmup_steps": 5}) == pytest.approx([0.06, 0.1, 0.1, 0.1])
    cosine = rates(2, epochs=4, schedule={"kind": "cosine", "final_share": 0.2, "warmup_steps": 2})
    by_hand = [0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * done / 6))) for done in (0, 2, 4, 6)]
    assert cosine == pytest.approx(by_hand)
    assert cosine[-1] == pytest.approx(0.02)


def test_on_a_plateau_the_learning_rate_falls() -> None:
    # No loss is above infinity's: against its sense, no epoch is better than the first that is worst.
    stop = {"monitor": "val_loss", "mode": "max", "patience": 100}
    settings = {"epochs": 7, "optimizer": "sgd", "learning_rate": 1e-30, "early_stopping": stop}
    # Weights that stay give the same value in every epoch: 2 without improvement, then 2 more.
    found = rates(2, schedule={"kind": "plateau", "patience": 2, "factor": 0.1}, **settings)
    assert found == pytest.approx([1e-30] * 3 + [1e-31] * 2 + [1e-32] * 2)


def test_the_first_steps_of_a_warm_up_are_small() -> None:
    # Plain gradient descent from the same weights: twice the rate is twice the change.
    data = checkerboard(8, 1)
    folds = folds_of(data, nothing(data), nothing(data))
    plain = {"optimizer": "sgd", "epochs": 1, "early_stopping": None, "batch_size": 8}
    model = small_model(batch_norm=False, hidden_dropout=0.0)

    def bias(**changes: Any) -> float:
        return float(fit(CHECKERBOARD, model, training(**plain, **changes), folds).model.get_layer("linear").bias[0])

    warm, half = bias(learning_rate=0.4, schedule={"warmup_steps": 2}), bias(learning_rate=0.2)
    assert warm == half != 0


def shares(folds: dict[str, Fold], model: Model, settings: Train, spec: Spec = CHECKERBOARD) -> NDArray[Any]:
    """The mean probabilities that a model of biases alone ends with."""
    fitted = fit(spec, model, settings, folds)
    found = logits(fitted, folds["train"], spec)[0]
    if found.shape[1] == 1:
        return np.array([sigmoid(found).mean()])
    return np.asarray(tf.nn.softmax(found).numpy().mean(axis=0))


def test_class_weights_count_as_so_many_rows() -> None:
    # Ids that say nothing: the best a model can do is the share of each class by weight.
    label = np.array([1.0] * 20 + [0.0] * 80)
    data = rows_of(np.full((100, 3), 2), label, np.where(label, 1.0, 0.5))  # weights: 20 and 40
    folds = folds_of(data, nothing(data), nothing(data))
    plain = {"early_stopping": None, "epochs": 15, "optimizer": "sgd", "learning_rate": 1.0, "batch_size": 100}
    model = small_model(batch_norm=False, hidden_units=(), hidden_dropout=0.0)

    def share(**changes: Any) -> float:
        return float(shares(folds, model, training(**plain, **changes))[0])

    assert share() == pytest.approx(20 / 60, abs=0.01)
    assert share(class_weights="balanced") == pytest.approx(0.5, abs=0.01)
    assert share(class_weights={"1": 4.0}) == pytest.approx(80 / 120, abs=0.01)
    with pytest.raises(DataError, match=r"class_weights: 'yes' given, but the label's classes are '0', '1'\. Name"):
        share(class_weights={"yes": 4.0, "0": 1.0})


def test_class_weights_of_a_multiclass_label_go_by_its_texts() -> None:
    spec = replace(CHECKERBOARD, classes=("x", "y", "z"))
    label = np.repeat([0.0, 1.0, 2.0], [10, 30, 60])
    data = rows_of(np.full((100, 3), 2), label)
    folds = folds_of(data, nothing(data), nothing(data), spec)
    model = small_model(task="multiclass", batch_norm=False, hidden_units=(), hidden_dropout=0.0)
    plain = {"early_stopping": None, "epochs": 30, "optimizer": "sgd", "learning_rate": 1.0, "batch_size": 100}
    balanced = shares(folds, model, training(**plain, class_weights="balanced"), spec)
    np.testing.assert_allclose(balanced, [1 / 3] * 3, atol=0.01)
    named = shares(folds, model, training(**plain, class_weights={"x": 6.0, "z": 0.5}), spec)
    np.testing.assert_allclose(named, np.array([60, 30, 30]) / 120, atol=0.01)
    with pytest.raises(DataError, match=r"class_weights: '0' given, but the label's classes are 'x', 'y', 'z'"):
        fit(spec, model, training(class_weights={"0": 1.0}, early_stopping=None), folds)


@pytest.mark.parametrize(
    ("task", "fold"), list(itertools.product(["binary", "regression", "multiclass"], ["train", "test"]))
)
def test_labels_that_are_not_of_the_task_are_told_with_their_count(task: str, fold: str) -> None:
    spec = replace(CHECKERBOARD, classes=("x", "y", "z") if task == "multiclass" else ())
    right = checkerboard(100, 1)
    wrong = {"binary": 2.0, "regression": np.nan, "multiclass": 3.0}[task]
    label = right.label.copy()
    label[[3, 50, 99]] = wrong, wrong, np.nan
    parts = dict.fromkeys(("train", "valid", "test"), right) | {fold: right._replace(label=label)}
    allowed = {"binary": "0 and 1", "regression": "numbers", "multiclass": "the numbers of its classes, 0 to 2"}[task]
    with pytest.raises(DataError) as refused:
        fit(spec, small_model(task=task), training(), folds_of(**parts, spec=spec))
    assert (
        f"The labels of a {task} task are {allowed}, but 3 of the 100 rows of the {fold} fold have another, {wrong:g}"
        in str(refused.value)
    )


def test_a_field_that_is_a_bag_and_numbers_in_the_pooling_are_learned_from() -> None:
    """The label is whether the row's bag holds the value that the field names."""
    spec = Spec(
        ("k",),
        (
            Field("wanted", ("wanted",), ("text",), 1, 6, "wanted"),
            Field("tags", ("tags",), ("text",), 1, 6, "tags", None, Bag(None, ",", None)),
        ),
        (),
        (),
    )

    def part(count: int, seed: int) -> Rows:
        rng = np.random.default_rng(seed)
        wanted, has = rng.integers(0, 6, count), rng.random((count, 6)) < 0.4
        row, tag = np.nonzero(has)
        plain = rows_of(2 + wanted[:, np.newaxis], has[np.arange(count), wanted])
        splits = np.concatenate([[0], np.cumsum(has.sum(axis=1))]).astype(np.int64)
        members = (spec.offsets[1] + 2 + tag).astype(np.int32)
        return plain._replace(
            inputs=plain.inputs._replace(bag_rows=members, bag_values=np.ones(len(row), np.float32), bag_splits=splits)
        )

    folds = folds_of(part(4000, 1), part(500, 2), part(1000, 3), spec)
    assert any(np.diff(rows(folds["train"]).inputs.bag_splits) == 0)  # an empty bag is among them
    fitted = fit(spec, small_model(), training(epochs=8), folds)
    assert roc_auc_score(rows(folds["test"]).label, logits(fitted, folds["test"], spec)[0][:, 0]) > 0.99


def values_of(folder: Path) -> list[tuple[int, str, float]]:
    """(epoch, name, value) of all event files, in the order in which they were written."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda one: one.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.append((event.step, value.tag, float(tf.make_ndarray(value.tensor))))
    return found


def test_tensorboard_has_the_values_of_each_epoch(tmp_path: Path) -> None:
    settings, logs = training(early_stopping=None, epochs=2), tmp_path / "tensorboard"
    for _ in range(2):  # a fresh training removes what is there
        fitted = fit(CHECKERBOARD, small_model(), settings, noise_folds(), logs=logs)
        expected = {
            (i + 1, name, float(np.float32(v))) for name, vs in fitted.history.items() for i, v in enumerate(vs)
        }
        assert {name for _, name, _ in expected} >= {"loss", "learning_rate", "val_loss", "val_auc"}
        found = values_of(logs)
        assert (set(found), len(found)) == (expected, len(expected))


def test_a_folder_that_cannot_hold_events_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    fit(CHECKERBOARD, small_model(), training(epochs=1), noise_folds(), logs=tmp_path / "file/tensorboard")
    assert "TensorBoard's events cannot be written to" in caplog.text


def test_a_resumed_training_goes_on_with_the_events_that_are_there(tmp_path: Path) -> None:
    class EndedError(Exception):
        """Stands for whatever ends a process."""

    def end_after(epoch: int, _: Any) -> None:
        if epoch == 2:
            raise EndedError

    settings = training(early_stopping=None, epochs=3)
    places: dict[str, Any] = {"folder": tmp_path / "checkpoint", "logs": tmp_path / "tensorboard"}
    with pytest.raises(EndedError):
        fit(CHECKERBOARD, small_model(), settings, noise_folds(), **places, each_epoch=end_after)
    fitted = fit(CHECKERBOARD, small_model(), settings, noise_folds(), **places)
    found = [(step, value) for step, name, value in values_of(tmp_path / "tensorboard") if name == "val_loss"]
    assert found == [(i + 1, float(np.float32(value))) for i, value in enumerate(fitted.history["val_loss"])]
