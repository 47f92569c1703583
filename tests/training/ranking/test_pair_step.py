"""A step of a ranking: its loss and the change of every weight, compared with Keras over the joined rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nfm.config.train import Model, Train
from nfm.contract.schema import Field, Spec
from nfm.training.model import TABLES, Weights
from nfm.training.network import dropout
from tests.training.examples import PLAIN
from tests.training.ranking.pairs import (
    PENALTIES,
    SPEC,
    Batch,
    keras_step,
    random_weights,
    ranking_of,
    run_step,
)

LOSSES: list[dict[str, Any]] = [
    {"loss": "bpr"},
    {"loss": "bpr", "hardest": True},
    {"loss": "logistic"},
    {"loss": "softmax"},
    {"loss": "softmax", "sampler": "popularity", "alpha": 0.6},
]
ONLY_IDS = Spec(
    ("id",),
    (Field("user", ("user",), ("text",), 1, 7, "user"), Field("item", ("item",), ("text",), 1, 9, "item")),
    (),
    (),
    item_inputs=("item",),
)


def model_of(**changes: Any) -> Model:
    quiet = {"batch_norm": False, "pooling_dropout": 0.0, "hidden_dropout": 0.0, "activation": "tanh"}
    return Model.model_validate({"task": "ranking", "embedding_dim": 3, "hidden_units": (4,), **quiet, **changes})


def sgd(**changes: Any) -> Train:
    return Train.model_validate({"optimizer": "sgd", "learning_rate": 0.1, **PLAIN, **changes})


def copy(weights: Weights) -> Weights:
    tables = type(weights.tables)(*(array.copy() for array in weights.tables))
    return weights._replace(tables=tables, network={path: array.copy() for path, array in weights.network.items()})


def assert_equals_keras(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, model: Model, train: Train, **changes: Any
) -> None:
    ranking = ranking_of(**{"negatives": batch.negatives_BN.shape[1], **changes})
    weights = random_weights(batch.spec, model)
    before = copy(weights)
    expected_loss, expected = keras_step(batch, model, train, ranking, copy(weights))
    loss = run_step(monkeypatch, batch, model, train, ranking, weights)
    assert loss == pytest.approx(expected_loss, rel=2e-5)
    old, found = (dict(zip(TABLES, w.tables, strict=True)) | w.network for w in (before, weights))
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-4, atol=2e-6, err_msg=path)
    for path in TABLES:
        assert np.abs(found[path] - old[path]).max() > 1e-4  # they did change


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("hidden", [(), (5, 4)], ids=str)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_step_changes_every_weight_by_its_gradient(
    loss: dict[str, Any], hidden: tuple[int, ...], batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(hidden_units=hidden, batch_norm=batch_norm, l2=PENALTIES)
    assert_equals_keras(monkeypatch, Batch(SPEC, 6, 3), model, sgd(), **loss)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("train", [{"loss_reduction": "sum", "learning_rate": 0.01}, {"clip_norm": 0.05}], ids=str)
def test_sum_and_clipped_gradients(
    loss: dict[str, Any], train: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_equals_keras(monkeypatch, Batch(SPEC, 5, 2, seed=4), model_of(l2=PENALTIES), sgd(**train), **loss)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_missing_negatives_have_no_loss(
    loss: dict[str, Any], batch_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users without any negative, and one with a single negative; item 0 is not in the batch."""
    batch = Batch(SPEC, 6, 3, seed=8)
    batch.chosen_B = np.maximum(batch.chosen_B, 1)
    batch.negatives_BN = np.maximum(batch.negatives_BN, 1)
    batch.negatives_BN[[0, 4]], batch.negatives_BN[2, 1:] = -1, -1
    model = model_of(hidden_units=(5,), batch_norm=batch_norm, l2=PENALTIES)
    assert_equals_keras(monkeypatch, batch, model, sgd(), **loss)


def test_only_users_and_items_and_one_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ((), (4,)):
        assert_equals_keras(monkeypatch, Batch(ONLY_IDS, 5, 1), model_of(hidden_units=hidden), sgd())


