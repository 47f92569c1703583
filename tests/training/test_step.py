"""Training steps: loss, changes of the weights, `unknown_dropout`; and measuring a fold."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Bag, Field, Spec
from nfm.training.data.batches import Rows
from nfm.training.layers import make_keras_inputs
from nfm.training.metrics.regression import RegressionTally
from nfm.training.model import TABLES, build, initial_weights
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer, list_arrays
from nfm.training.step import make_measure, make_step
from nfm.training.tables import TableReader
from tests.bins import without_bins
from tests.training.examples import PLAIN, fold_in_memory
from tests.training.trained import linear_part, weights_of

MakeRows = Callable[..., Inputs]
Arrays = dict[str, NDArray[Any]]
PENALTIES = {"embedding": 0.3, "linear": 0.2, "hidden": 0.1}


def model_settings(**changes: Any) -> Model:
    """Return settings without randomness and without batch statistics, so that the tests can recompute a step."""
    quiet = {"batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0, "activation": "tanh"}
    return Model.model_validate({"embedding_dim": 3, "hidden_units": (4,), **quiet, **changes})


def sgd(**changes: Any) -> Train:
    return Train.model_validate({"optimizer": "sgd", "learning_rate": 0.1, **PLAIN, **changes})


def build_random(spec: Spec, form: Model) -> keras.Model:
    """Build a model whose weights are all far from 0."""
    model, rng = build(spec, form), np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(rng.normal(0.1, 0.4, variable.shape))
    return model


class Trained:
    """A model in training, which always starts from the same weights."""

    def __init__(self, spec: Spec, form: Model, settings: Train, model: keras.Model | None = None) -> None:
        self._spec, self._form, self.number = spec, form, 0
        self._rate = settings.learning_rate
        self._weights = weights_of(model or build_random(spec, form))
        reader, self._network = TableReader(spec, self._weights.tables, 2), Network(spec, form, settings)
        optimizer = Optimizer(settings, self._weights, list(self._network.trained), reader)
        share = settings.unknown_dropout
        shares_R = np.full(spec.rows, share, np.float32) if share else None
        self._step = make_step(spec, form, settings, reader, self._network, optimizer, shares_R)

    def step(self, inputs: Inputs, label: NDArray[Any], weight: NDArray[Any], number: int | None = None) -> float:
        self.number = number or self.number + 1
        return self._step(Rows(inputs, label[:, 0], weight, None), self._rate, self.number)

    @property
    def model(self) -> keras.Model:
        return build(self._spec, self._form, self._weights)

    @property
    def weights(self) -> Arrays:
        """Trained weights and moving averages, by path."""
        named = [*zip(TABLES, self._weights.tables, strict=True), *self._weights.network.items()]
        return {name: array.copy() for name, array in named}


def labels_and_weights(task: str, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw labels (B, 1) and weights (B,), of which one is 0."""
    rng = np.random.default_rng(count)
    label = {
        "binary": rng.integers(0, 2, count),
        "regression": rng.normal(size=count),
        "multiclass": rng.integers(0, 3, count),
    }
    weight = rng.uniform(0.5, 2, count)
    weight[0] = 0
    return label[task].astype(np.float32)[:, np.newaxis], weight.astype(np.float32)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("task", ["binary", "regression", "multiclass"])
def test_a_step_returns_the_weighted_sum_of_the_losses_before_it(
    task: str, reduction: str, bags: Spec, make_rows: MakeRows
) -> None:
    form = model_settings(task=task, l2=PENALTIES)
    trained = Trained(bags, form, sgd(loss_reduction=reduction, learning_rate=0.01))
    rows, (label, weight) = make_rows(bags, 7), labels_and_weights(task, 7)
    for _ in range(2):
        logits = trained.model(make_keras_inputs(rows, bags), training=False).numpy().astype(np.float64)
        y = label[:, 0]
        if task == "binary":
            p = 1 / (1 + np.exp(-logits[:, 0]))
            by_hand = -np.log(np.where(y == 1, p, 1 - p))
        elif task == "regression":
            by_hand = (y - logits[:, 0]) ** 2
        else:
            powers = np.exp(logits)
            by_hand = -np.log(powers[np.arange(7), y.astype(int)] / powers.sum(axis=1))
        # The loss does not include the penalties, which are not small.
        assert trained.step(rows, label, weight) == pytest.approx(float(weight @ by_hand), rel=1e-4)


