"""A step is the optimizer's formula, written out in NumPy, on the rows of the batch; all other rows stay."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config_train import Train
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
            found.append(tf.IndexedSlices(tf.constant(g), tf.constant(rows), tf.constant(shape)))
        else:
            g[0] = 0
            found.append(tf.constant(g))
    return found


def whole(gradient: Any, shape: tuple[int, ...]) -> Array:
    """Rows that come several times are added up."""
    if not isinstance(gradient, tf.IndexedSlices):
        return np.asarray(gradient, np.float64)
    summed = np.zeros(shape)
    for row, values in zip(gradient.indices.numpy(), gradient.values.numpy(), strict=True):
        summed[row] += values
    return summed


def applied(optimizer: Optimizer) -> Any:
    return tf.function(optimizer.apply, autograph=False, reduce_retracing=True)


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
        before = [[a.numpy() for a in (v, *slots)] for v, slots in zip(ours, optimizer.slots, strict=True)]
        found = gradients(step)
        apply(found, tf.constant(RATE), tf.constant(step))
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
            after = [a.numpy() for a in (ours[i], *optimizer.slots[i])]
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
        apply(gradients(step), tf.constant(RATE), tf.constant(step))
    for variable, row in zip(ours, before, strict=False):
        np.testing.assert_array_equal(variable.numpy()[PADDING], row)
    assert all(np.isfinite(variable.numpy()).all() for variable in ours)


def test_the_moments_of_a_row_rest_while_it_is_not_seen() -> None:
    """Lazy Adam, by hand: a gradient of 1 in steps 1 and 3 alone; its moments know nothing of step 2."""
    with keras.name_scope("embedding"):
        table = keras.Variable(np.zeros((2, 1), np.float32), name="table")
    optimizer = Optimizer(Train(optimizer="adam"), [table])
    apply = applied(optimizer)
    for step, row in enumerate((0, 1, 0), start=1):
        gradient = tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([row]), tf.constant([2, 1]))
        apply([gradient], tf.constant(0.1), tf.constant(step))
    m, v = 0.9 * 0.1 + 0.1, 0.999 * 0.001 + 0.001  # twice, not three times, and not decayed in between
    first = -0.1 * np.sqrt(1 - 0.999) / (1 - 0.9) * 0.1 / np.sqrt(0.001)
    second = -0.1 * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * m / np.sqrt(v)
    assert table.numpy()[0, 0] == pytest.approx(first + second, rel=1e-4)
    assert [float(slot[0, 0]) for slot in optimizer.slots[0]] == pytest.approx([m, v], rel=1e-4)


def ftrl(**settings: float) -> Train:
    return Train.model_validate({"optimizer": "sgd", "linear_optimizer": settings})


def test_l1_of_ftrl_keeps_weights_at_exactly_0() -> None:
    settings = ftrl(learning_rate=0.5, l1=1.0)
    with keras.name_scope("linear"):
        table = keras.Variable(np.zeros((4, 1), np.float32), name="table")
    optimizer = Optimizer(settings, [table])
    apply = applied(optimizer)
    for step in (1, 2):
        values = tf.constant([[0.4], [-3.0], [0.4]])  # row 0: z ends at 0.8, below l1; row 2 is never seen
        apply(
            [tf.IndexedSlices(values, tf.constant([0, 1, 3]), tf.constant([4, 1]))], tf.constant(9.0), tf.constant(step)
        )
        if step == 1:
            # z = -3, n = 0.1 + 9: (sign(z) l1 - z) / (√n / rate)
            assert table.numpy()[:, 0].tolist() == [0, pytest.approx((-1 + 3) / (np.sqrt(9.1) / 0.5)), 0, 0]
    assert table.numpy()[[0, 2, 3], 0].tolist() == [0, 0, 0]
    assert table.numpy()[1, 0] > 0


def test_ftrl_goes_on_from_weights_that_a_model_starts_with() -> None:
    """A gradient of 0 leaves them; the first one that is not moves them by about rate · g / √n, not to 0."""
    with keras.name_scope("linear"):
        table = keras.Variable(np.array([[2.0], [-1.5], [0.0]], np.float32), name="table")
    optimizer = Optimizer(ftrl(learning_rate=0.1, l1=0.2, l2=0.1), [table])
    apply = applied(optimizer)

    def step(values: list[list[float]], number: int) -> None:
        apply([tf.IndexedSlices(tf.constant(values), tf.constant([0, 1, 2]), tf.constant([3, 1]))], 0.0, number)

    step([[0.0], [0.0], [0.0]], 1)
    np.testing.assert_allclose(table.numpy()[:, 0], [2.0, -1.5, 0.0], rtol=1e-5)
    step([[0.01], [0.01], [0.0]], 2)
    n = 0.1 + 0.01**2
    sigma = (np.sqrt(n) - np.sqrt(0.1)) / 0.1
    # z moves by g - σ w, the square root of n by σ · rate: w (√0.1 / rate + 2 l2) - g + σ w over √n / rate + 2 l2.
    by_hand = [(w * (np.sqrt(0.1) / 0.1 + 0.2) - 0.01 + sigma * w) / (np.sqrt(n) / 0.1 + 0.2) for w in (2.0, -1.5)]
    np.testing.assert_allclose(table.numpy()[:2, 0], by_hand, rtol=1e-5)
    assert table.numpy()[2, 0] == 0


def test_clipping_by_hand() -> None:
    """Over the dense gradient and the rows' sums together: √((1 + 2)² + 4² + 12²) = 13, shortened to 6.5."""
    with keras.name_scope("embedding"):
        table = keras.Variable(np.zeros((3, 1), np.float32), name="table")
    with keras.name_scope("linear"):
        bias = keras.Variable(np.zeros(1, np.float32), name="bias")
    rows = tf.IndexedSlices(tf.constant([[1.0], [4.0], [2.0]]), tf.constant([2, 0, 2]), tf.constant([3, 1]))
    optimizer = Optimizer(Train(optimizer="sgd", clip_norm=6.5), [table, bias])
    applied(optimizer)([rows, tf.constant([12.0])], tf.constant(1.0), tf.constant(1))
    np.testing.assert_allclose(table.numpy()[:, 0], [-2.0, 0.0, -1.5], rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [-6.0], rtol=1e-6)
    shorter = Optimizer(Train(optimizer="sgd", clip_norm=13.5), [table, bias])
    applied(shorter)([rows, tf.constant([12.0])], tf.constant(1.0), tf.constant(2))
    np.testing.assert_allclose(table.numpy()[:, 0], [-6.0, 0.0, -4.5], rtol=1e-6)  # not lengthened


def test_gradients_without_any_table() -> None:
    bias = keras.Variable(np.ones(2, np.float32), name="bias")
    optimizer = Optimizer(Train(optimizer="sgd"), [bias])
    applied(optimizer)([tf.constant([1.0, -2.0])], tf.constant(0.5), tf.constant(1))
    assert bias.numpy().tolist() == [0.5, 2.0]


def test_the_slots_have_the_shapes_and_the_values_that_they_start_with() -> None:
    ours = variables()
    slots = Optimizer(Train(optimizer="adagrad", initial_accumulator=0.25), ours).slots
    assert [
        [(tuple(slot.shape), float(slot.numpy().min()), float(slot.numpy().max())) for slot in s] for s in slots
    ] == [[(shape, 0.25, 0.25)] for shape in SHAPES]
    assert [len(s) for s in Optimizer(Train(optimizer="adam"), ours).slots] == [2] * 5
    assert [len(s) for s in Optimizer(Train(optimizer="sgd"), ours).slots] == [0] * 5
