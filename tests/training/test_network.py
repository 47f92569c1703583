"""The network of a step against Keras's layers and its automatic derivatives, NumPy and finite differences."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.training import losses, products
from nfm.training.model import build
from nfm.training.network import Derivatives, Network

Array = NDArray[np.float32]
TABLES = ("embedding/table", "linear/table")


def weights_of(model: keras.Model) -> dict[str, Array]:
    return {v.path: np.array(v.numpy()) for v in model.variables if v.path not in TABLES and v.dtype == "float32"}


def shaken(spec: Spec, form: Model) -> keras.Model:
    model, rng = build(spec, form), np.random.default_rng(3)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.2, 0.8, variable.shape) * rng.choice([-1, 1], variable.shape))
    return model


def batch(form: Model, rows: int, dense: int, classes: int) -> list[Any]:
    """Pooled vectors, linear parts, dense numbers, labels and weights, of which one is 0."""
    rng = np.random.default_rng(rows)
    pooled = rng.normal(1, 2, (rows, form.embedding_dim))
    labels = {"binary": rng.integers(0, 2, rows), "regression": rng.normal(0, 2, rows)}
    label = labels.get(form.task, rng.integers(0, classes, rows))[:, np.newaxis]
    weight = rng.uniform(0.5, 2, rows)
    weight[0] = 0
    arrays = pooled, rng.normal(size=(rows, classes)), rng.normal(size=(rows, dense)), label, weight
    return [array.astype(np.float32) for array in arrays]


def stepped(network: Network, arrays: list[Any], number: int) -> Derivatives:
    pooled, linear, dense, label, weight = arrays
    return network.step(pooled, linear, dense, label, weight, number)


def by_keras(model: keras.Model, form: Model, reduction: str, arrays: list[Any]) -> dict[str, Array]:
    """The model's own layers above the tables, and TensorFlow's derivatives of the objective."""
    pooled, linear, dense, label, weight = (tf.constant(array) for array in arrays)
    names = ("dense_linear", "pooling_", "with_dense", "hidden_", "output")
    variables = [v for v in model.trainable_variables if v.path not in TABLES]
    with tf.GradientTape() as tape:
        tape.watch([pooled, linear])
        x, logits, penalty = pooled, linear + model.get_layer("linear").bias, 0.0
        for layer in (layer for layer in model.layers if layer.name.startswith(names)):
            if layer.name == "dense_linear":
                logits += layer(dense)
            else:
                x = layer([x, dense]) if layer.name == "with_dense" else layer(x, training=True)
            penalty += tf.add_n(layer.losses) if layer.losses else 0.0
        logits += x
        y = label[:, 0]
        match form.task:
            case "binary":
                of_samples = tf.where(y == 1, tf.nn.softplus(-logits[:, 0]), tf.nn.softplus(logits[:, 0]))
            case "regression":
                of_samples = tf.square(logits[:, 0] - y)
            case _:
                of_samples = -tf.reduce_sum(tf.one_hot(tf.cast(y, tf.int32), 3) * tf.nn.log_softmax(logits), axis=1)
        loss = tf.reduce_sum(weight * of_samples)
        total = loss / len(y) + penalty if reduction == "mean" else loss + len(y) * penalty
    found = tape.gradient(total, [pooled, linear, *variables])
    named = dict(zip(["pooled", "linear", *(v.path for v in variables)], found, strict=True))
    averages = {v.path: v for v in model.variables if "moving" in v.path}
    return {"loss": loss.numpy(), **{k: tf.convert_to_tensor(v).numpy() for k, v in (named | averages).items()}}


@pytest.mark.parametrize(
    ("hidden", "activation", "norm", "task", "reduction", "rows"),
    [
        ((40, 7), "relu", True, "binary", "mean", 600),
        ((40, 7), "tanh", True, "multiclass", "sum", 257),
        ((33,), "sigmoid", True, "regression", "mean", 256),
        ((5, 4, 3), "linear", True, "binary", "sum", 31),
        ((70,), "relu", False, "multiclass", "mean", 300),
        ((), "relu", True, "binary", "mean", 300),
        ((), "relu", False, "regression", "sum", 5),
        ((3,), "tanh", True, "binary", "mean", 2),
        ((3,), "relu", True, "binary", "mean", 1),
    ],
)
@pytest.mark.parametrize("which", ["mixed", "categories"])
def test_a_batchs_derivatives_are_those_that_keras_finds(
    which: str,
    hidden: tuple[int, ...],
    activation: str,
    norm: bool,
    task: str,
    reduction: str,
    rows: int,
    request: pytest.FixtureRequest,
) -> None:
    spec = replace(request.getfixturevalue(which), classes=("a", "b", "c") if task == "multiclass" else ())
    quiet = {"pooling_dropout": 0.0, "hidden_dropout": 0.0, "l2": {"hidden": 0.3}}
    changes = {"embedding_dim": 35, "hidden_units": hidden, "activation": activation, "batch_norm": norm, "task": task}
    form = Model.model_validate({**quiet, **changes})
    train = Train.model_validate({"loss_reduction": reduction})
    model, arrays = shaken(spec, form), batch(form, rows, len(spec.dense), len(spec.classes) or 1)
    weights = weights_of(model)
    found = stepped(Network(spec, form, train, weights, 2), arrays, 1)
    expected = by_keras(model, form, reduction, arrays)
    assert found.loss == pytest.approx(float(expected.pop("loss")), rel=1e-4)
    moving = {path: array for path, array in weights.items() if "moving" in path}
    ours = {"pooled": found.pooled_BK, "linear": found.linear_BC, **found.weights, **moving}
    for name, right in expected.items():
        # A bias before a batch norm has no effect; and what else is nearly 0 is so by cancellation.
        scale = np.abs(right).max()
        np.testing.assert_allclose(ours[name], right, rtol=2e-3, atol=2e-4 * scale + 2e-5, err_msg=name)


def plain(hidden: tuple[int, ...] = (), **changes: Any) -> Model:
    quiet = {"batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0, "activation": "linear"}
    return Model.model_validate({"embedding_dim": 50, "hidden_units": hidden, "task": "regression", **quiet, **changes})


def dropped(spec: Spec, form: Model, number: int, seed: int = 1, rows: int = 2000) -> tuple[NDArray[np.bool_], Array]:
    """Which units are left out, whose 1 has no effect; and the effects of all."""
    weights = {"linear/bias": np.zeros(1, np.float32), "output/kernel": np.ones((50, 1), np.float32)}
    if form.hidden_units:
        weights |= {"hidden_0/kernel": np.eye(50, dtype=np.float32), "hidden_0/bias": np.zeros(50, np.float32)}
    ones, none = np.ones((rows, 50), np.float32), np.zeros((rows, 0), np.float32)
    far, each = np.full((rows, 1), -1e3, np.float32), np.ones(rows, np.float32)
    network = Network(spec, form, Train(seed=seed, loss_reduction="sum"), weights, 1)
    found = network.step(ones, np.zeros((rows, 1), np.float32), none, far, each, number)
    effects = found.pooled_BK / found.linear_BC
    return effects == 0, effects


@pytest.mark.parametrize(
    "form", [plain(pooling_dropout=0.3), plain((50,), hidden_dropout=0.3)], ids=["pooled", "hidden"]
)
def test_dropout_drops_at_its_rate_and_keeps_the_mean(form: Model, categories: Spec) -> None:
    masks = [dropped(categories, form, number)[0] for number in (1, 2, 3)]
    for mask in masks:
        assert abs(mask.mean() - 0.3) < 0.008  # five standard deviations
        for along in (0, 1):  # neither units nor samples differ by more than chance
            assert np.abs(mask.mean(along) - 0.3).max() < 5 * np.sqrt(0.21 / mask.shape[along])
    for a, b in [(masks[0], other) for other in masks[1:]] + [(m[1:], m[:-1]) for m in masks]:
        assert abs((a & b).mean() - 0.09) < 0.005  # independent of the last step and of the last sample
    mask, effects = dropped(categories, form, 1)
    np.testing.assert_allclose(effects[~mask], 1 / 0.7, rtol=1e-6)


def test_dropout_is_drawn_from_the_seed_the_step_and_the_layer(categories: Spec) -> None:
    pooled, hidden = plain(pooling_dropout=0.5), plain((50,), hidden_dropout=0.5)
    first, _ = dropped(categories, pooled, 7)
    np.testing.assert_array_equal(first, dropped(categories, pooled, 7)[0])
    for other in (dropped(categories, pooled, 8), dropped(categories, pooled, 7, 2), dropped(categories, hidden, 7)):
        assert abs((first & other[0]).mean() - 0.25) < 0.01


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_derivatives_with_dropout_equal_finite_differences(activation: str, mixed: Spec) -> None:
    """The step's number says what is dropped: so the objective can be had again with other weights."""
    form = plain((20, 6), activation=activation, pooling_dropout=0.4, hidden_dropout=0.25, batch_norm=True)
    arrays = batch(form, 300, len(mixed.dense), 1)
    model, rng = shaken(mixed, form), np.random.default_rng(8)
    train = Train(loss_reduction="mean")

    def at(changed: dict[str, Array], pooled: Array) -> Derivatives:
        weights = {**weights_of(model), **changed}
        return stepped(Network(mixed, form, train, weights, 2), [pooled, *arrays[1:]], 3)

    found, ours = at({}, arrays[0]), weights_of(model)
    size = 1e-2
    for name in ("pooled", "hidden_0/kernel", "hidden_1/kernel", "pooling_norm/gamma", "hidden_0_norm/beta"):
        here = arrays[0] if name == "pooled" else ours[name]
        gradient = found.pooled_BK if name == "pooled" else found.weights[name]
        along = gradient * rng.uniform(0.5, 1.5, gradient.shape).astype(np.float32)
        along /= np.linalg.norm(along)
        derivative = float(np.sum(gradient * along))
        ends = []
        for sign in (1, -1):
            there = here + np.float32(sign * size) * along
            changed = at({}, there) if name == "pooled" else at({name: there}, arrays[0])
            ends.append(changed.loss / 300)
        assert derivative == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=0.03), name


