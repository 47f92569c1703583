"""A step is the optimizer's formula, written out in NumPy, on the rows of the batch; all other rows stay."""

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
# Rows of each step's features: some are there several times; 5 is seen in the first and the third step, 0 in none, and
# 8 always, with a gradient of 0.
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
    """A gradient of a table: some rows, each as often as it is a feature of the batch."""

    rows: Sequence[int]
    values: NDArray[Any]


class Moved(NamedTuple):
    """A variable, or some rows of it, and its slots."""

    w: Array
    slots: tuple[Array, ...]


def slots_at_first(settings: Train, path: str, w: Array) -> tuple[Array, ...]:
    if settings.linear_optimizer is not None and path in ("linear/table", "dense_linear/kernel"):
        l1, l2, rate = (
            settings.linear_optimizer.l1,
            settings.linear_optimizer.l2,
            settings.linear_optimizer.learning_rate,
        )
        # The z whose weight, by the formula of `moved`, is the one that is there.
        return np.full_like(w, 0.1), -(w * (np.sqrt(0.1) / rate + 2 * l2) + np.sign(w) * l1)
    if settings.optimizer == "adagrad":
        return (np.full_like(w, settings.initial_accumulator),)
    if settings.optimizer == "adam":
        return np.zeros_like(w), np.zeros_like(w)
    return (np.zeros_like(w),) if settings.momentum else ()


def moved(settings: Train, path: str, w: Array, slots: Sequence[Array], g: Array, step: int) -> Moved:
    if settings.linear_optimizer is not None and path in ("linear/table", "dense_linear/kernel"):
        l1, l2, rate = (
            settings.linear_optimizer.l1,
            settings.linear_optimizer.l2,
            settings.linear_optimizer.learning_rate,
        )
        n, z = slots  # McMahan et al. 2013, algorithm 1
        z = z + g - (np.sqrt(n + g**2) - np.sqrt(n)) / rate * w
        n = n + g**2
        return Moved(np.where(np.abs(z) <= l1, 0, (np.sign(z) * l1 - z) / (np.sqrt(n) / rate + 2 * l2)), (n, z))
    if settings.optimizer == "adagrad":
        a = slots[0] + g**2
        return Moved(w - RATE * g / (np.sqrt(a) + 1e-10), (a,))
    if settings.optimizer == "adam":
        m, v = 0.9 * slots[0] + 0.1 * g, 0.999 * slots[1] + 0.001 * g**2
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        return Moved(w - rate * m / (np.sqrt(v) + 1e-7), (m, v))
    if settings.momentum:
        m = settings.momentum * slots[0] + g
        return Moved(w - RATE * m, (m,))
    return Moved(w - RATE * g, ())


