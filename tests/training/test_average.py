"""The moving average of the weights against a dense average of all weights after every step, in float64."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from nfm.config.train import Train
from nfm.kernels.averages import multiply_decays
from nfm.training.average import Average
from nfm.training.fit import fit
from nfm.training.optimizers import list_arrays
from nfm.training.result import Fitted
from nfm.training.step import make_step
from tests.training.examples import CHECKERBOARD, noise_folds, training
from tests.training.interrupted import EVERY_STEP, MODEL
from tests.training.test_optimizers import PATHS, SETTINGS, SHAPES, TABLES, Rows, make_apply, optimizer_of, weights
from tests.training.trained import are_same, logits, rows, sigmoid

Array = NDArray[np.float64]


def decay_of(n: int, d: float) -> float:
    """Return the decay of a step, counted from 0."""
    return min(d, (1 + n) / (10 + n))


class Dense:
    """Average over all elements of some arrays, of which nothing is left out."""

    def __init__(self, arrays: list[NDArray[Any]], d: float) -> None:
        self.arrays, self.d, self.steps = [array.astype(np.float64) for array in arrays], d, 0

    def add(self, arrays: list[NDArray[Any]]) -> None:
        decay = decay_of(self.steps, self.d)
        self.steps += 1
        self.arrays = [decay * old + (1 - decay) * w for old, w in zip(self.arrays, arrays, strict=True)]


@pytest.mark.parametrize(("average", "rows"), [(0.99, 1024), (0.99, 128), (0.05, 1024), (0.1, 1024), (0.9999, 4000)])
def test_products_of_decays_equal_the_products_of_the_formula(average: float, rows: int) -> None:
    of_tables = Average(weights(), average, rows).tables
    d = average ** (rows / 1024)
    decays = [decay_of(n, d) for n in range(4000)]
    for start, stop in itertools.product((0, 1, 7, 700, 1500, 3999), (0, 1, 2, 8, 890, 1501, 4000)):
        if start <= stop:
            found = multiply_decays(start, stop, of_tables.log_decay, of_tables.warm_up)
            assert found == pytest.approx(np.prod(decays[start:stop]), rel=1e-9), (start, stop)
    # No number is too large: after a million steps nothing is left, and the decay is still exact.
    assert multiply_decays(5, 10**6, of_tables.log_decay, of_tables.warm_up) == pytest.approx(0, abs=1e-40)
    last = multiply_decays(10**8, 10**8 + 1, of_tables.log_decay, of_tables.warm_up)
    assert last == pytest.approx(d, rel=1e-9)


def draw_gradients(step: int) -> list[Any]:
    """Draw gradients of a step: rows 0 and 1 are in every batch, 7 in one of 60, 8 in none, the others in some."""
    rng = np.random.default_rng(step)
    batch = [0, 1, *rng.choice([2, 3, 4], 2).tolist(), *([5, 6] if step % 7 == 0 else []), *([7] * (step % 60 == 30))]
    drawn = [rng.normal(size=(len(batch), *shape[1:])).astype(np.float32) for shape in SHAPES[:TABLES]]
    others = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES[TABLES:]]
    return [*(Rows(batch, values) for values in drawn), *others]


@pytest.mark.parametrize("which", [name for name in SETTINGS if name != "adagrad from 0"])
def test_lazy_averages_equal_a_dense_average_of_every_step(which: str) -> None:
    settings = Train.model_validate({**SETTINGS[which], "average": 0.9, "batch_size": 300})
    trained, plain = weights(), weights()
    start = [array.copy() for array in list_arrays(trained)]
    optimizer = optimizer_of(settings, trained)
    dense = Dense(start, 0.9 ** (300 / 1024))
    apply = make_apply(optimizer)
    apply_without = make_apply(optimizer_of(settings.model_copy(update={"average": None}), plain))
    for step in range(1, 151):
        apply(draw_gradients(step), 0.05, step)
        apply_without(draw_gradients(step), 0.05, step)
        dense.add(list_arrays(trained))
        if step in (1, 2, 75, 76, 150):  # ends of epochs; the third epoch has one step
            optimizer.finish_epoch(step)
            for found, expected, path in zip(list_arrays(optimizer.evaluated), dense.arrays, PATHS, strict=True):
                np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6, err_msg=path)
    assert are_same(list_arrays(trained), list_arrays(plain))  # the average does not change the training
    for averaged, before, path in zip(list_arrays(optimizer.evaluated), start, PATHS, strict=True):
        if path in PATHS[:TABLES] and "ftrl" not in which:
            np.testing.assert_array_equal(averaged[8], before[8])
        assert not np.allclose(averaged, before)


Record = list[list[NDArray[Any]]]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Record all weights in training, before the first step and after each step."""
    steps: Record = []

    def make_recorded(*arguments: Any) -> Callable[..., float]:
        step, weights_now = make_step(*arguments), arguments[5].weights
        steps.append([array.copy() for array in list_arrays(weights_now)])

        def recorded(*batch: Any) -> float:
            loss = step(*batch)
            steps.append([array.copy() for array in list_arrays(weights_now)])
            return loss

        return recorded

    monkeypatch.setattr("nfm.training.fit.make_step", make_recorded)
    return steps


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adagrad", "batch_size": 70},
        {"optimizer": "sgd", "momentum": 0.5, "batch_size": 7, "epochs": 1},
        {"optimizer": "adam", "clip_norm": 0.5, "linear_optimizer": {"l1": 0.01}, "batch_size": 60},
    ],
    ids=["70 rows", "7 rows", "60 rows"],
)
def test_a_training_ends_with_the_average_of_its_steps(changes: Mapping[str, Any], record: Record) -> None:
    settings = training(**{"epochs": 3, "early_stopping": None, "average": 0.95, "unknown_dropout": 0.1, **changes})
    fitted = fit(CHECKERBOARD, MODEL, settings, noise_folds())
    even = min(60, -(-300 // -(-300 // settings.batch_size)))  # 300 rows have at least five batches
    dense = Dense(record[0], 0.95 ** (even / 1024))
    for arrays in record[1:]:
        dense.add(arrays)
    assert dense.steps == settings.epochs * -(-300 // even)
    names = ["embedding", "linear", *fitted.weights.network]
    for name, found, expected, last in zip(names, list_arrays(fitted.weights), dense.arrays, record[-1], strict=True):
        if "moving" in name:  # statistics of batch norm are not averaged
            np.testing.assert_array_equal(found, last, err_msg=name)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
            assert not np.array_equal(found, last) or not found.any()
    averaged = list(record)
    record.clear()
    fit(CHECKERBOARD, MODEL, settings.model_copy(update={"average": None}), noise_folds())
    assert all(are_same(one, other) for one, other in zip(averaged, record, strict=True))


def test_early_stopping_keeps_the_best_averaged_weights(record: Record) -> None:
    folds = noise_folds()

    def measured_loss(fitted: Fitted) -> float:
        return float(log_loss(rows(folds["valid"]).label, sigmoid(logits(fitted, folds["valid"])[0][:, 0])))

    settings = training(**{**EVERY_STEP, "average": 0.9, "schedule": {}, "checkpoint_seconds": 300.0})
    fitted = fit(CHECKERBOARD, MODEL, settings, folds)
    best, epochs = fitted.best_epoch, len(fitted.history["loss"])
    assert 1 < best < epochs < 1 + len(record) // 10
    assert measured_loss(fitted) == pytest.approx(min(fitted.history["val_loss"]), rel=1e-6)
    assert fitted.history["val_loss"].index(min(fitted.history["val_loss"])) == best - 1
    dense = Dense(record[0], 0.9 ** (30 / 1024))
    for arrays in record[1 : 1 + 10 * best]:
        dense.add(arrays)
    np.testing.assert_allclose(fitted.weights.tables.embedding, dense.arrays[0], rtol=1e-5, atol=1e-6)
    # The training continued from the weights of the steps, not from the average.
    plain = fit(CHECKERBOARD, MODEL, settings.model_copy(update={"average": None, "early_stopping": None}), folds)
    assert fitted.history["loss"] == plain.history["loss"][:epochs]
    assert fitted.history["val_loss"] != plain.history["val_loss"][:epochs]