def test_losses_and_their_derivatives_by_hand() -> None:
    def of(task: int, label: float, logits: list[float]) -> tuple[float, list[float]]:
        upstream = np.empty(len(logits), np.float32)
        return losses.loss_of(task, np.float32(label), np.array(logits, np.float32), upstream), upstream.tolist()

    three = float(np.log(3.0))  # a probability of ¾
    for label, logit, loss, slope in (
        (1, 0.0, np.log(2), -0.5),
        (1, three, -np.log(0.75), -0.25),
        (0, three, -np.log(0.25), 0.75),
    ):
        found, upstream = of(losses.BINARY, label, [logit])
        assert found == pytest.approx(loss, rel=1e-6)
        assert upstream[0] == pytest.approx(slope, rel=1e-6)
    assert of(losses.BINARY, 0, [200.0]) == (200.0, [1.0])  # without an overflow
    assert of(losses.BINARY, 0, [-200.0])[0] == pytest.approx(0, abs=1e-30)
    assert of(losses.REGRESSION, 1, [4.0]) == (9.0, [6.0])
    shares = np.log([0.2, 0.3, 0.5]) + 300  # neither does the exponential overflow
    found, upstream = of(losses.MULTICLASS, 2, shares.tolist())
    assert found == pytest.approx(-np.log(0.5), rel=1e-4)
    assert upstream == pytest.approx([0.2, 0.3, -0.5], rel=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_what_is_no_number_is_not_hidden(activation: str, categories: Spec) -> None:
    form = plain((20,), activation=activation)
    arrays = batch(form, 10, 0, 1)
    arrays[0][4, 3] = np.nan
    weights = weights_of(shaken(categories, form))
    assert np.isnan(stepped(Network(categories, form, Train(), weights, 1), arrays, 1).loss)


multiplied = njit(lambda start, stop, a, kernel, bias, out: products.multiply(start, stop, a, kernel, bias, out))
added = njit(lambda start, stop, a, b, place, out: products.add_outer(start, stop, a, b, place, out))


def panels(matrix: Array, rows: int) -> Array:
    """Padded to so many rows."""
    wide = np.zeros((rows, products.panels_of(matrix.shape[1]) * products.N), np.float32)
    wide[: len(matrix), : matrix.shape[1]] = matrix
    return np.ascontiguousarray(wide.reshape(rows, -1, products.N).transpose(1, 0, 2))


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 300), inputs=st.integers(1, 70), units=st.integers(1, 70), seed=st.integers(0, 99))
def test_products_are_numpys(rows: int, inputs: int, units: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(rows, count)).astype(np.float32) for count in (inputs, units))
    kernel, bias = rng.normal(size=(inputs, units)).astype(np.float32), rng.normal(size=units).astype(np.float32)
    whole = -(-rows // products.ROWS) * products.ROWS
    a_PBN, b_QBN = panels(a, whole), panels(b, whole)
    out, packed = np.full_like(b_QBN, np.nan), products.packed(kernel, len(a_PBN))
    multiplied(0, rows, a_PBN, packed, products.padded(bias, units).reshape(-1, products.N), out)
    got = out.transpose(1, 0, 2).reshape(whole, -1)[:rows, :units]
    np.testing.assert_allclose(got, a.astype(np.float64) @ kernel + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(products.unpacked(packed, inputs, units), kernel)
    outer = np.full((2, *packed.shape), 7, np.float32)
    start = rows // 3
    added(start, rows, a_PBN, b_QBN, 1, outer)
    right = a[start:].astype(np.float64).T @ b[start:]
    np.testing.assert_allclose(products.unpacked(outer[1], inputs, units) - 7, right, rtol=1e-4, atol=1e-4)
    assert set(outer[0].ravel().tolist()) == {7.0}