@pytest.mark.parametrize("which", ["mixed", "categories", "bags", "only_bags"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_steps_change_every_weight_by_its_gradient(
    reduction: str, which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    """The expected gradients are dense, and the objective is written out."""
    spec: Spec = request.getfixturevalue(which)
    form = model_settings(l2=PENALTIES)
    rate = 0.1 if reduction == "mean" else 0.01
    trained, keras_model = (
        Trained(spec, form, sgd(loss_reduction=reduction, learning_rate=rate)),
        build_random(spec, form),
    )
    for step, count in enumerate((9, 4, 1)):  # batches of different sizes
        rows, (label, weight) = make_rows(spec, count, step), labels_and_weights("binary", count)
        features = make_keras_inputs(rows, spec)
        with tf.GradientTape() as tape:
            logit, y = keras_model(features, training=True)[:, 0], label[:, 0]
            sample_losses = tf.reduce_sum(weight * tf.where(y == 1, tf.nn.softplus(-logit), tf.nn.softplus(logit)))
            penalty = tf.add_n(keras_model.losses)
            total = sample_losses / count + penalty if reduction == "mean" else sample_losses + count * penalty
        dense = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, keras_model.trainable_variables)]
        for variable, gradient in zip(keras_model.trainable_variables, dense, strict=True):
            variable.assign_sub(rate * gradient)
        trained.step(rows, label, weight)
        for variable in keras_model.trainable_variables:
            expected = variable.numpy()[:-1] if variable.path in TABLES else variable.numpy()  # without padding
            np.testing.assert_allclose(
                trained.weights[variable.path], expected, rtol=1e-4, atol=1e-6, err_msg=variable.path
            )


def test_a_sum_equals_a_mean_at_batch_size_times_the_rate(bags: Spec, make_rows: MakeRows) -> None:
    form = model_settings(task="multiclass", l2=PENALTIES)
    features, (label, weight) = make_rows(bags, 16), labels_and_weights("multiclass", 16)
    summed = Trained(bags, form, sgd(loss_reduction="sum", learning_rate=0.01))
    mean = Trained(bags, form, sgd(loss_reduction="mean", learning_rate=0.16))
    before = mean.weights
    for _ in range(3):
        assert summed.step(features, label, weight) == pytest.approx(mean.step(features, label, weight), rel=1e-4)
    for path, array in summed.weights.items():
        np.testing.assert_allclose(array, mean.weights[path], rtol=1e-4, atol=1e-6, err_msg=path)
        assert np.abs(array - before[path]).max() > 1e-3  # they did change


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_penalties_by_hand(reduction: str, categories: Spec) -> None:
    """With weights of 0, only penalties are left: w −= rate · factor · 2 w · (occurrences / B)."""
    form = model_settings(l2=PENALTIES)
    trained = Trained(categories, form, sgd(loss_reduction=reduction))
    before = trained.weights
    ids = np.array([[2, 0], [2, 1], [4, 1], [2, 1]], np.int32)
    none = np.zeros((4, 0), np.float32)
    zeros = np.zeros(4, np.float32)
    inputs = without_bins(ids, none, none, np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(5, np.int64))
    assert trained.step(inputs, zeros[:, np.newaxis], zeros) == 0
    occurrences = np.zeros((9, 1))  # fields of 5 and 4 rows
    occurrences[[2, 4, 5, 6]] = [[3], [1], [1], [3]]
    batch = 4 if reduction == "sum" else 1
    shrunk = {
        "embedding/table": 1 - 0.1 * 0.3 * 2 * occurrences / 4 * batch,
        "linear/table": 1 - 0.1 * 0.2 * 2 * occurrences / 4 * batch,
        "hidden_0/kernel": 1 - 0.1 * 0.1 * 2 * batch,
    }
    for path, after in trained.weights.items():
        np.testing.assert_allclose(after, before[path] * shrunk.get(path, 1), rtol=1e-5, atol=1e-7, err_msg=path)


def test_a_weight_of_2_equals_two_samples(mixed: Spec, make_rows: MakeRows) -> None:
    """With a sum of losses: a weight of 2 equals two samples, a weight of 0 none."""
    form, rows = model_settings(), make_rows(mixed, 3)
    label = np.array([[1.0], [0.0], [1.0]], np.float32)
    weighted, repeated = (Trained(mixed, form, sgd(loss_reduction="sum")) for _ in range(2))
    weighted_loss = weighted.step(rows, label, np.array([2, 1, 0], np.float32))
    places = [0, 0, 1]
    arrays = {name: getattr(rows, name)[places] for name in rows._fields[:5]}
    repeated_rows = rows._replace(**arrays)
    assert weighted_loss == pytest.approx(repeated.step(repeated_rows, label[places], np.ones(3, np.float32)), rel=1e-5)
    for path, array in weighted.weights.items():
        np.testing.assert_allclose(array, repeated.weights[path], rtol=1e-4, atol=1e-6, err_msg=path)


# Rows of the table: a 0-7 (oov 1-3, values 4-7), b 8-12 (oov 9, values 10-12), buckets 13-17, hashed 18-22,
# links (hashed) 23-26, tags 27-33 (oov 28 29, values 30-33), numbers none.
UNKNOWN = Spec(
    ("k",),
    (
        Field("a", ("a",), ("text",), 3, 4, "a"),
        Field("b", ("b",), ("text",), 1, 3, "a"),  # shares the vocabulary of a
        Field("buckets", ("x",), ("number",), 0, 4, None, (1.0, 2.0, 3.0)),
        Field("hashed", ("h",), ("text",), 4, 0, None),
        Field("links", ("l",), ("text",), 3, 0, None, None, Bag(None, ",", None)),
        Field("tags", ("t",), ("text",), 2, 4, "tags", None, Bag(None, ",", None)),
    ),
    (),
    (),
)
ROWS = 34


def count_features(
    rate: float, ids: list[int], bag: list[int], rows: int = 1, seed: int = 1, number: int = 1
) -> NDArray[np.int64]:
    """Count how often a step on `rows` equal rows used each row of the table.

    All weights are 0, and so is the prediction. For the label -½, the derivative of (label - prediction)² is 1 for
    every feature of every sample: a step on the sum, at the rate 1, lowers a weight by the number of its features.
    """
    form = model_settings(task="regression", hidden_units=())
    model = build(UNKNOWN, form)
    for variable in model.weights:
        variable.assign(tf.zeros(variable.shape))
    settings = sgd(loss_reduction="sum", learning_rate=1.0, unknown_dropout=rate, seed=seed)
    trained = Trained(UNKNOWN, form, settings, model)
    none = np.zeros((rows, 0), np.float32)
    members = np.tile(np.array(bag, np.int32), rows), np.ones(rows * len(bag), np.float32)
    splits = len(bag) * np.arange(rows + 1, dtype=np.int64)
    inputs = without_bins(np.tile(np.array(ids, np.int32), (rows, 1)), none, none, *members, splits)
    trained.step(inputs, np.full((rows, 1), -0.5, np.float32), np.ones(rows, np.float32), number)
    return np.rint(-trained.weights["linear/table"][:, 0]).astype(np.int64)


def test_rows_of_the_table_without_unknown_dropout() -> None:
    assert (UNKNOWN.offsets, UNKNOWN.rows) == ((0, 8, 13, 18, 23, 27), ROWS)
    used = count_features(0.0, [4, 4, 4, 3], [32, 32, 26], rows=2)
    assert {int(row): int(used[row]) for row in np.flatnonzero(used)} == {
        **dict.fromkeys((4, 12, 17, 21, 26), 2),
        32: 4,
    }


def test_unknown_dropout_replaces_its_share_of_the_vocabularies_ids() -> None:
    rows, rate = 4000, 0.3
    used = count_features(rate, [4, 2, 4, 4], [30, 33, 33, 25], rows=rows)
    # 4000 draws: 0.3 ± 0.03 is four standard deviations.
    assert used[4] == pytest.approx(rows * (1 - rate), abs=0.03 * rows)
    assert used[[1, 2, 3]] == pytest.approx(np.full(3, rows * rate / 3), abs=0.03 * rows)
    assert used[10] == pytest.approx(rows * (1 - rate), abs=0.03 * rows)
    assert used[9] == rows - used[10]
    # The bag has 30 once and 33 twice in each row; its two out-of-vocabulary ids replace them equally often.
    assert used[30] == pytest.approx(rows * (1 - rate), abs=0.03 * rows)
    assert used[33] == pytest.approx(2 * rows * (1 - rate), abs=0.06 * rows)
    assert used[[28, 29]] == pytest.approx(np.full(2, 1.5 * rows * rate), abs=0.06 * rows)
    # No other row is used: each id is replaced by one of the same field; buckets and hashed ids stay.
    assert used[17] == used[22] == used[25] == rows
    assert set(np.flatnonzero(used).tolist()) == {1, 2, 3, 4, 9, 10, 17, 22, 25, 28, 29, 30, 33}
    assert used.sum() == 8 * rows


def test_unknown_dropout_keeps_missing_and_out_of_vocabulary_ids() -> None:
    used = count_features(0.99, [0, 0, 0, 0], [23, 26, 27, 28, 29], rows=50)
    assert {int(row): int(used[row]) for row in np.flatnonzero(used)} == dict.fromkeys(
        (0, 8, 13, 18, 23, 26, 27, 28, 29), 50
    )
    used = count_features(0.99, [3, 1, 1, 1], [], rows=50)
    assert {int(row): int(used[row]) for row in np.flatnonzero(used)} == dict.fromkeys((3, 9, 14, 19), 50)


def test_unknown_dropout_is_the_same_for_the_same_seed_and_step() -> None:
    arguments: dict[str, Any] = {"rate": 0.5, "ids": [5, 3, 1, 1], "bag": [31, 32], "rows": 200}
    first = count_features(**arguments)
    np.testing.assert_array_equal(first, count_features(**arguments))
    assert (first != count_features(**arguments, number=2)).any()
    assert (first != count_features(**arguments, seed=2)).any()
    # Each field and member is drawn independently, not each row.
    assert len({int(first[row]) for row in (5, 11, 31, 32)}) > 1


def test_unknown_dropout_without_bags_and_with_only_bags(mixed: Spec, only_bags: Spec, make_rows: MakeRows) -> None:
    for spec in (mixed, only_bags):
        trained = Trained(spec, model_settings(), sgd(unknown_dropout=0.9))
        before = trained.weights["linear/table"]
        label, weight = labels_and_weights("binary", 300)
        trained.step(make_rows(spec, 300), label, weight)
        moved = np.flatnonzero((trained.weights["linear/table"] != before).any(axis=1))
        assert len(moved) > 5
        assert np.isfinite(trained.weights["embedding/table"]).all()


def test_measure_adds_all_rows_and_both_predictions_to_the_tally(bags: Spec, make_rows: MakeRows) -> None:
    count = 8192 + 11  # more than one forward pass computes
    form = model_settings(task="regression", batch_norm=True, pooling_dropout=0.5, hidden_dropout=0.5)
    model, arranged = build_random(bags, form), make_rows(bags, count)
    for layer in model.layers:
        if layer.name.endswith("_norm"):
            layer.moving_variance.assign(np.full(layer.moving_variance.shape, 1.7))
    label, weight = labels_and_weights("regression", count)
    fold = fold_in_memory(bags, Rows(arranged, label[:, 0], weight, None))
    weights = weights_of(model)
    measure = make_measure(TableReader(bags, weights.tables), Network(bags, form, Train()), weights)
    before = list_arrays(weights_of(model))
    tally = measure(fold, RegressionTally(0.0))
    logits, linear = (a.numpy()[:, 0].astype(np.float64) for a in linear_part(model)(make_keras_inputs(arranged, bags)))
    assert np.abs(logits - linear).max() > 0.1
    metrics = tally.metrics()
    assert metrics["rows"] == count
    for found, predicted in ((metrics, logits), (metrics["linear"], linear)):
        error = predicted - label[:, 0]
        assert found["rmse"] == pytest.approx(np.sqrt(np.average(error**2, weights=weight)), rel=1e-5)
        assert found["mae"] == pytest.approx(np.average(np.abs(error), weights=weight), rel=1e-5)
    # A second measurement is the same, and measuring does not change the weights or the moving averages.
    assert measure(fold, RegressionTally(0.0)).metrics() == metrics
    for array, then in zip(list_arrays(weights), before, strict=True):
        np.testing.assert_array_equal(array, then)


def test_measuring_an_empty_fold_adds_nothing(mixed: Spec, make_rows: MakeRows) -> None:
    none = np.empty(0, np.float32)
    fold = fold_in_memory(mixed, Rows(make_rows(mixed, 0), none, none, None))
    form = model_settings(task="regression")
    weights = initial_weights(mixed, form, 1)
    measure = make_measure(TableReader(mixed, weights.tables), Network(mixed, form, Train()), weights)
    assert measure(fold, RegressionTally(0.0)).rows == 0


def test_steps_with_batch_norm_and_dropout_learn_pairs(categories: Spec, make_rows: MakeRows) -> None:
    """The label depends on a pair of fields; the first moving averages are those of the first batch."""
    form = Model(embedding_dim=4, hidden_units=(8,), pooling_dropout=0.1, hidden_dropout=0.1, init_std=0.05)
    keras.utils.set_random_seed(1)
    model = build(categories, form)
    trained = Trained(categories, form, sgd(optimizer="adagrad"), model)
    rows = make_rows(categories, 512)
    label = ((rows.ids_BF[:, 0] + rows.ids_BF[:, 1]) % 2 == 0).astype(np.float32)[:, np.newaxis]
    features, weight = make_keras_inputs(rows, categories), np.ones(512, np.float32)
    pooled = keras.Model(model.input, model.get_layer("pooling").output)(features).numpy()
    losses = [trained.step(rows, label, weight) / 512]
    weights = trained.weights
    np.testing.assert_allclose(weights["pooling_norm/moving_mean"], pooled.mean(axis=0), rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(weights["pooling_norm/moving_variance"], pooled.var(axis=0), atol=1e-6)
    losses += [trained.step(rows, label, weight) / 512 for _ in range(59)]
    assert losses[-1] < 0.4 * losses[0]


def test_the_model_has_an_output_for_each_class(mixed: Spec) -> None:
    form = model_settings(task="multiclass")
    assert build(replace(mixed, classes=("a", "b", "c", "d")), form).output_shape == (None, 4)
    assert build(mixed, model_settings()).output_shape == (None, 1)
