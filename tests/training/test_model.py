"""The model is the paper's, and the forward pass without TensorFlow is the model."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from nfm.config import Model
from nfm.contract.encoder import Inputs
from nfm.contract.schema import MISSING, Spec
from nfm.scoring.forward import score
from nfm.training.data import features_of
from nfm.training.model import build, export, network

MakeRows = Callable[..., Inputs]


def settings(**changes: Any) -> Model:
    return Model.model_validate({"embedding_dim": 6, "hidden_units": (5,), **changes})


def shaken(spec: Spec, model_settings: Model, seed: int = 0) -> keras.Model:
    """A model whose every weight, moving averages included, is far from its initial value."""
    model = build(spec, model_settings)
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(0.3, 0.4, variable.shape)
        variable.assign(np.abs(values) + 0.2 if "variance" in variable.name else values)
    return model


def keras_scores(model: keras.Model, rows: Inputs) -> Any:
    return keras.ops.sigmoid(model(features_of(rows), training=False)).numpy()[:, 0]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4), (7, 5, 3)])
@pytest.mark.parametrize("which", ["mixed", "categories"])
def test_forward_pass_equals_keras(
    which: str, hidden_units: tuple[int, ...], batch_norm: bool, make_rows: MakeRows, request: pytest.FixtureRequest
) -> None:
    spec: Spec = request.getfixturevalue(which)
    activations = ("relu", "sigmoid", "tanh", "linear") if hidden_units else ("relu",)
    for activation in activations:
        form = settings(hidden_units=hidden_units, batch_norm=batch_norm, activation=activation)
        model = shaken(spec, form)
        weights = export(model, spec, form)
        for count in (0, 1, 3000):
            rows = make_rows(spec, count)
            ours = score(spec, network(form), weights, rows)
            assert ours.shape == (count,)
            np.testing.assert_allclose(ours, keras_scores(model, rows), rtol=0, atol=1e-5)
        # The comparison says something only where the scores differ from row to row.
        assert np.std(ours) > 0.01


def test_forward_pass_equals_keras_for_rows_of_missing_and_unseen_values(mixed: Spec) -> None:
    form = settings(batch_norm=True)
    model = shaken(mixed, form)
    ids = np.array([[MISSING] * 3, [1, 3, 1], [1, 1, MISSING]], np.int32)
    rows = Inputs(ids, np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32))
    ours = score(mixed, network(form), export(model, mixed, form), rows)
    np.testing.assert_allclose(ours, keras_scores(model, rows), rtol=0, atol=1e-5)
    assert len(set(ours.tolist())) == 3


def test_a_rows_score_does_not_depend_on_the_rows_it_travels_with(mixed: Spec, make_rows: MakeRows) -> None:
    form = settings(embedding_dim=64, hidden_units=(128, 128))
    weights = export(shaken(mixed, form), mixed, form)
    rows = make_rows(mixed, 2500)
    together = score(mixed, network(form), weights, rows)
    order = np.random.default_rng(1).permutation(2500)
    for part in np.split(order, [1, 2, 19, 300, 1324, 1500]):
        few = Inputs(rows.ids_BF[part], rows.values_BN[part], rows.dense_BD[part])
        np.testing.assert_array_equal(score(mixed, network(form), weights, few), together[part])


def test_extreme_logits_score_0_and_1_without_a_warning(categories: Spec, make_rows: MakeRows) -> None:
    form = settings(hidden_units=())
    weights = export(shaken(categories, form), categories, form)
    rows = make_rows(categories, 10)
    for bias, expected in ((1e6, 1.0), (-1e6, 0.0)):
        ours = score(categories, network(form), weights | {"bias": np.array([bias], np.float32)}, rows)
        assert ours.tolist() == [expected] * 10


def test_without_hidden_layers_and_with_h_of_ones_it_is_a_factorization_machine(
    mixed: Spec, make_rows: MakeRows
) -> None:
    """y = w0 + Σ w_i x_i + Σ_{i<j} <v_i, v_j> x_i x_j (Rendle 2010), written out pair by pair."""
    form = settings(hidden_units=(), output="ones", batch_norm=False, pooling_dropout=0.0)
    model = shaken(mixed, form)
    model.get_layer("output").kernel.assign(np.ones((6, 1)))  # fixed in training; `shaken` moved it
    w0 = model.get_layer("linear").bias.numpy()[0]
    w, v = model.get_layer("linear").table.numpy()[:, 0], model.get_layer("embedding").table.numpy()
    w_dense = model.get_layer("dense_linear").kernel.numpy()[:, 0]
    rows = make_rows(mixed, 20)
    expected = []
    for ids, values, dense in zip(*rows, strict=True):
        # blocks of 5, 9 and 5 rows; the numbers x and x_missing have the last two
        features = [(ids[0], 1.0), (5 + ids[1], 1.0), (14 + ids[2], 1.0), (19, values[0]), (20, values[1])]
        y = w0 + float(dense @ w_dense) + sum(w[i] * x for i, x in features)
        for a, (i, x_i) in enumerate(features):
            for j, x_j in features[a + 1 :]:
                y += float(v[i] @ v[j]) * x_i * x_j
        expected.append(y)
    logits = model(features_of(rows), training=False).numpy()[:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_h_of_ones_is_not_trained(categories: Spec) -> None:
    model = build(categories, settings(hidden_units=(), output="ones", batch_norm=False))
    assert model.get_layer("output").kernel.numpy().tolist() == [[1.0]] * 6
    assert {v.path for v in model.trainable_variables} == {"embedding/table", "linear/table", "linear/bias"}


def test_layers_stand_in_the_papers_order(mixed: Spec) -> None:
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


def test_parameters_counted_by_hand(mixed: Spec) -> None:
    model = build(mixed, settings(batch_norm=True))
    table = (1 + 1 + 3) + (1 + 3 + 5) + (1 + 0 + 4) + 2
    assert mixed.rows == table == 21
    by_hand = (
        table * 6  # embeddings
        + table + 1  # first-order weights and bias
        + 2  # first-order weights of the dense numbers
        + 4 * 6  # norm of the pooled vector: gamma, beta, mean, variance
        + (6 + 2) * 5 + 5  # hidden layer
        + 4 * 5  # its norm
        + 5  # h
    )  # fmt: skip
    assert model.count_params() == by_hand