@pytest.mark.parametrize("item_first", [False, True])
def test_the_order_of_the_sides_in_the_specification(item_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense numbers of both sides alternate, and item inputs may come first."""
    fields = SPEC.fields[::-1] if item_first else SPEC.fields
    dense = tuple(n for n in SPEC.numbers if n.placement == "dense")[:: -1 if item_first else 1]
    spec = replace(SPEC, fields=fields, numbers=(*(n for n in SPEC.numbers if n.placement == "field"), *dense))
    assert_equals_keras(monkeypatch, Batch(spec, 4, 2, seed=6), model_of(batch_norm=True), sgd(), loss="softmax")


def test_a_step_of_matrix_factorization_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendle et al. 2009, section 4.3.1: x̂_ui = p_u · q_i + b_i; θ += rate · σ(−x̂_uij) · ∂x̂_uij / ∂θ."""
    model, rate = model_of(hidden_units=(), output="ones"), 0.5
    batch = Batch(ONLY_IDS, 1, 1)
    weights = random_weights(ONLY_IDS, model)
    batch.weight_B[:] = 1
    batch.negatives_BN[0, 0] = (batch.chosen_B[0] + 1) % 12
    # Users have rows 0 to 8 of the tables, items rows from 9 on.
    u = int(batch.user_columns["user"][0])
    batch.item_columns["item"] = (np.arange(12) % 9 + 2).astype(np.int32)
    i, j = (9 + int(batch.item_columns["item"][place]) for place in (batch.chosen_B[0], batch.negatives_BN[0, 0]))
    embedding, linear = (table.astype(np.float64) for table in weights.tables)
    p_u, q_i, q_j, b_i, b_j = embedding[u], embedding[i], embedding[j], linear[i, 0], linear[j, 0]
    x_uij = p_u @ (q_i - q_j) + b_i - b_j
    pull = rate / (1 + np.exp(x_uij))
    expected, expected_linear = embedding.copy(), linear.copy()
    expected[u] += pull * (q_i - q_j)
    expected[i] += pull * p_u
    expected[j] -= pull * p_u
    expected_linear[i] += pull
    expected_linear[j] -= pull
    loss = run_step(monkeypatch, batch, model, sgd(learning_rate=rate), ranking_of(negatives=1), weights)
    assert loss == pytest.approx(-np.log(1 / (1 + np.exp(-x_uij))), rel=1e-5)
    np.testing.assert_allclose(weights.tables.embedding, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.tables.linear, expected_linear, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights.network["output/kernel"], 1)


def test_the_samples_of_a_pair_lose_the_same_units() -> None:
    seed, other = (tf.constant(number, tf.uint32) for number in (7, 12345))
    ones = tf.ones((12, 50))
    shared = dropout(ones, 0.4, seed, other, 3).numpy().reshape(3, 4, 50)
    np.testing.assert_array_equal(shared[0], shared[1])
    np.testing.assert_array_equal(shared[0], shared[2])
    np.testing.assert_allclose(np.unique(shared), [0, 1 / 0.6], rtol=1e-6)
    assert (shared[0] > 0).mean() == pytest.approx(0.6, abs=0.1)
    assert (shared[0][0] != shared[0][1]).any()
    # With one sample, each row loses its own units, and the first rows the same ones as before.
    alone = dropout(ones, 0.4, seed, other).numpy()
    np.testing.assert_array_equal(alone[:4], shared[0])
    assert (alone[:4] != alone[4:8]).any()


def test_dropout_does_not_separate_equal_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's chosen item and a negative with the same inputs have the same score: the loss is ln 2."""
    batch = Batch(ONLY_IDS, 5, 2)
    batch.item_columns["item"][:], batch.weight_B[:] = 4, 1
    for hidden in ((), (6,)):
        model = model_of(hidden_units=hidden, batch_norm=True, pooling_dropout=0.5, hidden_dropout=0.5)
        loss = run_step(monkeypatch, batch, model, sgd(), ranking_of(negatives=2), random_weights(ONLY_IDS, model))
        assert loss == pytest.approx(5 * np.log(2), rel=1e-5)
