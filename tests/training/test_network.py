"""The network of a step against the layers of the Keras model, TensorFlow's derivatives, and finite differences."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.kernels.tables import Pooled
from nfm.training.data.rows import Rows
from nfm.training.losses import choose_loss
from nfm.training.metrics.names import Task
from nfm.training.model import TABLES, build
from nfm.training.network import Derivatives, Network
from tests.bins import without_bins
from tests.training.trained import weights_of

Array = NDArray[np.float32]
LONG = 10**9  # rows of a training whose steps XLA compiles


def build_random(spec: Spec, form: Model) -> keras.Model:
    """Build a model whose weights are all far from 0."""
    model, rng = build(spec, form), np.random.default_rng(3)
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.2, 0.8, variable.shape) * rng.choice([-1, 1], variable.shape))
    return model


def batch(form: Model, rows: int, dense: int, classes: int) -> list[Any]:
    """Draw pooled vectors, linear sums, dense numbers, labels, and weights, of which one is 0."""
    rng = np.random.default_rng(rows)
    pooled = rng.normal(1, 2, (rows, form.embedding_dim))
    labels = {"binary": rng.integers(0, 2, rows), "regression": rng.normal(0, 2, rows)}
    label = labels.get(form.task, rng.integers(0, classes, rows))[:, np.newaxis]
    weight = rng.uniform(0.5, 2, rows)
    weight[0] = 0
    arrays = pooled, rng.normal(size=(rows, classes)), rng.normal(size=(rows, dense)), label, weight
    return [array.astype(np.float32) for array in arrays]


def run_step(network: Network, weights: dict[str, Array], arrays: list[Any], number: int) -> Derivatives:
    pooled, linear, dense, label, weight = arrays
    none = np.empty((len(pooled), 0), np.int32)
    no_bags = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(len(pooled) + 1, np.int64)
    inputs = without_bins(none, none.astype(np.float32), dense, *no_bags)
    return network.step(weights, Pooled(pooled, pooled, linear), Rows(inputs, label[:, 0], weight, None), number)


def compute_with_keras(model: keras.Model, form: Model, reduction: str, arrays: list[Any]) -> dict[str, Array]:
    """Compute loss and derivatives with the model's own layers above the tables and TensorFlow's gradients."""
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
                sample_losses = tf.where(y == 1, tf.nn.softplus(-logits[:, 0]), tf.nn.softplus(logits[:, 0]))
            case "regression":
                sample_losses = tf.square(logits[:, 0] - y)
            case _:
                sample_losses = -tf.reduce_sum(tf.one_hot(tf.cast(y, tf.int32), 3) * tf.nn.log_softmax(logits), axis=1)
        loss = tf.reduce_sum(weight * sample_losses)
        total = loss / len(y) + penalty if reduction == "mean" else loss + len(y) * penalty
    gradients = tape.gradient(total, [pooled, linear, *variables])
    by_name = dict(zip(["pooled", "linear", *(v.path for v in variables)], gradients, strict=True))
    averages = {v.path: v for v in model.variables if "moving" in v.path}
    return {"loss": loss.numpy(), **{k: tf.convert_to_tensor(v).numpy() for k, v in (by_name | averages).items()}}


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
def test_derivatives_equal_those_of_keras(
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
    train = Train.model_validate({"loss_reduction": reduction, "batch_size": rows})
    with_xla = LONG if which == "mixed" else 0
    model, arrays = build_random(spec, form), batch(form, rows, len(spec.dense), len(spec.classes) or 1)
    weights = weights_of(model).network
    # From step 10 on, moving averages are those of Keras.
    found = run_step(Network(spec, form, train, with_xla), weights, arrays, 10)
    expected = compute_with_keras(model, form, reduction, arrays)
    assert found.loss == pytest.approx(float(expected.pop("loss")), rel=1e-4)
    moving = {path: array for path, array in weights.items() if "moving" in path}
    computed = {"pooled": found.pooled_BK, "linear": found.linear_BC, **found.weights, **moving}
    for name, expected_array in expected.items():
        scale = np.abs(expected_array).max()
        if norm and name.startswith("hidden") and name.endswith("/bias"):
            # The batch norm removes the bias, so its derivative is 0, up to rounding.
            assert np.abs(computed[name]).max() <= 1e-5 * np.abs(expected[name.replace("bias", "kernel")]).max() + 1e-6
            continue
        # Values near 0 are differences of larger ones.
        np.testing.assert_allclose(computed[name], expected_array, rtol=2e-3, atol=2e-4 * scale + 2e-5, err_msg=name)


def test_moving_averages_start_with_the_mean_of_the_first_batches(categories: Spec) -> None:
    """The initial mean of 0 and variance of 1 have no share; those of an older model have Keras's."""
    for momentum, init_from in ((0.9, None), (0.9, "older"), (0.5, None), (0.5, "older")):
        form = Model(embedding_dim=3, hidden_units=(), pooling_dropout=0.0, batch_norm_momentum=momentum)
        batches = [batch(form, 50 + 10 * i, 0, 1) for i in range(3)]
        weights = weights_of(build(categories, form)).network
        network = Network(categories, form, Train(init_from=init_from))
        for number, arrays in enumerate(batches, start=1):
            run_step(network, weights, arrays, number)
        means = np.array([arrays[0].mean(axis=0) for arrays in batches])
        shares = [(1 - momentum) * momentum**i for i in (2, 1, 0)]
        if init_from is None:  # means, until 1 / (1 − momentum) batches were seen
            shares = [1 / 3] * 3 if momentum == 0.9 else [0.25, 0.25, 0.5]
        found = weights["pooling_norm/moving_mean"]
        np.testing.assert_allclose(found, shares @ means, rtol=1e-4, atol=1e-6)
        variances = np.array([arrays[0].var(axis=0) for arrays in batches])
        expected = 1 - sum(shares) + shares @ variances
        np.testing.assert_allclose(weights["pooling_norm/moving_variance"], expected, rtol=1e-4)


