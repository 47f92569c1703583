"""The softmax over the items of a batch: a step compared with Keras, which scores each pair of the batch by itself."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfm.kernels.shared import mark_seen
from nfm.training.data.batches import Fold
from nfm.training.model import TABLES, Weights
from nfm.training.optimizers import Optimizer
from nfm.training.ranking import step as steps
from nfm.training.ranking.network import BatchNetwork
from nfm.training.ranking.sampler import make_seen
from nfm.training.tables import TableReader
from tests.training.ranking.pairs import SPEC, Batch, keras_step, random_weights, ranking_of
from tests.training.ranking.test_pair_step import copy, model_of, sgd

RANKING = ranking_of(loss="softmax", sampler="batch")


def run(batch: Batch, model: Any, train: Any, weights: Weights) -> float:
    """Change the weights by one step, and return its loss."""
    network = BatchNetwork(batch.spec, model, train, 1, batch.sides)
    reader = TableReader(batch.spec, weights.tables, 2)
    optimizer = Optimizer(train, weights, list(network.trained), reader)
    ranked = batch.ranked(RANKING)
    sides = steps.make_sides(batch.spec, ranked, train, Fold(batch.sides[0], (), True, ""), reader)
    step = steps.make_pair_step(batch.spec, model, train, ranked, sides, network, optimizer)
    return step(batch.rows(), train.learning_rate, 1)


def give_negatives(batch: Batch) -> None:
    """Let the negatives of a row be the items of all other rows, without those of its user: -1."""
    seen = batch.ranked(RANKING).seen
    count = len(batch.chosen_B)
    negatives = np.full((count, count - 1), -1, np.int32)
    for b in range(count):
        has = set(seen.items[seen.starts[b] : seen.starts[b + 1]].tolist())
        others = np.delete(batch.chosen_B, b).tolist()
        negatives[b] = [-1 if item in has else item for item in others]
    batch.negatives_BN = negatives


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("output", ["trained", "ones"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_step_equals_one_with_all_items_of_the_batch_as_negatives(reduction: str, output: str, seed: int) -> None:
    batch = Batch(SPEC, 9, 1, seed)
    give_negatives(batch)
    assert (batch.negatives_BN < 0).any()
    model, train = model_of(hidden_units=(), output=output), sgd(loss_reduction=reduction)
    assert steps.is_shared(RANKING, model)
    weights = random_weights(batch.spec, model)
    expected_loss, expected = keras_step(batch, model, train, RANKING, copy(weights))
    assert run(batch, model, train, weights) == pytest.approx(expected_loss, rel=2e-5)
    found = dict(zip(TABLES, weights.tables, strict=True)) | weights.network
    for path, array in expected.items():
        if path != "linear/bias":  # the same for all pairs, so that it has no gradient but rounding
            np.testing.assert_allclose(found[path], array, rtol=1e-4, atol=3e-6, err_msg=path)


def test_models_with_hidden_layers_draw_negatives() -> None:
    assert not steps.is_shared(RANKING, model_of(hidden_units=(4,)))
    assert not steps.is_shared(RANKING, model_of(hidden_units=(), batch_norm=True))
    assert not steps.is_shared(ranking_of(loss="bpr", sampler="batch"), model_of(hidden_units=()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_marks_are_those_of_brute_force(data: st.DataObject) -> None:
    users, items = 4, 6
    pairs = data.draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), max_size=20))
    seen = make_seen(np.array([u for u, _ in pairs], int), np.array([i for _, i in pairs], int), users)
    rows = data.draw(st.lists(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), min_size=1, max_size=8))
    users_B, items_B = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    found = mark_seen(*seen, users_B, items_B, np.float32(-5))
    expected = [
        [-5 if b != c and (u, items_B[c]) in pairs else 0 for c in range(len(rows))] for b, u in enumerate(users_B)
    ]
    assert found.tolist() == expected
