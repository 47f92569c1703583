"""What is decided between the steps, by hand: the learning rate, the best epoch, the end."""

import math
from typing import Any

import pytest

from nfm.config_train import Train
from nfm.training.control import Progress, after_epoch, end_epoch, measured_monitors, rate, sign


def settings(**changes: Any) -> Train:
    return Train.model_validate({"learning_rate": 0.8, "epochs": 10, **changes})


def run(asked: Train, losses: list[float], name: str = "rmse") -> tuple[Progress, list[bool], list[float]]:
    """Epochs with these validation metrics, until it is over: whether each was the best one, and its rate."""
    progress, bests, rates = Progress(), [], []
    for loss in losses:
        if progress.finished:
            break
        rates.append(rate(progress, asked, steps=3))
        progress.loss, progress.weight, progress.step = 6.0, 4.0, progress.step + 3
        bests.append(end_epoch(progress, rates[-1], {"valid": {name: loss, "rows": 7}}, asked.early_stopping))
        after_epoch(progress, asked)
    return progress, bests, rates


def test_the_rate_of_each_step() -> None:
    def of(step: int, **schedule: Any) -> float:
        return rate(Progress(step=step), settings(schedule=schedule), steps=3)

    assert [of(step) for step in (0, 1, 29)] == [0.8, 0.8, 0.8]
    assert [of(step, warmup_steps=4) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    # 30 steps in all: half the way is 15 of them, without the 10 of warming up it is 10 + 10.
    assert [of(step, kind="cosine") for step in (0, 15, 30, 99)] == pytest.approx([0.8, 0.4, 0.0, 0.0])
    warm = [of(step, kind="cosine", warmup_steps=10, final_share=0.5) for step in (4, 9, 10, 20, 30)]
    assert warm == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4])
    quarter = 0.8 * 0.5 * (1 + math.cos(math.pi / 4))
    assert of(5, kind="cosine", warmup_steps=0) == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi / 6)))
    assert rate(Progress(step=3), settings(epochs=4, schedule={"kind": "cosine"}), steps=3) == pytest.approx(quarter)


def test_on_a_plateau_the_rate_is_multiplied_after_epochs_without_improvement() -> None:
    plateau = {"kind": "plateau", "patience": 2, "factor": 0.5}
    stop = {"monitor": "val_rmse", "patience": 50}
    #              best best  1    2→½   1   best  1    2→½  1
    losses = [5.0, 4.0, 4.0, 4.5, 4.1, 3.0, 3.0, 3.5, 3.1]
    progress, bests, rates = run(settings(schedule=plateau, early_stopping=stop), losses)
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.2])
    assert [i + 1 for i, best in enumerate(bests) if best] == [1, 2, 6]
    assert (progress.best_epoch, progress.best_value, progress.finished) == (6, -3.0, False)
    # Without early stopping, val_loss is watched: the squared error.
    _, every, again = run(settings(schedule=plateau, early_stopping=None), losses)
    assert again == pytest.approx(rates)
    assert all(every)


def test_it_is_over_after_the_patience_or_the_last_epoch() -> None:
    progress, bests, _ = run(settings(early_stopping={"patience": 2}), [5.0, 4.0, 4.0, 4.5, 1.0])
    assert (progress.finished, progress.epoch, progress.best_epoch) == (True, 4, 2)
    assert bests == [True, True, False, False]
    progress, _, _ = run(settings(epochs=3, early_stopping=None), [1.0, 2.0, 3.0, 4.0])
    assert (progress.finished, progress.epoch, progress.best_epoch) == (True, 3, 3)


def test_small_changes_are_no_improvement() -> None:
    stop = {"monitor": "val_rmse", "min_delta": 0.5, "patience": 9}
    _, bests, _ = run(settings(early_stopping=stop), [5.0, 4.6, 4.4, 4.0, 3.8])
    # Against the best so far: 5.0, then 4.4; a change of exactly min_delta is none.
    assert bests == [True, False, True, False, True]


def test_higher_is_better_for_auc_and_accuracy_unless_told() -> None:
    assert [sign(name) for name in ("val_auc", "accuracy", "val_loss", "rmse", "val_mae")] == [1, 1, -1, -1, -1]
    assert sign("val_auc", "min") == -1
    assert sign("loss", "max") == 1
    stop = {"monitor": "val_auc", "patience": 1}
    _, bests, _ = run(settings(early_stopping=stop), [0.5, 0.6, 0.6, 0.7], "auc")
    assert bests == [True, True, False]


def test_the_history_of_an_epoch() -> None:
    progress = Progress(epoch=0, batch=3, step=3, loss=6.0, weight=4.0)
    valid = {"log_loss": 0.25, "auc": 0.75, "rows": 12, "gauc": None, "constant": {"auc": 0.5}}
    train = {"log_loss": 0.5, "auc": 0.875, "rows": 40}
    assert end_epoch(progress, 0.1, {"train": train, "valid": valid}, None)
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


def test_what_is_watched() -> None:
    assert measured_monitors(settings(early_stopping=None)) == []
    assert measured_monitors(settings()) == [("early_stopping", "val_loss")]
    plateau = {"kind": "plateau"}
    both = settings(schedule=plateau, early_stopping={"monitor": "val_auc"})
    assert measured_monitors(both) == [("early_stopping", "val_auc"), ("schedule", "val_auc")]
    assert measured_monitors(settings(schedule=plateau, early_stopping=None)) == [("schedule", "val_loss")]
