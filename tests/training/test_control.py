"""Learning rate, best epoch and end of a training, by hand and in trainings."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from nfm.config.train import Train
from nfm.contract.errors import DataError
from nfm.training.control import Progress, choose_sign, compute_rate, decide_next, list_monitors, record_epoch
from nfm.training.fit import fit
from nfm.training.model import BIAS
from tests.training.examples import (
    CHECKERBOARD,
    checkerboard,
    fold_in_memory,
    folds_of,
    no_rows,
    noise_folds,
    rows_of,
    small_model,
    training,
)
from tests.training.trained import are_same, logits, rows, sigmoid, weights


def make_settings(**changes: Any) -> Train:
    return Train.model_validate({"learning_rate": 0.8, "epochs": 10, **changes})


def run(settings: Train, losses: list[float], name: str = "rmse") -> tuple[Progress, list[bool], list[float]]:
    """Run epochs with these validation metrics to the end; return whether each was the best, and its learning rate."""
    progress, bests, rates = Progress(), [], []
    for loss in losses:
        if progress.finished:
            break
        rates.append(compute_rate(progress, settings, steps=3))
        progress.loss, progress.weight, progress.step = 6.0, 4.0, progress.step + 3
        bests.append(
            record_epoch(progress, rates[-1], {"valid": {"loss": loss, name: loss, "rows": 7}}, settings.early_stopping)
        )
        decide_next(progress, settings)
    return progress, bests, rates


def test_the_learning_rate_of_each_step() -> None:
    def rate_at(step: int, **schedule: Any) -> float:
        return compute_rate(Progress(step=step), make_settings(schedule=schedule), steps=3)

    assert [rate_at(step) for step in (0, 1, 29)] == [0.8, 0.8, 0.8]
    assert [rate_at(step, warmup_steps=4) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    # Of 30 steps, half are done at step 15, or, after 10 steps of warm-up, at step 10 + 10.
    assert [rate_at(step, kind="cosine") for step in (0, 15, 30, 99)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    warm = [rate_at(step, kind="cosine", warmup_steps=10, final_share=0.5) for step in (4, 9, 10, 20, 30)]
    assert warm == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4])
    quarter = 0.8 * 0.5 * (1 + math.cos(math.pi / 4))
    assert rate_at(5, kind="cosine", warmup_steps=0) == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi / 6)))
    of_four_epochs = make_settings(epochs=4, schedule={"kind": "cosine"})
    assert compute_rate(Progress(step=3), of_four_epochs, steps=3) == pytest.approx(quarter)


def test_a_plateau_lowers_the_rate_after_epochs_without_improvement() -> None:
    plateau = {"kind": "plateau", "patience": 2, "factor": 0.5}
    stop = {"monitor": "val_rmse", "patience": 50}
    #              best best  1    2→½   1   best  1    2→½  1
    losses = [5.0, 4.0, 4.0, 4.5, 4.1, 3.0, 3.0, 3.5, 3.1]
    progress, bests, rates = run(make_settings(schedule=plateau, early_stopping=stop), losses)
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.2])
    assert [i + 1 for i, best in enumerate(bests) if best] == [1, 2, 6]
    assert (progress.best_epoch, progress.best_value, progress.finished) == (6, -3.0, False)
    # Without early stopping, the schedule watches val_loss, the squared error.
    _, all_best, again = run(make_settings(schedule=plateau, early_stopping=None), losses)
    assert again == pytest.approx(rates)
    assert all(all_best)


def test_a_training_ends_after_the_patience_or_the_last_epoch() -> None:
    progress, bests, _ = run(make_settings(early_stopping={"patience": 2}), [5.0, 4.0, 4.0, 4.5, 1.0])
    assert (progress.finished, progress.epoch, progress.best_epoch) == (True, 4, 2)
    assert bests == [True, True, False, False]
    progress, _, _ = run(make_settings(epochs=3, early_stopping=None), [1.0, 2.0, 3.0, 4.0])
    assert (progress.finished, progress.epoch, progress.best_epoch) == (True, 3, 3)


def test_changes_up_to_min_delta_are_not_an_improvement() -> None:
    stop = {"monitor": "val_rmse", "min_delta": 0.5, "patience": 9}
    _, bests, _ = run(make_settings(early_stopping=stop), [5.0, 4.6, 4.4, 4.0, 3.8])
    # Compared with the best value, 5.0, then 4.4; a change of exactly min_delta does not count.
    assert bests == [True, False, True, False, True]


def test_higher_is_better_for_auc_accuracy_and_r2_unless_mode_is_min() -> None:
    assert [choose_sign(name) for name in ("val_auc", "accuracy", "val_loss", "rmse", "val_mae", "r2")] == [
        1,
        1,
        -1,
        -1,
        -1,
        1,
    ]
    assert choose_sign("val_auc", "min") == -1
    assert choose_sign("loss", "max") == 1
    stop = {"monitor": "val_auc", "patience": 1}
    _, bests, _ = run(make_settings(early_stopping=stop), [0.5, 0.6, 0.6, 0.7], "auc")
    assert bests == [True, True, False]


def test_the_history_of_an_epoch() -> None:
    progress = Progress(epoch=0, batch=3, step=3, loss=6.0, weight=4.0)
    valid = {"loss": 0.25, "log_loss": 0.25, "auc": 0.75, "rows": 12, "gauc": None, "constant": {"auc": 0.5}}
    train = {"log_loss": 0.5, "auc": 0.875, "rows": 40}
    assert record_epoch(progress, 0.1, {"train": train, "valid": valid}, None)
    expected = {
        "loss": 1.5,
        "learning_rate": 0.1,
        "log_loss": 0.5,
        "auc": 0.875,
        "val_loss": 0.25,
        "val_log_loss": 0.25,
        "val_auc": 0.75,
    }
    assert progress.history == {name: [value] for name, value in expected.items()}
    assert (progress.epoch, progress.batch, progress.step, progress.loss, progress.weight) == (1, 0, 3, 0.0, 0.0)


def test_monitors_of_early_stopping_and_schedule() -> None:
    assert list_monitors(make_settings(early_stopping=None)) == []
    assert list_monitors(make_settings()) == [("early_stopping", "val_loss")]
    plateau = {"kind": "plateau"}
    both = make_settings(schedule=plateau, early_stopping={"monitor": "val_auc"})
    assert list_monitors(both) == [("early_stopping", "val_auc"), ("schedule", "val_auc")]
    assert list_monitors(make_settings(schedule=plateau, early_stopping=None)) == [("schedule", "val_loss")]


def stopping(**early_stopping: Any) -> dict[str, Any]:
    return {"early_stopping": early_stopping, "epochs": 40, "batch_size": 32, "learning_rate": 0.02}


def test_early_stopping_restores_the_weights_of_the_best_epoch() -> None:
    folds = noise_folds()
    fitted = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_loss", patience=3)), folds)
    losses = fitted.history["val_loss"]
    assert len(losses) == fitted.best_epoch + 3 < 40
    assert fitted.best_epoch == int(np.argmin(losses)) + 1
    by_hand = log_loss(rows(folds["valid"]).label, sigmoid(logits(fitted, folds["valid"])[0][:, 0]))
    assert by_hand == pytest.approx(min(losses), abs=1e-6)
    assert by_hand < losses[-1]


def test_the_best_weights_are_kept_if_early_stopping_never_triggers() -> None:
    folds = noise_folds()
    settings = training(**{**stopping(monitor="val_loss", patience=100), "epochs": 8})
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    losses = fitted.history["val_loss"]
    assert (len(losses), fitted.best_epoch) == (8, int(np.argmin(losses)) + 1)
    assert fitted.best_epoch < 8
    # The best weights are the last weights of a training with `best_epoch` epochs.
    shorter = fit(CHECKERBOARD, small_model(), settings.model_copy(update={"epochs": fitted.best_epoch}), folds)
    assert are_same(weights(shorter), weights(fitted))


def test_monitor_mode_and_min_delta_decide_when_to_stop() -> None:
    folds = noise_folds()
    by_auc = fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_auc", patience=2)), folds)
    assert by_auc.best_epoch == int(np.argmax(by_auc.history["val_auc"])) + 1
    # With the wrong mode, or a min_delta that no epoch reaches, training stops after the first epoch and the patience.
    upwards = training(**stopping(monitor="loss", mode="max", patience=2))
    assert fit(CHECKERBOARD, small_model(), upwards, folds).best_epoch == 1
    coarse = training(**stopping(monitor="loss", patience=2, min_delta=10.0))
    assert len(fit(CHECKERBOARD, small_model(), coarse, folds).history["loss"]) == 3


def test_a_metric_of_the_train_fold_can_be_watched_without_a_validation_fold() -> None:
    folds = noise_folds()
    folds["valid"] = fold_in_memory(CHECKERBOARD, no_rows(rows(folds["valid"])))
    settings = training(**{**stopping(monitor="auc", patience=2), "epochs": 4})
    fitted = fit(CHECKERBOARD, small_model(), settings, folds)
    areas = fitted.history["auc"]
    assert fitted.best_epoch == int(np.argmax(areas)) + 1
    data = rows(folds["train"])
    assert roc_auc_score(data.label, logits(fitted, folds["train"])[0][:, 0]) == pytest.approx(max(areas))


def test_without_early_stopping_the_last_weights_are_kept() -> None:
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=3), noise_folds())
    assert (len(fitted.history["loss"]), fitted.best_epoch) == (3, 3)


def test_an_empty_validation_fold_is_refused_only_if_it_is_watched() -> None:
    folds = noise_folds()
    folds["valid"] = fold_in_memory(CHECKERBOARD, no_rows(rows(folds["valid"])))
    fitted = fit(CHECKERBOARD, small_model(), training(early_stopping=None, epochs=1), folds)
    assert fitted.history.keys() == {"loss", "learning_rate"}
    with pytest.raises(DataError, match=r"train\.early_stopping watches val_loss, but the validation fold has no rows"):
        fit(CHECKERBOARD, small_model(), training(), folds)
    plateau = training(early_stopping=None, schedule={"kind": "plateau"})
    with pytest.raises(DataError, match=r"train\.schedule watches val_loss, but the validation fold has no rows"):
        fit(CHECKERBOARD, small_model(), plateau, folds)


def test_a_metric_that_is_not_defined_cannot_be_watched() -> None:
    folds = noise_folds()
    valid = rows(folds["valid"])
    folds["valid"] = fold_in_memory(CHECKERBOARD, valid._replace(label=np.ones_like(valid.label)))
    with pytest.raises(DataError, match=r"watches val_auc, which is not defined: in the validation fold, .*class"):
        fit(CHECKERBOARD, small_model(), training(**stopping(monitor="val_auc")), folds)
    folds["valid"] = fold_in_memory(CHECKERBOARD, valid._replace(weight=np.zeros_like(valid.weight)))
    with pytest.raises(DataError, match=r"watches val_loss, which is not defined"):
        fit(CHECKERBOARD, small_model(), training(), folds)


def train_with_rates(steps: int, **changes: Any) -> list[float]:
    """Train epochs of `steps` steps, and return the learning rate at the end of each."""
    data = noise_folds()
    train = rows(data["train"])
    few = rows_of(train.inputs.ids_BF[: 8 * steps], train.label[: 8 * steps])
    folds = folds_of(few, rows(data["valid"]), no_rows(few))
    settings = training(**{"batch_size": 8, "learning_rate": 0.1, "early_stopping": None, **changes})
    return fit(CHECKERBOARD, small_model(), settings, folds).history["learning_rate"]


def test_the_learning_rate_follows_its_schedule() -> None:
    assert train_with_rates(2, epochs=2) == [0.1, 0.1]
    # After 2 and 4 of the 5 warm-up steps, the next steps are the 3rd and the 5th.
    assert train_with_rates(2, epochs=4, schedule={"warmup_steps": 5}) == pytest.approx([0.06, 0.1, 0.1, 0.1])
    cosine = train_with_rates(2, epochs=4, schedule={"kind": "cosine", "final_share": 0.2, "warmup_steps": 2})
    by_hand = [0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * done / 6))) for done in (0, 2, 4, 6)]
    assert cosine == pytest.approx(by_hand)
    assert cosine[-1] == pytest.approx(0.02)


def test_a_plateau_lowers_the_learning_rate_of_a_training() -> None:
    # With mode max and constant weights, no epoch improves on the first.
    stop = {"monitor": "val_loss", "mode": "max", "patience": 100}
    settings = {"epochs": 7, "optimizer": "sgd", "learning_rate": 1e-30, "early_stopping": stop}
    # The value is the same in every epoch: 2 epochs without improvement, then 2 more.
    rates = train_with_rates(2, schedule={"kind": "plateau", "patience": 2, "factor": 0.1}, **settings)
    assert rates == pytest.approx([1e-30] * 3 + [1e-31] * 2 + [1e-32] * 2)


def test_the_first_step_of_a_warm_up_has_a_lower_rate() -> None:
    # Plain gradient descent: the first of two warm-up steps equals a step with half the rate.
    data = checkerboard(8, 1)
    folds = folds_of(data, no_rows(data), no_rows(data))
    plain = {"optimizer": "sgd", "epochs": 1, "early_stopping": None, "batch_size": 8}
    model = small_model(batch_norm=False, hidden_dropout=0.0)

    def bias(**changes: Any) -> float:
        return float(fit(CHECKERBOARD, model, training(**plain, **changes), folds).weights.network[BIAS][0])

    warm, half = bias(learning_rate=0.4, schedule={"warmup_steps": 2}), bias(learning_rate=0.2)
    assert warm == half != 0