def plain(hidden: tuple[int, ...] = (), **changes: Any) -> Model:
    quiet = {"batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0, "activation": "linear"}
    return Model.model_validate({"embedding_dim": 50, "hidden_units": hidden, "task": "regression", **quiet, **changes})


def find_dropped(
    spec: Spec, form: Model, number: int, seed: int = 1, training_rows: int = 0
) -> tuple[NDArray[np.bool_], Array]:
    """Return which units are dropped, because they have no effect on the output, and the effects of all units."""
    rows = 2000
    weights = {"linear/bias": np.zeros(1, np.float32), "output/kernel": np.ones((50, 1), np.float32)}
    if form.hidden_units:
        weights |= {"hidden_0/kernel": np.eye(50, dtype=np.float32), "hidden_0/bias": np.zeros(50, np.float32)}
    ones, none = np.ones((rows, 50), np.float32), np.zeros((rows, 0), np.float32)
    label, weight = np.full((rows, 1), -1e3, np.float32), np.ones(rows, np.float32)
    network = Network(spec, form, Train(seed=seed, loss_reduction="sum", batch_size=rows), training_rows)
    found = run_step(network, weights, [ones, np.zeros((rows, 1), np.float32), none, label, weight], number)
    effects = found.pooled_BK / found.linear_BC
    return effects == 0, effects


@pytest.mark.parametrize(
    "form", [plain(pooling_dropout=0.3), plain((50,), hidden_dropout=0.3)], ids=["pooled", "hidden"]
)
def test_dropout_drops_at_its_rate_and_keeps_the_mean(form: Model, categories: Spec) -> None:
    masks = [find_dropped(categories, form, number)[0] for number in (1, 2, 3)]
    for mask in masks:
        assert abs(mask.mean() - 0.3) < 0.008  # five standard deviations
        for axis in (0, 1):  # neither units nor samples differ by more than chance
            assert np.abs(mask.mean(axis) - 0.3).max() < 5 * np.sqrt(0.21 / mask.shape[axis])
    for a, b in [(masks[0], other) for other in masks[1:]] + [(m[1:], m[:-1]) for m in masks]:
        assert abs((a & b).mean() - 0.09) < 0.005  # independent of the previous step and of the previous sample
    mask, effects = find_dropped(categories, form, 1)
    np.testing.assert_allclose(effects[~mask], 1 / 0.7, rtol=1e-6)


def test_dropout_depends_on_the_seed_the_step_and_the_layer(categories: Spec) -> None:
    pooled, hidden = plain(pooling_dropout=0.5), plain((50,), hidden_dropout=0.5)
    first, _ = find_dropped(categories, pooled, 7)
    np.testing.assert_array_equal(first, find_dropped(categories, pooled, 7)[0])
    np.testing.assert_array_equal(first, find_dropped(categories, pooled, 7, training_rows=LONG)[0])  # with XLA
    for other in (
        find_dropped(categories, pooled, 8),
        find_dropped(categories, pooled, 7, 2),
        find_dropped(categories, hidden, 7),
    ):
        assert abs((first & other[0]).mean() - 0.25) < 0.01


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_derivatives_with_dropout_equal_finite_differences(activation: str, mixed: Spec) -> None:
    """The number of the step determines the dropped units, so other weights can be tried with the same ones."""
    form = plain((20, 6), activation=activation, pooling_dropout=0.4, hidden_dropout=0.25, batch_norm=True)
    arrays = batch(form, 300, len(mixed.dense), 1)
    model, rng = build_random(mixed, form), np.random.default_rng(8)
    network = Network(mixed, form, Train(loss_reduction="mean"))

    def run_at(changed: dict[str, Array], pooled: Array) -> Derivatives:
        weights = {**weights_of(model).network, **changed}
        return run_step(network, weights, [pooled, *arrays[1:]], 3)

    found, initial = run_at({}, arrays[0]), weights_of(model).network
    size = 1e-2
    for name in ("pooled", "hidden_0/kernel", "hidden_1/kernel", "pooling_norm/gamma", "hidden_0_norm/beta"):
        center = arrays[0] if name == "pooled" else initial[name]
        gradient = found.pooled_BK if name == "pooled" else found.weights[name]
        direction = gradient * rng.uniform(0.5, 1.5, gradient.shape).astype(np.float32)
        direction /= np.linalg.norm(direction)
        derivative = float(np.sum(gradient * direction))
        losses = []
        for sign in (1, -1):
            point = center + np.float32(sign * size) * direction
            changed = run_at({}, point) if name == "pooled" else run_at({name: point}, arrays[0])
            losses.append(changed.loss / 300)
        assert derivative == pytest.approx((losses[0] - losses[1]) / (2 * size), rel=0.03), name


def test_losses_by_hand() -> None:
    def loss(task: Task, label: float, *logits: float) -> float:
        losses = choose_loss(Model(task=task)).per_sample(
            tf.constant([label], tf.float32), tf.constant([logits], tf.float32)
        )
        assert losses.shape == (1,)
        return float(losses[0])

    log_3 = float(np.log(3.0))  # logit of the probability ¾
    for label, logit, expected in ((1, 0.0, np.log(2)), (1, log_3, -np.log(0.75)), (0, log_3, -np.log(0.25))):
        assert loss("binary", label, logit) == pytest.approx(expected, rel=1e-6)
    assert loss("binary", 0, 200.0) == 200.0  # without an overflow
    assert loss("binary", 0, -200.0) == pytest.approx(0, abs=1e-30)
    assert loss("regression", 1, 4.0) == 9.0
    shares = np.log([0.2, 0.3, 0.5]) + 300  # without an overflow of the exponential
    assert loss("multiclass", 2, *shares) == pytest.approx(-np.log(0.5), rel=1e-4)


def test_the_loss_of_a_fold_is_computed_from_its_metrics() -> None:
    assert choose_loss(Model(task="regression")).from_metrics({"rmse": 3.0}) == 9.0
    assert choose_loss(Model(task="regression")).from_metrics({"rmse": None}) is None
    tasks: tuple[Task, ...] = ("binary", "multiclass")
    for task in tasks:
        assert choose_loss(Model(task=task)).from_metrics({"log_loss": 0.5}) == 0.5


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_nan_is_not_hidden(activation: str, categories: Spec) -> None:
    form = plain((20,), activation=activation)
    arrays = batch(form, 10, 0, 1)
    arrays[0][4, 3] = np.nan
    weights = weights_of(build_random(categories, form)).network
    assert np.isnan(run_step(Network(categories, form, Train()), weights, arrays, 1).loss)
