"""Scores of pairs, compared with the forward pass over the joined rows."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.dataset import arrange_inputs
from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.contract.times.derived import Derived
from nfm.forward.pairs import PairScorer
from nfm.forward.rows import score
from nfm.forward.sides import Side, select_side, sum_side
from tests.sides import ITEM_NAMES, USER_NAMES, Ranking, make_columns, make_ranking, make_spec, take

USERS, ITEMS = 7, 70
HIDDEN: list[tuple[int, ...]] = [(), (9,), (20, 33)]


def network_of(hidden: tuple[int, ...], activation: str = "relu", dtype: str = "float32", dim: int = 16) -> Network:
    return Network("regression", dim, hidden, activation, embedding_dtype=dtype)


@cache
def ranking_of(hidden: tuple[int, ...], items: int = ITEMS) -> Ranking:
    return make_ranking(network_of(hidden), USERS, items)


def score_all(ranking: Ranking) -> NDArray[np.float32]:
    """Return the (U, I) scores from the `PairScorer`."""
    scores_UI = np.full((len(ranking.users.linear_B), ranking.scorer.count), np.nan, np.float32)
    ranking.scorer.prepare(ranking.users).score(0, ranking.scorer.count, scores_UI)
    return scores_UI


def score_rows(ranking: Ranking) -> NDArray[np.float32]:
    """Return the (U, I) scores of the joined rows."""
    users, items = np.divmod(np.arange(USERS * ranking.scorer.count), ranking.scorer.count)
    rows = ranking.join(users, items)
    return score(ranking.spec, ranking.network, ranking.weights, rows).reshape(USERS, -1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
def test_pairs_have_the_scores_of_joined_rows(hidden: tuple[int, ...], dtype: str) -> None:
    for dim in (1, 16, 64):
        ranking = make_ranking(network_of(hidden, dtype=dtype, dim=dim), USERS, ITEMS)
        expected = score_rows(ranking)
        assert expected.std() > 0.1
        np.testing.assert_allclose(score_all(ranking), expected, rtol=1e-6, atol=1e-6, strict=True)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "linear"])
def test_every_activation(activation: str) -> None:
    ranking = make_ranking(network_of((20, 33), activation), USERS, ITEMS)
    np.testing.assert_allclose(score_all(ranking), score_rows(ranking), rtol=1e-6, atol=1e-6)


def test_the_task_does_not_change_the_score_of_a_pair() -> None:
    ranking = make_ranking(replace(network_of((9,)), task="binary"), USERS, ITEMS)
    logits = score_all(ranking)
    np.testing.assert_array_equal(logits, score_all(ranking_of((9,))))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), score_rows(ranking), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@given(data=st.data())
def test_a_score_does_not_depend_on_the_pairs_around_it(hidden: tuple[int, ...], data: st.DataObject) -> None:
    ranking = ranking_of(hidden, 1100)  # three tiles of the layers
    whole = score_all(ranking)
    users = np.array(data.draw(st.lists(st.integers(0, USERS - 1), min_size=1, max_size=20)))
    start = data.draw(st.integers(0, 1099))
    stop = data.draw(st.integers(start + 1, min(1100, start + data.draw(st.sampled_from([1, 40, 600, 1100])))))
    block = ranking.scorer.prepare(ranking.users.select(users))
    for first, last in ((0, 33), (start, stop)):  # the first tile leaves other numbers in the arrays of the block
        scores_UT = np.full((len(users), last - first), np.nan, np.float32)
        block.score(first, last, scores_UT)
        np.testing.assert_array_equal(scores_UT, whole[users, first:last])


@pytest.mark.parametrize("hidden", [(), (9,)], ids=str)
def test_no_users_and_no_items(hidden: tuple[int, ...]) -> None:
    assert score_all(make_ranking(network_of(hidden), 0, 5)).shape == (0, 5)
    assert score_all(make_ranking(network_of(hidden), 5, 0)).shape == (5, 0)


@pytest.mark.parametrize("hidden", [(), (9,)], ids=str)
def test_sums_may_be_memory_mapped(hidden: tuple[int, ...]) -> None:
    ranking = ranking_of(hidden)
    users, items = (Side(*(array.copy() for array in side)) for side in (ranking.users, ranking.scorer.items))
    for array in (*users, *items):
        array.flags.writeable = False
    sides = select_side(ranking.spec, USER_NAMES), select_side(ranking.spec, ITEM_NAMES)
    scorer = PairScorer(ranking.spec, ranking.network, ranking.weights, *sides, items)
    np.testing.assert_array_equal(score_all(ranking._replace(users=users, scorer=scorer)), score_all(ranking))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sums_equal_numpy(dtype: str) -> None:
    fields = tuple(
        Field(name, (name,), ("text",), 1, 2, name, bag=Bag(None, ",", None) if name == "b" else None) for name in "abc"
    )
    numbers = [Number(n, n, "field", 0.0, False, None, "none", 0.0, 1.0) for n in ("x", "y")]
    dense = [Number(n, n, "dense", 0.0, False, None, "none", 0.0, 1.0) for n in ("p", "q")]
    spec, network = Spec(("id",), fields, (*numbers, *dense), ()), network_of((), dtype=dtype, dim=3)
    random = np.random.default_rng(1)
    shapes = network.weight_shapes(spec)
    weights: Any = {
        name: random.integers(-3, 4, shape).astype(network.dtype(name)) / 2 for name, shape in shapes.items()
    }
    side = select_side(spec, {"b", "c", "y", "q"})
    columns = make_columns(side, 1, 2) | {"c": np.array([3], np.int32), "y": np.array([0.5], np.float32)}
    columns |= {"q": np.array([2.0], np.float32)}
    sums = sum_side(spec, network, weights, side, arrange_inputs(side, columns))
    members = list(zip(columns["b"][0].as_py(), columns["b_weights"][0].as_py(), strict=True))
    # Rows of the tables: a 0 to 3, b 4 to 7, c 8 to 11, x 12, y 13.
    features = [(11, 1.0), (13, 0.5), *((4 + i, x) for i, x in members)]
    vectors = np.array([x * weights["embedding"][row].astype(np.float64) for row, x in features])
    np.testing.assert_allclose(sums.sum_BK[0], vectors.sum(axis=0), rtol=1e-6)
    pooled = (vectors.sum(axis=0) ** 2 - (vectors**2).sum(axis=0)) / 2
    np.testing.assert_allclose(sums.pooled_BK[0], pooled, rtol=1e-5, atol=1e-6)
    linear = sum(x * weights["linear"][row, 0] for row, x in features) + 2.0 * weights["dense_linear"][1, 0]
    np.testing.assert_allclose(sums.linear_B[0], linear, rtol=1e-6)
    assert sums.dense_BD.tolist() == [[2.0]]


def test_sums_do_not_depend_on_threads_and_other_rows() -> None:
    spec, network = make_spec(), network_of(())
    weights = ranking_of(()).weights
    side = select_side(spec, USER_NAMES)
    columns = make_columns(side, 1500, 3)  # four steps
    alone = sum_side(spec, network, weights, side, arrange_inputs(side, columns))
    for threads in (2, 3):
        shared = sum_side(spec, network, weights, side, arrange_inputs(side, columns), threads)
        for array, same in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(array, same)
    rows = np.array([1499, 3, 700])
    some = sum_side(spec, network, weights, side, arrange_inputs(side, take(columns, rows)))
    for array, same in zip(alone.select(rows), some, strict=True):
        np.testing.assert_array_equal(array, same)


def test_a_side_has_its_own_inputs_only() -> None:
    spec = make_spec()
    user, item = select_side(spec, USER_NAMES), select_side(spec, ITEM_NAMES)
    assert [field.name for field in user.fields] == ["device", "history", "user"]
    assert [number.name for number in user.numbers] == ["karma", "income", "age"]
    assert user.columns == ("device", "history", "user", "karma", "income", "age")
    assert list(user.vocabularies) == ["device", "item", "user"]  # the history shares the vocabulary of the items
    assert user.digests == ("1", "2", "3")
    assert item.dense == ("year", "stock", "stock_missing")


def test_a_side_has_the_derived_columns_that_it_reads() -> None:
    hour, age = Derived("t_hour", "hour", ("t",)), Derived("s_age", "age", ("s", "t"))
    bag = Field("tags", ("tags",), ("text",), 1, 1, "tags", bag=Bag("w", ",", None))
    hours = Field("t_hour", ("t_hour",), ("number",), 1, 24, "t_hour")
    number = Number("s_age", "s_age", "dense", 0.0, False, None, "none", 0.0, 1.0)
    spec = replace(Spec(("id",), (bag, hours), (number,), ()), derived=(hour, age))
    assert select_side(spec, {"tags"}).derived == ()
    assert select_side(spec, {"tags"}).columns == ("tags", "w")
    assert select_side(spec, {"t_hour"}).derived == (hour,)
    assert select_side(spec, {"s_age"}).columns == ("s", "t")


def test_a_network_that_cannot_rank_is_refused() -> None:
    for network in (replace(network_of(()), classes=("a", "b")), replace(network_of(()), rates=("item",))):
        with pytest.raises(ValueError, match="one output and no target rates"):
            make_ranking(network, 1, 1)