def weights(seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    return Weights(Tables(*arrays[:TABLES]), dict(zip(PATHS[TABLES:], arrays[TABLES:], strict=True)))


def optimizer_of(settings: Train, ours: Weights) -> Optimizer:
    reader = TableReader(spec_of(len(ours.tables.embedding)), ours.tables)
    return Optimizer(settings, ours, list(ours.network), reader)


def gradients(step: int, scale: float = 1.0) -> list[Any]:
    """Of a step, counted from 1: rows of the tables, and whole arrays; some are exactly 0."""
    rng, rows = np.random.default_rng(step), STEPS[step - 1]
    found: list[Any] = []
    for i, shape in enumerate(SHAPES):
        g = scale * rng.normal(size=(len(rows), *shape[1:]) if i < TABLES else shape).astype(np.float32)
        if i < TABLES:
            g[np.array(rows) == NO_GRADIENT] = 0
            g[0, 0] = 0
            found.append(Rows(rows, g))
        else:
            g[0] = 0
            found.append(g)
    return found


def whole(gradient: Any, shape: tuple[int, ...]) -> Array:
    """Rows that come several times are added up."""
    if not isinstance(gradient, Rows):
        return np.asarray(gradient, np.float64)
    summed = np.zeros(shape)
    for row, values in zip(gradient.rows, gradient.values, strict=True):
        summed[row] += values
    return summed


def applied(optimizer: Optimizer) -> Any:
    """Takes gradients of the embeddings, of the first-order weights, and of all other weights."""
    tables, updater = optimizer.weights.tables, optimizer.tables
    reader = TableReader(spec_of(len(tables.embedding)), tables)

    def apply(found: Sequence[Any], rate: float, step: int) -> None:
        of_embedding, of_linear, *others = found
        rest = dict(zip(optimizer.weights.network, others, strict=True))
        rows_P = np.array(of_embedding.rows, np.int32)  # a sample for each, of one feature
        features = Features(rows_P, np.ones(len(rows_P), np.float32), np.arange(len(rows_P) + 1))
        # Such sums that the derivative of the pooling is 1.
        upstream = Upstream(tables.embedding[rows_P] + 1, of_embedding.values, of_linear.values)
        by_row, none = reader.group(features).result(), np.zeros(2, np.float32)
        square_norm = optimizer.square_norm(rest) + updater.square_norm(by_row, upstream, none)
        scale = optimizer.clip_factor(square_norm)
        optimizer.update_network(rest, scale, rate, step)
        updater.update(by_row, upstream, none, scale, rate, step)

    return apply


def tables(embedding: Any = None, linear: Any = None, **network: Any) -> Weights:
    """Weights of both tables; the one that is not given has a column of 0."""
    given = [embedding, linear]
    count = len(next(values for values in given if values is not None))
    arrays = [np.zeros((count, 1)) if values is None else np.array(values) for values in given]
    others = {path: array.astype(np.float32) for path, array in network.items()}
    return Weights(Tables(*(array.astype(np.float32) for array in arrays)), others)


def none_of(rows: Sequence[int]) -> Rows:
    return Rows(rows, np.zeros((len(rows), 1), np.float32))


def column(rows: Sequence[int], values: Sequence[float]) -> Rows:
    return Rows(rows, np.array(values, np.float32)[:, np.newaxis])


@pytest.mark.parametrize("clip", [None, 1.5], ids=["whole", "clipped"])
@pytest.mark.parametrize("which", SETTINGS)
def test_three_steps_equal_the_formula_and_leave_all_other_rows(which: str, clip: float | None) -> None:
    settings = Train.model_validate({**SETTINGS[which], "clip_norm": clip})
    ours = weights()
    optimizer = optimizer_of(settings, ours)
    apply = applied(optimizer)
    expected = []
    for array, path in zip(list_arrays(ours), PATHS, strict=True):
        w = array.astype(np.float64)
        expected.append(Moved(w, slots_at_first(settings, path, w)))
    for step in (1, 2, 3):
        slots_now = [*optimizer.tables.slots, *optimizer.slots]
        now_arrays = [[a, *slots] for a, slots in zip(list_arrays(ours), slots_now, strict=True)]
        before = [[array.copy() for array in arrays] for arrays in now_arrays]
        found = gradients(step)
        apply(found, RATE, step)
        dense = [whole(gradient, shape) for gradient, shape in zip(found, SHAPES, strict=True)]
        length = np.sqrt(sum(np.sum(g**2) for g in dense))
        assert length > 1.5  # else it would not be clipped
        for i, path in enumerate(PATHS):
            g = dense[i] * (clip / length if clip else 1)
            rows = sorted(set(STEPS[step - 1])) if i < TABLES else list(range(SHAPES[i][0]))
            w, slots = expected[i]
            new = moved(settings, path, w[rows], [slot[rows] for slot in slots], g[rows], step)
            for whole_array, part in zip((w, *slots), (new.w, *new.slots), strict=True):
                whole_array[rows] = part
            others = [row for row in range(SHAPES[i][0]) if row not in rows]
            for now, then, right in zip(now_arrays[i], before[i], (w, *slots), strict=True):
                np.testing.assert_allclose(now, right, rtol=2e-5, atol=2e-6, err_msg=f"{path} after step {step}")
                np.testing.assert_array_equal(now[others], then[others])
            assert others or i >= TABLES


@pytest.mark.parametrize("which", [name for name in SETTINGS if "ftrl" not in name])
def test_a_row_whose_gradient_is_0_stays_as_it_is(which: str) -> None:
    """Not even Adagrad that starts from 0 divides by it."""
    ours = weights()
    before = [table[NO_GRADIENT].copy() for table in ours.tables]
    apply = applied(optimizer_of(Train.model_validate(SETTINGS[which]), ours))
    for step in (1, 2, 3):
        apply(gradients(step), RATE, step)
    for table, row in zip(ours.tables, before, strict=True):
        np.testing.assert_array_equal(table[NO_GRADIENT], row)
    assert all(np.isfinite(array).all() for array in list_arrays(ours))


def test_the_moments_of_a_row_rest_while_it_is_not_seen() -> None:
    """Lazy Adam, by hand: a gradient of 1 in steps 1 and 3 alone; its moments know nothing of step 2."""
    ours = tables(embedding=np.zeros((3, 1)))
    optimizer = optimizer_of(Train(optimizer="adam"), ours)
    apply = applied(optimizer)
    for step, row in enumerate((0, 1, 0), start=1):
        apply([column([row], [1.0]), none_of([row])], 0.1, step)
    m, v = 0.9 * 0.1 + 0.1, 0.999 * 0.001 + 0.001  # twice, not three times, and not decayed in between
    first = -0.1 * np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 / np.sqrt(0.001)
    second = -0.1 * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * m / np.sqrt(v)
    assert ours.tables.embedding[0, 0] == pytest.approx(first + second, rel=1e-4)
    assert [float(slot[0, 0]) for slot in optimizer.tables.slots[0]] == pytest.approx([m, v], rel=1e-4)


def ftrl(**settings: float) -> Train:
    return Train.model_validate({"optimizer": "sgd", "linear_optimizer": settings})


def test_l1_of_ftrl_keeps_weights_at_exactly_0() -> None:
    ours = tables(linear=np.zeros((5, 1)))
    table, apply = ours.tables.linear, applied(optimizer_of(ftrl(learning_rate=0.5, l1=1.0), ours))
    for step in (1, 2):
        rows = [0, 1, 3]  # row 0: z ends at 0.8, below l1; row 2 is never seen
        apply([none_of(rows), column(rows, [0.4, -3.0, 0.4])], 9.0, step)
        if step == 1:
            # z = -3, n = 0.1 + 9: (sign(z) l1 - z) / (√n / rate)
            assert table[:, 0].tolist() == [0, pytest.approx((-1 + 3) / (np.sqrt(9.1) / 0.5)), 0, 0, 0]
    assert table[[0, 2, 3], 0].tolist() == [0, 0, 0]
    assert table[1, 0] > 0


def test_ftrl_starts_from_the_weights_that_a_model_has() -> None:
    """A gradient of 0 leaves them; the first one that is not moves them by about rate · g / √n, not to 0."""
    ours = tables(linear=[[2.0], [-1.5], [0.0], [0.0]])
    table, apply, rows = (
        ours.tables.linear,
        applied(optimizer_of(ftrl(learning_rate=0.1, l1=0.2, l2=0.1), ours)),
        [0, 1, 2],
    )
    apply([none_of(rows), column(rows, [0.0, 0.0, 0.0])], 0.0, 1)
    np.testing.assert_allclose(table[:3, 0], [2.0, -1.5, 0.0], rtol=1e-5)
    apply([none_of(rows), column(rows, [0.01, 0.01, 0.0])], 0.0, 2)
    n = 0.1 + 0.01**2
    sigma = (np.sqrt(n) - np.sqrt(0.1)) / 0.1
    # z moves by g - σ w, the square root of n by σ · rate: w (√0.1 / rate + 2 l2) - g + σ w over √n / rate + 2 l2.
    by_hand = [(w * (np.sqrt(0.1) / 0.1 + 0.2) - 0.01 + sigma * w) / (np.sqrt(n) / 0.1 + 0.2) for w in (2.0, -1.5)]
    np.testing.assert_allclose(table[:2, 0], by_hand, rtol=1e-5)
    assert table[2, 0] == 0


def test_clipping_by_hand() -> None:
    """Over the dense gradient and the rows' sums together: √((1 + 2)² + 4² + 12²) = 13, shortened to 6.5."""
    ours = tables(embedding=np.zeros((4, 1)), bias=np.zeros(1))
    rows = [2, 0, 2]
    found = [column(rows, [1.0, 4.0, 2.0]), none_of(rows), np.array([12.0], np.float32)]
    applied(optimizer_of(Train(optimizer="sgd", clip_norm=6.5), ours))(found, 1.0, 1)
    np.testing.assert_allclose(ours.tables.embedding[:3, 0], [-2.0, 0.0, -1.5], rtol=1e-6)
    np.testing.assert_allclose(ours.network["bias"], [-6.0], rtol=1e-6)
    applied(optimizer_of(Train(optimizer="sgd", clip_norm=13.5), ours))(found, 1.0, 2)
    np.testing.assert_allclose(ours.tables.embedding[:3, 0], [-6.0, 0.0, -4.5], rtol=1e-6)  # not lengthened


def test_a_gradient_that_is_not_finite_is_not_clipped_away() -> None:
    ours = tables(embedding=np.zeros((3, 1)))
    found = [column([0, 1], [np.inf, 1.0]), none_of([0, 1])]
    applied(optimizer_of(Train(optimizer="sgd", clip_norm=1.0), ours))(found, 1.0, 1)
    assert not np.isfinite(ours.tables.embedding[:2]).any()


def test_the_slots_have_the_shapes_and_the_values_that_they_start_with() -> None:
    def slots(settings: Train) -> list[list[NDArray[Any]]]:
        optimizer = optimizer_of(settings, weights())
        return [list(s) for s in (*optimizer.tables.slots, *optimizer.slots)]

    found = slots(Train(optimizer="adagrad", initial_accumulator=0.25))
    assert [[(slot.shape, float(slot.min()), float(slot.max())) for slot in s] for s in found] == [
        [(shape, 0.25, 0.25)] for shape in SHAPES
    ]
    assert [len(s) for s in slots(Train(optimizer="adam"))] == [2] * 5
    assert [len(s) for s in slots(Train(optimizer="sgd"))] == [0] * 5


def test_restored_weights_and_slots_are_those_that_were_saved() -> None:
    settings = Train(optimizer="adam")
    one, other = optimizer_of(settings, weights()), optimizer_of(settings, weights(1))
    applied(one)(gradients(1), RATE, 1)
    other.restore([array.copy() for array in one.list_arrays()])
    for optimizer in (one, other):
        applied(optimizer)(gradients(2), RATE, 2)
    for found, right in zip(other.list_arrays(), one.list_arrays(), strict=True):
        np.testing.assert_array_equal(found, right)
