"""A step is the optimizer's formula, written out in NumPy, on the rows of the batch; all other rows stay."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.kernels import tables as kernels
from nfm.training.optimizers import Optimizer

RATE = 0.3
PATHS = ("embedding/table", "linear/table", "dense_linear/kernel", "hidden_0/kernel", "linear/bias")
SHAPES = ((9, 3), (9, 2), (4, 2), (5, 3), (2,))
TABLES = 2  # the first ones
# Rows of each step's features: some are there several times; 5 is seen in the first and the third step, 0 in none, and
# 8, the padding of bags, always, with no gradient.
STEPS = ([5, 2, 5, 5, 8, 1, 8], [2, 2, 3, 8], [5, 1, 8, 7, 2, 6, 4])
PADDING = 8

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


def variables(seed: int = 0) -> list[keras.Variable]:
    rng, made = np.random.default_rng(seed), []
    for path, shape in zip(PATHS, SHAPES, strict=True):
        scope, name = path.split("/")
        with keras.name_scope(scope):
            made.append(keras.Variable(rng.normal(size=shape).astype(np.float32), name=name))
    assert [variable.path for variable in made] == list(PATHS)
    return made


def gradients(step: int, scale: float = 1.0) -> list[Any]:
    """Of a step, counted from 1: rows of the tables, and whole arrays; some are exactly 0."""
    rng, rows = np.random.default_rng(step), STEPS[step - 1]
    found: list[Any] = []
    for i, shape in enumerate(SHAPES):
        g = scale * rng.normal(size=(len(rows), *shape[1:]) if i < TABLES else shape).astype(np.float32)
        if i < TABLES:
            g[np.array(rows) == PADDING] = 0
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
    """Takes gradients of the embeddings, of the first-order weights, and of all other variables."""
    tables = optimizer.tables

    def apply(found: Sequence[Any], rate: float, step: int) -> None:
        of_embedding, of_linear, *others = found
        rest = dict(zip(optimizer.weights, others, strict=True))
        rows_BM = np.array(of_embedding.rows, np.int32)[:, np.newaxis]  # a sample for each, of one feature
        x_BM = np.where(rows_BM == len(tables.weights.embedding) - 1, 0, 1).astype(np.float32)
        # Such sums that the derivative of the pooling is 1.
        sum_BK = x_BM * tables.weights.embedding[rows_BM[:, 0]] + 1
        batch = kernels.Batch(x_BM, sum_BK, of_embedding.values, of_linear.values)
        by_row = kernels.order(rows_BM, x_BM, len(tables.weights.embedding) - 1)
        none = np.zeros(2, np.float32)
        factor = optimizer.factor(optimizer.square_norm(rest) + tables.square_norm(by_row, batch, none))
        optimizer.apply(rest, factor, rate, step)
        tables.move(by_row, batch, none, factor, rate, step)
        optimizer.publish()

    return apply


def tables(embedding: Any = None, linear: Any = None) -> list[Any]:
    """The variables of both; the one that is not given has a column of 0."""
    given = {"embedding": embedding, "linear": linear}
    count = len(next(values for values in given.values() if values is not None))
    made = []
    for scope, values in given.items():
        with keras.name_scope(scope):
            made.append(keras.Variable(np.zeros((count, 1)) if values is None else np.array(values), name="table"))
    return made


def none_of(rows: Sequence[int]) -> Rows:
    return Rows(rows, np.zeros((len(rows), 1), np.float32))


def column(rows: Sequence[int], values: Sequence[float]) -> Rows:
    return Rows(rows, np.array(values, np.float32)[:, np.newaxis])


@pytest.mark.parametrize("clip", [None, 1.5], ids=["whole", "clipped"])
@pytest.mark.parametrize("which", SETTINGS)
def test_three_steps_equal_the_formula_and_leave_all_other_rows(which: str, clip: float | None) -> None:
    settings = Train.model_validate({**SETTINGS[which], "clip_norm": clip})
    ours = variables()
    optimizer = Optimizer(settings, ours)
    apply = applied(optimizer)
    expected = []
    for variable, path in zip(ours, PATHS, strict=True):
        w = variable.numpy().astype(np.float64)
        expected.append(Moved(w, slots_at_first(settings, path, w)))
    for step in (1, 2, 3):
        slots_now = [*optimizer.tables.slots, *optimizer.slots]
        before = [[np.array(a) for a in (v, *slots)] for v, slots in zip(ours, slots_now, strict=True)]
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
            after = [np.array(a) for a in (ours[i], *slots_now[i])]
            others = [row for row in range(SHAPES[i][0]) if row not in rows]
            for now, then, right in zip(after, before[i], (w, *slots), strict=True):
                np.testing.assert_allclose(now, right, rtol=2e-5, atol=2e-6, err_msg=f"{path} after step {step}")
                np.testing.assert_array_equal(now[others], then[others])
            assert others or i >= TABLES


@pytest.mark.parametrize("which", [name for name in SETTINGS if "ftrl" not in name])
def test_padding_of_bags_stays_as_it_is(which: str) -> None:
    """Its gradient is 0: not even Adagrad that starts from 0 divides by it."""
    ours = variables()
    optimizer, before = Optimizer(Train.model_validate(SETTINGS[which]), ours), [v.numpy()[-1] for v in ours[:TABLES]]
    apply = applied(optimizer)
    for step in (1, 2, 3):
        apply(gradients(step), RATE, step)
    for variable, row in zip(ours, before, strict=False):
        np.testing.assert_array_equal(variable.numpy()[PADDING], row)
    assert all(np.isfinite(variable.numpy()).all() for variable in ours)


def test_the_moments_of_a_row_rest_while_it_is_not_seen() -> None:
    """Lazy Adam, by hand: a gradient of 1 in steps 1 and 3 alone; its moments know nothing of step 2."""
    table, linear = tables(embedding=np.zeros((3, 1)))
    optimizer = Optimizer(Train(optimizer="adam"), [table, linear])
    apply = applied(optimizer)
    for step, row in enumerate((0, 1, 0), start=1):
        apply([column([row], [1.0]), none_of([row])], 0.1, step)
    m, v = 0.9 * 0.1 + 0.1, 0.999 * 0.001 + 0.001  # twice, not three times, and not decayed in between
    first = -0.1 * np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 / np.sqrt(0.001)
    second = -0.1 * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * m / np.sqrt(v)
    assert table.numpy()[0, 0] == pytest.approx(first + second, rel=1e-4)
    assert [float(slot[0, 0]) for slot in optimizer.tables.slots[0]] == pytest.approx([m, v], rel=1e-4)


def ftrl(**settings: float) -> Train:
    return Train.model_validate({"optimizer": "sgd", "linear_optimizer": settings})


def test_l1_of_ftrl_keeps_weights_at_exactly_0() -> None:
    settings = ftrl(learning_rate=0.5, l1=1.0)
    embedding, table = tables(linear=np.zeros((5, 1)))
    optimizer = Optimizer(settings, [embedding, table])
    apply = applied(optimizer)
    for step in (1, 2):
        rows = [0, 1, 3]  # row 0: z ends at 0.8, below l1; row 2 is never seen
        apply([none_of(rows), column(rows, [0.4, -3.0, 0.4])], 9.0, step)
        if step == 1:
            # z = -3, n = 0.1 + 9: (sign(z) l1 - z) / (√n / rate)
            assert table.numpy()[:, 0].tolist() == [0, pytest.approx((-1 + 3) / (np.sqrt(9.1) / 0.5)), 0, 0, 0]
    assert table.numpy()[[0, 2, 3], 0].tolist() == [0, 0, 0]
    assert table.numpy()[1, 0] > 0


def test_ftrl_goes_on_from_weights_that_a_model_starts_with() -> None:
    """A gradient of 0 leaves them; the first one that is not moves them by about rate · g / √n, not to 0."""
    embedding, table = tables(linear=[[2.0], [-1.5], [0.0], [0.0]])
    optimizer = Optimizer(ftrl(learning_rate=0.1, l1=0.2, l2=0.1), [embedding, table])
    apply, rows = applied(optimizer), [0, 1, 2]
    apply([none_of(rows), column(rows, [0.0, 0.0, 0.0])], 0.0, 1)
    np.testing.assert_allclose(table.numpy()[:3, 0], [2.0, -1.5, 0.0], rtol=1e-5)
    apply([none_of(rows), column(rows, [0.01, 0.01, 0.0])], 0.0, 2)
    n = 0.1 + 0.01**2
    sigma = (np.sqrt(n) - np.sqrt(0.1)) / 0.1
    # z moves by g - σ w, the square root of n by σ · rate: w (√0.1 / rate + 2 l2) - g + σ w over √n / rate + 2 l2.
    by_hand = [(w * (np.sqrt(0.1) / 0.1 + 0.2) - 0.01 + sigma * w) / (np.sqrt(n) / 0.1 + 0.2) for w in (2.0, -1.5)]
    np.testing.assert_allclose(table.numpy()[:2, 0], by_hand, rtol=1e-5)
    assert table.numpy()[2, 0] == 0


def test_clipping_by_hand() -> None:
    """Over the dense gradient and the rows' sums together: √((1 + 2)² + 4² + 12²) = 13, shortened to 6.5."""
    table, linear = tables(embedding=np.zeros((4, 1)))
    with keras.name_scope("linear"):
        bias = keras.Variable(np.zeros(1, np.float32), name="bias")
    rows = [2, 0, 2]
    gradients = [column(rows, [1.0, 4.0, 2.0]), none_of(rows), np.array([12.0], np.float32)]
    applied(Optimizer(Train(optimizer="sgd", clip_norm=6.5), [table, linear, bias]))(gradients, 1.0, 1)
    np.testing.assert_allclose(table.numpy()[:3, 0], [-2.0, 0.0, -1.5], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [-6.0], rtol=1e-6)
    applied(Optimizer(Train(optimizer="sgd", clip_norm=13.5), [table, linear, bias]))(gradients, 1.0, 2)
    np.testing.assert_allclose(table.numpy()[:3, 0], [-6.0, 0.0, -4.5], rtol=1e-6)  # not lengthened


def test_a_gradient_that_is_not_finite_is_not_clipped_away() -> None:
    table, linear = tables(embedding=np.zeros((3, 1)))
    gradients = [column([0, 1], [np.inf, 1.0]), none_of([0, 1])]
    applied(Optimizer(Train(optimizer="sgd", clip_norm=1.0), [table, linear]))(gradients, 1.0, 1)
    assert not np.isfinite(table.numpy()[:2]).any()


def test_the_slots_have_the_shapes_and_the_values_that_they_start_with() -> None:
    ours = variables()

    def slots(settings: Train) -> list[list[NDArray[Any]]]:
        optimizer = Optimizer(settings, ours)
        return [[np.array(slot) for slot in s] for s in (*optimizer.tables.slots, *optimizer.slots)]

    found = slots(Train(optimizer="adagrad", initial_accumulator=0.25))
    assert [[(slot.shape, float(slot.min()), float(slot.max())) for slot in s] for s in found] == [
        [(shape, 0.25, 0.25)] for shape in SHAPES
    ]
    assert [len(s) for s in slots(Train(optimizer="adam"))] == [2] * 5
    assert [len(s) for s in slots(Train(optimizer="sgd"))] == [0] * 5
