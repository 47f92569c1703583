"""Softmax over the items of a batch: a step, compared with Keras over the joined rows of all users and items."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from nfm.config.train import Model, Train
from nfm.contract.dataset import arrange_inputs
from nfm.training.layers import make_keras_inputs
from nfm.training.model import TABLES, build
from tests.sides import take
from tests.training.examples import PLAIN
from tests.training.ranking.pairs import (
    ITEMS,
    PENALTIES,
    SPEC,
    Batch,
    apply_sgd,
    penalize,
    random_weights,
    ranking_of,
    run_step,
)


def make_batch(seed: int) -> Batch:
    """Return a batch in which items are repeated, and users have items of other rows."""
    batch, rng = Batch(SPEC, 7, 1, seed), np.random.default_rng(seed)
    batch.chosen_B[1] = batch.chosen_B[0]
    users = np.concatenate([rng.integers(0, 7, 40), np.arange(7), np.full(ITEMS, 6)])  # user 6 has every item
    items = np.concatenate([rng.integers(0, ITEMS, 40), batch.chosen_B, np.arange(ITEMS)])
    batch.pairs = users.astype(np.int32), items.astype(np.int32)
    return batch


def keras_step(batch: Batch, model: Model, train: Train) -> tuple[float, dict[str, Any]]:
    count = len(batch.chosen_B)
    users, items = (place.ravel() for place in np.meshgrid(np.arange(count), batch.chosen_B, indexing="ij"))
    joined = take(batch.user_columns, users) | take(batch.item_columns, items)
    own = take(batch.user_columns, np.arange(count)) | take(batch.item_columns, batch.chosen_B)
    rows, chosen = (arrange_inputs(batch.spec, columns) for columns in (joined, own))
    assert batch.pairs is not None
    counts_I, known = (
        np.bincount(batch.pairs[1], minlength=ITEMS),
        set(zip(*(a.tolist() for a in batch.pairs), strict=True)),
    )
    allowed_BB = np.array(
        [[b == c or (b, int(i)) not in known for c, i in enumerate(batch.chosen_B)] for b in range(count)]
    )
    plain = model.model_copy(update={"l2": model.l2.model_copy(update={"embedding": 0.0, "linear": 0.0})})
    keras_model = build(batch.spec, plain, random_weights(batch.spec, model))
    with tf.GradientTape() as tape:
        scores = keras_model(make_keras_inputs(rows, batch.spec), training=True)[:, 0]
        scores_BB = tf.reshape(scores - np.log(counts_I[items]).astype(np.float32), (count, count))
        powers_BB = tf.exp(scores_BB) * allowed_BB.astype(np.float32)
        losses_B = -tf.math.log(tf.linalg.diag_part(powers_BB) / tf.reduce_sum(powers_BB, axis=1))
        loss = tf.reduce_sum(batch.weight_B * losses_B)
        penalty = penalize(batch, chosen, model, keras_model)
        total = loss / count + penalty if train.loss_reduction == "mean" else loss + count * penalty
    return float(loss), apply_sgd(keras_model, tape.gradient(total, keras_model.trainable_variables), train)


@pytest.mark.parametrize("output", ["trained", "ones"])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": 0.05}, {"loss_reduction": "sum", "learning_rate": 0.01}], ids=str
)
def test_a_step_changes_every_weight_by_its_gradient(
    output: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(5)
    form = {"hidden_units": (), "batch_norm": False, "pooling_dropout": 0.0, "l2": PENALTIES, "output": output}
    model = Model.model_validate({"task": "ranking", "embedding_dim": 3, **form})
    train = Train.model_validate({"optimizer": "sgd", "learning_rate": 0.1, **PLAIN, **changes})
    expected_loss, expected = keras_step(batch, model, train)
    weights = random_weights(batch.spec, model)
    loss = run_step(monkeypatch, batch, model, train, ranking_of(loss="softmax", sampler="batch"), weights)
    assert loss == pytest.approx(expected_loss, rel=2e-5)
    found = dict(zip(TABLES, weights.tables, strict=True)) | weights.network
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-4, atol=2e-6, err_msg=path)
    if output == "ones":
        np.testing.assert_array_equal(weights.network["output/kernel"], 1)


def test_a_user_who_has_all_items_of_the_batch_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(5)
    batch.weight_B[:] = np.arange(7) == 6
    model = Model.model_validate(
        {"task": "ranking", "embedding_dim": 3, "hidden_units": (), "batch_norm": False, "pooling_dropout": 0.4}
    )
    train = Train.model_validate({"optimizer": "sgd", **PLAIN})
    weights, before = (random_weights(batch.spec, model) for _ in range(2))
    assert run_step(monkeypatch, batch, model, train, ranking_of(loss="softmax", sampler="batch"), weights) == 0
    for table, old in zip(weights.tables, before.tables, strict=True):
        np.testing.assert_array_equal(table, old)
