"""Optimizer steps against their formulas in NumPy, on the rows of the batch; all other rows do not change."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.kernels.pooling import Features
from nfm.kernels.tables import Tables, Upstream
from nfm.training.model import TABLES as TABLE_PATHS
from nfm.training.model import Weights
from nfm.training.optimizers import Optimizer, list_arrays
from nfm.training.tables import TableReader
from tests.training.test_tables import spec_of

RATE = 0.3
PATHS = (*TABLE_PATHS, "dense_linear/kernel", "hidden_0/kernel", "linear/bias")
SHAPES = ((9, 3), (9, 2), (4, 2), (5, 3), (2,))
TABLES = 2  # the first ones
# Rows of each step's features. Some occur several times; 5 occurs in the first and the third step, 0 in none, and 8 in
# all, with a gradient of 0.
STEPS = ([5, 2, 5, 5, 8, 1, 8], [2, 2, 3, 8], [5, 1, 8, 7, 2, 6, 4])
NO_GRADIENT = 8

Array = NDArray[np.float64]
SETTINGS: dict[str, dict[str, Any]] = {
    "adagrad": {"optimizer": "adagrad", "initial_accumulator": 0.1},
    "adagrad of the paper": {"optimizer": "adagrad", "initial_accumulator": 1e-8},
    "adagrad from 0": {"optimizer": "adagrad", "initial_accumulator": 0.0},
    "adam": {"optimizer": "adam"},
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": "sgd", "momentum": 0.8},
    "ftrl": {"optimizer": "sgd", "linear_optimizer": {"learning_rate": 0.2}},
    "ftrl with l1 and l2": {"optimizer": "adam", "linear_optimizer": {"learning_rate": 0.2, "l1": 0.3, "l2": 0.05}},
}


class Rows(NamedTuple):
    """Sparse gradient of a table: a row for each feature of the batch, possibly repeated."""

    rows: Sequence[int]
    values: NDArray[Any]


class State(NamedTuple):
    """A variable, or some of its rows, and its slots."""

    w: Array
    slots: tuple[Array, ...]


def initial_slots(settings: Train, path: str, w: Array) -> tuple[Array, ...]:
    if settings.linear_optimizer is not None and path in ("linear/table", "dense_linear/kernel"):
        l1, l2, rate = (
            settings.linear_optimizer.l1,
            settings.linear_optimizer.l2,
            settings.linear_optimizer.learning_rate,
        )
        # The z for which the formula of `update` gives the present weight.
        return np.full_like(w, 0.1), -(w * (np.sqrt(0.1) / rate + 2 * l2) + np.sign(w) * l1)
    if settings.optimizer == "adagrad":
        return (np.full_like(w, settings.initial_accumulator),)
    if settings.optimizer == "adam":
        return np.zeros_like(w), np.zeros_like(w)
    return (np.zeros_like(w),) if settings.momentum else ()


def update(settings: Train, path: str, w: Array, slots: Sequence[Array], g: Array, step: int) -> State:
    if settings.linear_optimizer is not None and path in ("linear/table", "dense_linear/kernel"):
        l1, l2, rate = (
            settings.linear_optimizer.l1,
            settings.linear_optimizer.l2,
            settings.linear_optimizer.learning_rate,
        )
        n, z = slots  # McMahan et al. 2013, algorithm 1
        z = z + g - (np.sqrt(n + g**2) - np.sqrt(n)) / rate * w
        n = n + g**2
        return State(np.where(np.abs(z) <= l1, 0, (np.sign(z) * l1 - z) / (np.sqrt(n) / rate + 2 * l2)), (n, z))
    if settings.optimizer == "adagrad":
        a = slots[0] + g**2
        return State(w - RATE * g / (np.sqrt(a) + 1e-10), (a,))
    if settings.optimizer == "adam":
        m, v = 0.9 * slots[0] + 0.1 * g, 0.999 * slots[1] + 0.001 * g**2
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        return State(w - rate * m / (np.sqrt(v) + 1e-7), (m, v))
    if settings.momentum:
        m = settings.momentum * slots[0] + g
        return State(w - RATE * m, (m,))
    return State(w - RATE * g, ())


def weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return Weights(Tables(*arrays[:TABLES]), dict(zip(PATHS[TABLES:], arrays[TABLES:], strict=True)))


def optimizer_of(settings: Train, initial: Weights) -> Optimizer:
    reader = TableReader(spec_of(len(initial.tables.embedding)), initial.tables)
    return Optimizer(settings, initial, list(initial.network), reader)


def gradients(step: int, scale: float = 1.0) -> list[Any]:
    """Draw the gradients of a step, counted from 1: rows of the tables, and dense arrays; some values are exactly 0."""
    rng, rows = np.random.default_rng(step), STEPS[step - 1]
    drawn: list[Any] = []
    for i, shape in enumerate(SHAPES):
        g = scale * rng.normal(size=(len(rows), *shape[1:]) if i < TABLES else shape).astype(np.float32)
        if i < TABLES:
            g[np.array(rows) == NO_GRADIENT] = 0
            g[0, 0] = 0
            drawn.append(Rows(rows, g))
        else:
            g[0] = 0
            drawn.append(g)
    return drawn


def make_dense(gradient: Any, shape: tuple[int, ...]) -> Array:
    """Return a gradient as a dense array; repeated rows are added."""
    if not isinstance(gradient, Rows):
        return np.asarray(gradient, np.float64)
    summed = np.zeros(shape)
    for row, values in zip(gradient.rows, gradient.values, strict=True):
        summed[row] += values
    return summed


def make_apply(optimizer: Optimizer) -> Any:
    """Make a function that applies gradients of the embeddings, the linear weights, and all other weights."""
    tables, updater = optimizer.weights.tables, optimizer.tables
    reader = TableReader(spec_of(len(tables.embedding)), tables)

    def apply(gradients: Sequence[Any], rate: float, step: int) -> None:
        embedding, linear, *others = gradients
        rest = dict(zip(optimizer.weights.network, others, strict=True))
        rows_P = np.array(embedding.rows, np.int32)  # each is the only feature of a sample
        features = Features(rows_P, np.ones(len(rows_P), np.float32), np.arange(len(rows_P) + 1), 0)
        # With these sums the derivative of the pooling is 1.
        upstream = Upstream(
            tables.embedding[rows_P] + 1, embedding.values, linear.values, 0, np.empty((0, 1), np.float32)
        )
        by_row, none = reader.group(features).result(), np.zeros(2, np.float32)
        square_norm = optimizer.square_norm(rest) + updater.square_norm(by_row, upstream, none)
        scale = optimizer.clip_factor(square_norm)
        optimizer.update_network(rest, scale, rate, step)
        updater.update(by_row, upstream, none, scale, rate, step)

    return apply


def tables(embedding: Any = None, linear: Any = None, **network: Any) -> Weights:
    """Return weights of both tables; a table that is not given has one column of zeros."""
    arguments = [embedding, linear]
    count = len(next(values for values in arguments if values is not None))
    arrays = [np.zeros((count, 1)) if values is None else np.array(values) for values in arguments]
    others = {path: array.astype(np.float32) for path, array in network.items()}
    return Weights(Tables(*(array.astype(np.float32) for array in arrays)), others)


def zero_gradient(rows: Sequence[int]) -> Rows:
    return Rows(rows, np.zeros((len(rows), 1), np.float32))


def column(rows: Sequence[int], values: Sequence[float]) -> Rows:
    return Rows(rows, np.array(values, np.float32)[:, np.newaxis])


@pytest.mark.parametrize("clip", [None, 1.5], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("which", SETTINGS)
def test_three_steps_equal_the_formula_and_change_no_other_rows(which: str, clip: float | None) -> None:
    settings = Train.model_validate({**SETTINGS[which], "clip_norm": clip})
    trained = weights()
    optimizer = optimizer_of(settings, trained)
    apply = make_apply(optimizer)
    expected = []
    for array, path in zip(list_arrays(trained), PATHS, strict=True):
        w = array.astype(np.float64)
        expected.append(State(w, initial_slots(settings, path, w)))
    for step in (1, 2, 3):
        slots_now = [*optimizer.tables.slots, *optimizer.slots]
        arrays_now = [[a, *slots] for a, slots in zip(list_arrays(trained), slots_now, strict=True)]
        before = [[array.copy() for array in arrays] for arrays in arrays_now]
        drawn = gradients(step)
        apply(drawn, RATE, step)
        dense = [make_dense(gradient, shape) for gradient, shape in zip(drawn, SHAPES, strict=True)]
        length = np.sqrt(sum(np.sum(g**2) for g in dense))
        assert length > 1.5  # otherwise it would not be clipped
        for i, path in enumerate(PATHS):
            g = dense[i] * (clip / length if clip else 1)
            rows = sorted(set(STEPS[step - 1])) if i < TABLES else list(range(SHAPES[i][0]))
            w, slots = expected[i]
            new = update(settings, path, w[rows], [slot[rows] for slot in slots], g[rows], step)
            for expected_array, changed in zip((w, *slots), (new.w, *new.slots), strict=True):
                expected_array[rows] = changed
            others = [row for row in range(SHAPES[i][0]) if row not in rows]
            for now, then, right in zip(arrays_now[i], before[i], (w, *slots), strict=True):
                np.testing.assert_allclose(now, right, rtol=2e-5, atol=2e-6, err_msg=f"{path} after step {step}")
                np.testing.assert_array_equal(now[others], then[others])
            assert others or i >= TABLES


@pytest.mark.parametrize("which", [name for name in SETTINGS if "ftrl" not in name])
def test_a_row_with_a_gradient_of_0_does_not_change(which: str) -> None:
    """Even Adagrad with an initial accumulator of 0 does not divide by 0."""
    trained = weights()
    before = [table[NO_GRADIENT].copy() for table in trained.tables]
    apply = make_apply(optimizer_of(Train.model_validate(SETTINGS[which]), trained))
    for step in (1, 2, 3):
        apply(gradients(step), RATE, step)
    for table, row in zip(trained.tables, before, strict=True):
        np.testing.assert_array_equal(table[NO_GRADIENT], row)
    assert all(np.isfinite(array).all() for array in list_arrays(trained))


def test_the_moments_of_a_row_do_not_decay_while_it_does_not_occur() -> None:
    """Lazy Adam, by hand: a gradient of 1 in steps 1 and 3; step 2 does not change the moments."""
    trained = tables(embedding=np.zeros((3, 1)))
    optimizer = optimizer_of(Train(optimizer="adam"), trained)
    apply = make_apply(optimizer)
    for step, row in enumerate((0, 1, 0), start=1):
        apply([column([row], [1.0]), zero_gradient([row])], 0.1, step)
    m, v = 0.9 * 0.1 + 0.1, 0.999 * 0.001 + 0.001  # decayed twice, not three times
    first = -0.1 * np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 / np.sqrt(0.001)
    second = -0.1 * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * m / np.sqrt(v)
    assert trained.tables.embedding[0, 0] == pytest.approx(first + second, rel=1e-4)
    assert [float(slot[0, 0]) for slot in optimizer.tables.slots[0]] == pytest.approx([m, v], rel=1e-4)


def ftrl(**settings: float) -> Train:
    return Train.model_validate({"optimizer": "sgd", "linear_optimizer": settings})


def test_l1_of_ftrl_keeps_small_weights_at_exactly_0() -> None:
    trained = tables(linear=np.zeros((5, 1)))
    table, apply = trained.tables.linear, make_apply(optimizer_of(ftrl(learning_rate=0.5, l1=1.0), trained))
    for step in (1, 2):
        rows = [0, 1, 3]  # row 0: z ends at 0.8, below l1; row 2 never occurs
        apply([zero_gradient(rows), column(rows, [0.4, -3.0, 0.4])], 9.0, step)
        if step == 1:
            # z = -3, n = 0.1 + 9: (sign(z) l1 - z) / (√n / rate)
            assert table[:, 0].tolist() == [0, pytest.approx((-1 + 3) / (np.sqrt(9.1) / 0.5)), 0, 0, 0]
    assert table[[0, 2, 3], 0].tolist() == [0, 0, 0]
    assert table[1, 0] > 0


def test_ftrl_starts_from_the_initial_weights() -> None:
    """A gradient of 0 does not change the weights; another changes them by about rate · g / √n, not to 0."""
    trained = tables(linear=[[2.0], [-1.5], [0.0], [0.0]])
    table, apply, rows = (
        trained.tables.linear,
        make_apply(optimizer_of(ftrl(learning_rate=0.1, l1=0.2, l2=0.1), trained)),
        [0, 1, 2],
    )
    apply([zero_gradient(rows), column(rows, [0.0, 0.0, 0.0])], 0.0, 1)
    np.testing.assert_allclose(table[:3, 0], [2.0, -1.5, 0.0], rtol=1e-5)
    apply([zero_gradient(rows), column(rows, [0.01, 0.01, 0.0])], 0.0, 2)
    n = 0.1 + 0.01**2
    sigma = (np.sqrt(n) - np.sqrt(0.1)) / 0.1
    # z changes by g - σ w, √n by σ · rate: the new w is (w (√0.1 / rate + 2 l2) - g + σ w) / (√n / rate + 2 l2).
    by_hand = [(w * (np.sqrt(0.1) / 0.1 + 0.2) - 0.01 + sigma * w) / (np.sqrt(n) / 0.1 + 0.2) for w in (2.0, -1.5)]
    np.testing.assert_allclose(table[:2, 0], by_hand, rtol=1e-5)
    assert table[2, 0] == 0


def test_clipping_by_hand() -> None:
    """The norm includes the dense gradient and the sums of rows: √((1 + 2)² + 4² + 12²) = 13, clipped to 6.5."""
    trained = tables(embedding=np.zeros((4, 1)), bias=np.zeros(1))
    rows = [2, 0, 2]
    drawn = [column(rows, [1.0, 4.0, 2.0]), zero_gradient(rows), np.array([12.0], np.float32)]
    make_apply(optimizer_of(Train(optimizer="sgd", clip_norm=6.5), trained))(drawn, 1.0, 1)
    np.testing.assert_allclose(trained.tables.embedding[:3, 0], [-2.0, 0.0, -1.5], rtol=1e-6)
    np.testing.assert_allclose(trained.network["bias"], [-6.0], rtol=1e-6)
    make_apply(optimizer_of(Train(optimizer="sgd", clip_norm=13.5), trained))(drawn, 1.0, 2)
    # A shorter gradient is not scaled.
    np.testing.assert_allclose(trained.tables.embedding[:3, 0], [-6.0, 0.0, -4.5], rtol=1e-6)


def test_clipping_does_not_hide_a_gradient_that_is_not_finite() -> None:
    trained = tables(embedding=np.zeros((3, 1)))
    drawn = [column([0, 1], [np.inf, 1.0]), zero_gradient([0, 1])]
    make_apply(optimizer_of(Train(optimizer="sgd", clip_norm=1.0), trained))(drawn, 1.0, 1)
    assert not np.isfinite(trained.tables.embedding[:2]).any()


def test_initial_slots_have_the_shapes_of_the_weights() -> None:
    def slots(settings: Train) -> list[list[NDArray[Any]]]:
        optimizer = optimizer_of(settings, weights())
        return [list(s) for s in (*optimizer.tables.slots, *optimizer.slots)]

    found = slots(Train(optimizer="adagrad", initial_accumulator=0.25))
    assert [[(slot.shape, float(slot.min()), float(slot.max())) for slot in s] for s in found] == [
        [(shape, 0.25, 0.25)] for shape in SHAPES
    ]
    assert [len(s) for s in slots(Train(optimizer="adam"))] == [2] * 5
    assert [len(s) for s in slots(Train(optimizer="sgd"))] == [0] * 5


def test_restored_weights_and_slots_equal_the_saved_ones() -> None:
    settings = Train(optimizer="adam")
    saved, restored = optimizer_of(settings, weights()), optimizer_of(settings, weights(1))
    make_apply(saved)(gradients(1), RATE, 1)
    restored.restore([array.copy() for array in saved.list_arrays()])
    for optimizer in (saved, restored):
        make_apply(optimizer)(gradients(2), RATE, 2)
    for array, expected in zip(restored.list_arrays(), saved.list_arrays(), strict=True):
        np.testing.assert_array_equal(array, expected)
