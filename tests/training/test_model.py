"""The Keras model against the paper's equations, and the forward pass without TensorFlow against the Keras model."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.config.train import Model
from nfm.contract.dataset import Inputs
from nfm.contract.schema import MISSING, Field, Spec
from nfm.forward.rows import score
from nfm.training.layers import make_keras_inputs
from nfm.training.model import Weights, build, describe, export, initial_weights
from nfm.training.optimizers import list_arrays
from tests.training.trained import linear_part, weights_of

MakeRows = Callable[..., Inputs]
TASKS = ("binary", "regression", "multiclass")
ACTIVATIONS = ("relu", "sigmoid", "tanh", "linear")


def settings(**changes: Any) -> Model:
    return Model.model_validate({"embedding_dim": 6, "hidden_units": (5,), **changes})


def build_random(spec: Spec, model_settings: Model, seed: int = 0) -> keras.Model:
    """Build a model whose weights and moving averages are all far from their initial values."""
    model = build(spec, model_settings)
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(0.2, 0.25, variable.shape)
        variable.assign(np.abs(values) + 0.2 if "variance" in variable.name else values)
    return model


def score_with_keras(model: keras.Model, spec: Spec, task: str, rows: Inputs) -> NDArray[Any]:
    if not len(rows.ids_BF):  # Keras 3 cannot add (0, 3) and (0, 3), because it treats the second as a bias
        return np.empty((0, 3) if task == "multiclass" else 0)
    logits_BC = model(make_keras_inputs(rows, spec), training=False).numpy()
    if task == "multiclass":
        return np.asarray(keras.ops.softmax(logits_BC))
    return np.asarray(keras.ops.sigmoid(logits_BC) if task == "binary" else logits_BC)[:, 0]


def with_classes(spec: Spec) -> Spec:
    return replace(spec, classes=("blue", "green", "red"))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4), (7, 5, 3)], ids=str)
@pytest.mark.parametrize("which", ["mixed", "categories", "bags"])
def test_forward_pass_equals_keras(
    which: str, hidden_units: tuple[int, ...], batch_norm: bool, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec = with_classes(request.getfixturevalue(which))
    for i, activation in enumerate(ACTIVATIONS if hidden_units else ACTIVATIONS[:3]):
        task = TASKS[(i + len(hidden_units) + batch_norm) % 3]  # over all parameters, every task and every activation
        form = settings(
            task=task,
            hidden_units=hidden_units,
            batch_norm=batch_norm,
            activation=activation,
            use={"rates": i % 2 == 0, "bins": i < 2, "counts": i < 2},
        )
        spec = replace(spec, uses_bins=form.use.bins, has_parts=True)
        model = build_random(spec, form)
        weights = export(weights_of(model), spec, form)
        assert {name: array.shape for name, array in weights.items()} == describe(spec, form).weight_shapes(spec)
        for count in (0, 1, 3000):
            rows = make_rows(spec, count)
            scores, expected = (
                score(spec, describe(spec, form), weights, rows),
                score_with_keras(model, spec, task, rows),
            )
            assert scores.shape == expected.shape == ((count, 3) if task == "multiclass" else (count,))
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
        # The comparison is meaningful only if the scores differ between rows.
        assert (np.std(scores, axis=0) > 0.01).all()


def test_forward_pass_equals_keras_for_rows_of_missing_and_unseen_values(mixed: Spec) -> None:
    form = settings(batch_norm=True)
    model = build_random(mixed, form)
    ids = np.array([[MISSING] * 3, [1, 3, 1], [1, 1, MISSING]], np.int32)
    zeros, none = np.zeros((3, 2), np.float32), np.empty(0)
    missing = np.zeros((3, 1), np.int32), np.zeros((3, 1), np.float32)
    rows = Inputs(ids, zeros, zeros, *missing, none.astype(np.int32), none.astype(np.float32), np.zeros(4, np.int64))
    scores = score(mixed, describe(mixed, form), export(weights_of(model), mixed, form), rows)
    np.testing.assert_allclose(scores, score_with_keras(model, mixed, "binary", rows), rtol=0, atol=1e-5)
    assert len(set(scores.tolist())) == 3


def test_forward_pass_equals_keras_for_a_single_bag(only_bags: Spec, make_rows: MakeRows) -> None:
    form = settings()
    model, rows = build_random(only_bags, form), make_rows(only_bags, 50)
    empty = np.diff(rows.bag_splits) == 0
    assert empty.any()
    scores = score(only_bags, describe(only_bags, form), export(weights_of(model), only_bags, form), rows)
    np.testing.assert_allclose(scores, score_with_keras(model, only_bags, "binary", rows), rtol=0, atol=1e-5)
    assert len(set(scores[empty].tolist())) == 1


def test_forward_pass_with_a_float16_table_equals_keras_with_the_rounded_weights(
    bags: Spec, make_rows: MakeRows
) -> None:
    form = settings(task="multiclass", embedding_dtype="float16")
    model, rows = build_random(bags, form), make_rows(bags, 500)
    weights = export(weights_of(model), bags, form)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}  # `artifact.save` rounds the table
    assert describe(bags, form).dtype("embedding") == "float16"
    rounded = weights["embedding"].astype(np.float16)
    exact = score_with_keras(model, bags, "multiclass", rows)
    table = model.get_layer("embedding").table
    table.assign(np.concatenate([rounded.astype(np.float32), table.numpy()[-1:]]))
    scores = score(bags, describe(bags, form), {**weights, "embedding": rounded}, rows)
    np.testing.assert_allclose(scores, score_with_keras(model, bags, "multiclass", rows), rtol=0, atol=1e-5)
    assert np.abs(scores - exact).max() > 1e-5  # the rounding has a visible effect


Feature = list[tuple[int, float]]  # (row of the table, x); two for an interpolated feature


def features_by_row(spec: Spec, rows: Inputs) -> list[list[Feature]]:
    """Return the features of each row."""
    single = [offset for field, offset in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
    first = spec.rows - len(spec.field_numbers)
    listed = []
    for b, (ids, values) in enumerate(zip(rows.ids_BF, rows.values_BN, strict=True)):
        features = [[(offset + int(i), 1.0)] for offset, i in zip(single, ids, strict=True)]
        features += [[(first + n, float(x))] for n, x in enumerate(values)]
        members = range(rows.bag_splits[b], rows.bag_splits[b + 1])
        features += [[(int(rows.bag_rows[p]), float(rows.bag_values[p]))] for p in members]
        for start, low, t in zip(spec.bin_offsets, rows.bins_BQ[b], rows.fractions_BQ[b].tolist(), strict=False):
            features.append([(start + int(low), 1 - t), *([(start + int(low) + 1, t)] if t else [])])
        listed.append(features)
    return listed


def pool(v: NDArray[np.float64], features: list[Feature]) -> NDArray[np.float64]:
    """Pool pair by pair (paper, eq. 3)."""
    vectors = [sum((x * v[i] for i, x in feature), np.zeros(v.shape[1])) for feature in features]
    pairs = [first * second for first, second in combinations(vectors, 2)]
    return np.sum(pairs, axis=0) if pairs else np.zeros(v.shape[1])


@pytest.mark.parametrize("which", ["mixed", "bags"])
def test_a_model_without_hidden_layers_and_with_h_of_ones_is_a_factorization_machine(
    which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    """y = w0 + Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j (Rendle 2010), written out pair by pair."""
    spec: Spec = request.getfixturevalue(which)
    form = settings(task="regression", hidden_units=(), output="ones", batch_norm=False, pooling_dropout=0.0)
    model = build_random(spec, form)
    model.get_layer("output").kernel.assign(np.ones((6, 1)))  # fixed in training; `build_random` changed it
    w0 = model.get_layer("linear").bias.numpy()[0]
    w, v = model.get_layer("linear").table.numpy()[:, 0], model.get_layer("embedding").table.numpy().astype(np.float64)
    w_dense = model.get_layer("dense_linear").kernel.numpy()[:, 0]
    rows = make_rows(spec, 20)
    expected = []
    for features, dense in zip(features_by_row(spec, rows), rows.dense_BD, strict=True):
        linear = w0 + float(dense @ w_dense) + sum(w[i] * x for feature in features for i, x in feature)
        expected.append((linear + pool(v, features).sum(), linear))
    logits, linear = linear_part(model)(make_keras_inputs(rows, spec), training=False)
    np.testing.assert_allclose(np.concatenate([logits, linear], axis=1), expected, rtol=1e-4, atol=1e-4)


def test_h_of_ones_is_not_trained(categories: Spec) -> None:
    model = build(categories, settings(hidden_units=(), output="ones", batch_norm=False))
    assert model.get_layer("output").kernel.numpy().tolist() == [[1.0]] * 6
    assert {v.path for v in model.trainable_variables} == {"embedding/table", "linear/table", "linear/bias"}


def test_layers_have_the_order_of_the_paper(mixed: Spec) -> None:
    model = build(mixed, settings(hidden_units=(5, 4), activation="tanh"))
    assert [layer.name for layer in model.layers if layer.name.startswith(("pooling", "hidden", "with", "output"))] == [
        "pooling",
        "pooling_norm",
        "pooling_dropout",
        "with_dense",
        *("hidden_0", "hidden_0_norm", "hidden_0_tanh", "hidden_0_dropout"),
        *("hidden_1", "hidden_1_norm", "hidden_1_tanh", "hidden_1_dropout"),
        "output",
    ]


def test_a_model_without_batch_norm_dropout_and_hidden_layers_has_no_such_layers(mixed: Spec) -> None:
    model = build(mixed, settings(hidden_units=(), batch_norm=False, pooling_dropout=0.0, hidden_dropout=0.0))
    names = {
        "ids",
        "values",
        "bins",
        "fractions",
        "dense",
        "linear",
        "dense_linear",
        "linear_sum",
        "embedding",
        "pooling",
        "output",
        "score",
    }
    assert {layer.name for layer in model.layers} == names


@pytest.mark.parametrize("which", ["mixed", "bags"])
def test_outputs_of_all_layers_in_training_equal_the_paper(
    which: str, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    """Pooling → norm → dropout → [dense → norm → activation → dropout] · 2 → h, recomputed from the weights."""
    spec, drop, hidden_drop = with_classes(request.getfixturevalue(which)), 0.4, 0.25
    form = settings(
        task="multiclass",
        hidden_units=(5, 4),
        activation="tanh",
        pooling_dropout=drop,
        hidden_dropout=hidden_drop,
    )
    model, rows = build_random(spec, form), make_rows(spec, 400)
    names = [layer.name for layer in model.layers if layer.name.startswith(("pooling", "hidden", "linear", "score"))]
    layer_outputs = keras.Model(model.input, {name: model.get_layer(name).output for name in names})
    outputs = {
        name: value.numpy() for name, value in layer_outputs(make_keras_inputs(rows, spec), training=True).items()
    }

    def normalize(x: NDArray[Any], name: str) -> NDArray[Any]:
        layer = model.get_layer(name)
        scaled: NDArray[Any] = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3) * layer.gamma.numpy() + layer.beta.numpy()
        return scaled

    def check_dropout(name: str, before: NDArray[Any], rate: float) -> NDArray[Any]:
        kept: NDArray[np.bool_] = outputs[name] != 0  # the kept units are random, but all are scaled up
        np.testing.assert_allclose(outputs[name][kept], before[kept] / (1 - rate), rtol=2e-3, atol=1e-4)
        assert abs(1 - kept.mean() - rate) < 0.08
        after: NDArray[Any] = outputs[name]
        return after

    v = model.get_layer("embedding").table.numpy().astype(np.float64)
    expected = np.stack([pool(v, features) for features in features_by_row(spec, rows)])
    np.testing.assert_allclose(outputs["pooling"], expected, rtol=1e-3, atol=1e-4)
    x = check_dropout("pooling_dropout", normalize(expected, "pooling_norm"), drop)
    x = np.concatenate([x, rows.dense_BD], axis=1)
    for name in ("hidden_0", "hidden_1"):
        layer = model.get_layer(name)
        x = np.tanh(normalize(x @ layer.kernel.numpy() + layer.bias.numpy(), f"{name}_norm"))
        x = check_dropout(f"{name}_dropout", x, hidden_drop)
    linear = outputs["linear"] + rows.dense_BD @ model.get_layer("dense_linear").kernel.numpy()
    expected = linear + x @ model.get_layer("output").kernel.numpy()
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_parameters_counted_by_hand(mixed: Spec, task: str) -> None:
    spec, outputs = (mixed, 1) if task == "binary" else (with_classes(mixed), 3)
    model = build(spec, settings(task=task, batch_norm=True))
    table = (1 + 1 + 3) + (1 + 3 + 5) + (1 + 0 + 4) + (1 + 3) + 2
    assert spec.rows == table == 25
    by_hand = (
        (table + 1) * 6  # embeddings, with padding
        + (table + 1 + 1) * outputs  # first-order weights and bias
        + 2 * outputs  # first-order weights of the dense numbers
        + 4 * 6  # norm of the pooled vector: gamma, beta, mean, variance
        + (6 + 2) * 5 + 5  # hidden layer
        + 4 * 5  # its norm
        + 5 * outputs  # h
    )  # fmt: skip
    assert model.count_params() == by_hand


@pytest.mark.parametrize(("which", "task"), [("mixed", "binary"), ("bags", "multiclass")])
def test_a_loaded_model_equals_the_saved_one(
    which: str, task: str, tmp_path: Path, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec: Spec = request.getfixturevalue(which)
    form = settings(task=task, l2={"embedding": 0.1, "linear": 0.2, "hidden": 0.3})
    model, features = build_random(spec, form), make_keras_inputs(make_rows(spec, 30), spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for before, after in zip(linear_part(model)(features), linear_part(loaded)(features), strict=True):
        np.testing.assert_array_equal(before, after)
    assert [v.path for v in loaded.trainable_variables] == [v.path for v in model.trainable_variables]
    model(features)
    loaded(features)
    assert [float(x) for x in loaded.losses] == pytest.approx([float(x) for x in model.losses])
    weights = export(weights_of(model), spec, form)
    for name, array in export(weights_of(loaded), spec, form).items():
        np.testing.assert_array_equal(array, weights[name])


@pytest.mark.parametrize("which", ["mixed", "bags", "only_bags"])
def test_a_keras_model_is_built_with_copies_of_the_weights(which: str, request: pytest.FixtureRequest) -> None:
    """Changing the arrays later must not change the model, and training the model must not change the arrays."""
    spec, form = with_classes(request.getfixturevalue(which)), settings(task="multiclass", batch_norm=True)
    weights = weights_of(build_random(spec, form))
    before = [array.copy() for array in list_arrays(weights)]
    model = build(spec, form, weights)
    for array in list_arrays(weights):
        array += 1
    for variable in model.variables:
        variable.assign(variable + 0)
    for found, then in zip(list_arrays(weights_of(model)), before, strict=True):
        np.testing.assert_array_equal(found, then)
    tables = [model.get_layer(name).table.numpy() for name in ("embedding", "linear")]
    assert [table[-1].tolist() for table in tables] == [[0.0] * 6, [0.0] * 3]  # padding


def test_the_epsilon_of_the_batch_norm_is_that_of_the_settings_everywhere(mixed: Spec, make_rows: MakeRows) -> None:
    """An epsilon as large as the variances, in the Keras model, its file and the folded weights."""
    rows, scored = make_rows(mixed, 200), []
    for epsilon in (1e-5, 0.5):
        form = settings(hidden_units=(5, 4), batch_norm_epsilon=epsilon)
        model = build_random(mixed, form)
        variance = weights_of(model).network["pooling_norm/moving_variance"]
        scores = score(mixed, describe(mixed, form), export(weights_of(model), mixed, form), rows)
        np.testing.assert_allclose(scores, score_with_keras(model, mixed, "binary", rows), rtol=0, atol=1e-5)
        # By the formula, for the first norm: a · x + c with a = γ / √(variance + ε).
        norm, x = model.get_layer("pooling_norm"), np.ones((1, 6), np.float32)
        by_hand = (x - norm.moving_mean) / np.sqrt(variance + epsilon) * norm.gamma + norm.beta
        np.testing.assert_allclose(norm(x, training=False), by_hand, rtol=1e-4, atol=1e-5)
        scored.append(scores)
    assert np.abs(scored[0] - scored[1]).max() > 0.01


def test_the_distributions_of_initial_weights() -> None:
    spec = Spec(("k",), (Field("a", ("a",), ("text",), 1, 20_000, "a"),), (), ())
    form = Model(embedding_dim=8, hidden_units=(300, 5))
    weights = initial_weights(spec, form, 3)
    embedding, kernel = weights.tables.embedding, weights.network["hidden_0/kernel"]
    assert embedding.shape == (20_002, 8)
    assert abs(embedding.mean()) < 5 * 0.01 / np.sqrt(embedding.size)
    assert embedding.std() == pytest.approx(0.01, rel=0.01)
    large = form.model_copy(update={"init_std": 0.05})
    np.testing.assert_allclose(initial_weights(spec, large, 3).tables.embedding, embedding * 5, rtol=1e-6)
    assert build(spec, large).get_layer("embedding").table.numpy().std() == pytest.approx(0.05, rel=0.01)
    limit = np.sqrt(6 / (8 + 300))  # Glorot & Bengio 2010, eq. 16
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    for zeros in (weights.tables.linear, weights.network["linear/bias"], weights.network["hidden_0/bias"]):
        assert not zeros.any()

    def are_same(a: Weights, b: Weights) -> bool:
        return all(np.array_equal(x, y) for x, y in zip(list_arrays(a), list_arrays(b), strict=True))

    assert are_same(weights, initial_weights(spec, form, 3))
    assert not are_same(weights, initial_weights(spec, form, 4))
