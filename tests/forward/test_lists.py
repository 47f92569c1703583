"""Lists of the best items, compared with sorting all items of each user."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.forward.lists import Limit, Lists, Seen, TileSize, top_lists
from nfm.forward.rows import score
from nfm.forward.sides import Side
from tests.sides import make_ranking

NAN, INF = float("nan"), float("inf")
is_product = pytest.mark.parametrize("hidden", [(), (9,)], ids=["without hidden layers", "with hidden layers"])


@dataclass
class Table:
    """The scores of all pairs, in place of a `PairScorer`; users are numbered in `linear_B`."""

    scores_UI: NDArray[np.float32]
    is_product: bool = True

    @property
    def count(self) -> int:
        return len(self.scores_UI.T)

    def prepare(self, users: Side) -> Any:
        return Rows(self.scores_UI[users.linear_B.astype(int)])


@dataclass
class Rows:
    scores_UI: NDArray[np.float32]

    def score(self, start: int, stop: int, out_UT: NDArray[np.float32]) -> None:
        out_UT[:] = self.scores_UI[:, start:stop]


def lists_of(scores: Any, count: int, **options: Any) -> Lists:
    scores_UI: Any = np.array(scores, np.float32)
    none = np.empty((len(scores_UI), 0), np.float32)
    scorer: Any = Table(scores_UI)
    return top_lists(scorer, Side(none, none, np.arange(len(scores_UI), dtype=np.float32), none), count, **options)


def ragged(rows: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the splits and the values of lists."""
    splits = np.cumsum([0, *(len(row) for row in rows)])
    return splits.astype(np.int64), np.array([value for row in rows for value in row], np.int32)


def sort_and_choose(
    scores: list[float], count: int, left_out: set[int], values: list[list[int]], most: list[int]
) -> list[int]:
    """Return one user's list: sort all items, then take those that the limit allows."""
    items = [i for i, x in enumerate(scores) if np.isfinite(x) and i not in left_out]
    chosen: list[int] = []
    for item in sorted(items, key=lambda i: (-scores[i], i)):
        taken = [value for other in chosen for value in set(values[other])]
        if len(chosen) < count and all(taken.count(value) < most[value] for value in values[item]):
            chosen.append(item)
    return chosen


def contents(lists: Lists) -> list[list[int]]:
    """Return the items of each list, and check its scores and empty places."""
    for items, scores, filled in zip(lists.items_UK, lists.scores_UK, lists.filled_U, strict=True):
        assert (items[:filled] >= 0).all()
        assert (items[filled:] == -1).all()
        assert (scores[filled:] == -INF).all()
    return [items[:filled].tolist() for items, filled in zip(lists.items_UK, lists.filled_U.tolist(), strict=True)]


@given(data=st.data())
def test_lists_equal_sorting_all_items(data: st.DataObject) -> None:
    users, items = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 150))
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    # Few distinct scores, so that there are many ties; some are not finite.
    numbers = np.arange(data.draw(st.sampled_from([1, 3, 30, 1000])), dtype=np.float32)
    scores = random.choice(numbers, (users, items))
    if data.draw(st.booleans()):
        scores[random.random(scores.shape) < 0.1] = random.choice([NAN, INF, -INF])
    share = data.draw(st.sampled_from([0, 0.1, 0.9, 1]))
    seen = [np.flatnonzero(random.random(items) < share).tolist() for _ in range(users)]
    allowed = random.random(items) < 0.7 if data.draw(st.booleans()) else None
    most = data.draw(st.lists(st.integers(0, 4), max_size=4))
    values = [random.integers(0, len(most), random.integers(0, 4)).tolist() if most else [] for _ in range(items)]
    count, tile = data.draw(st.integers(1, 30)), data.draw(st.tuples(st.integers(1, 4), st.integers(1, 160)))
    lists = lists_of(
        scores,
        count,
        seen=Seen(*ragged(seen)),
        allowed_I=allowed,
        limit=Limit(*ragged(values), np.array(most, np.int32)) if data.draw(st.booleans()) or most else None,
        threads=data.draw(st.integers(1, 2)),
        tile=TileSize(*tile),
    )
    hidden = [] if allowed is None else np.flatnonzero(~allowed).tolist()
    expected = [
        sort_and_choose(row, count, {*own, *hidden}, values, most)
        for row, own in zip(scores.tolist(), seen, strict=True)
    ]
    assert contents(lists) == expected
    for u, own in enumerate(expected):
        np.testing.assert_array_equal(lists.scores_UK[u, : len(own)], scores[u, own])
        candidates = sorted(set(range(items)) - {*seen[u], *hidden})
        assert lists.not_finite_U[u] == np.count_nonzero(~np.isfinite(scores[u, candidates]))


@is_product
def test_lists_of_a_model_equal_its_scores_of_rows(hidden: tuple[int, ...]) -> None:
    ranking = make_ranking(Network("regression", 8, hidden, "relu"), 5, 130)
    lists = top_lists(ranking.scorer, ranking.users, 10)
    users, items = np.divmod(np.arange(5 * 130), 130)
    rows = ranking.join(users, items)
    scores_UI = score(ranking.spec, ranking.network, ranking.weights, rows).reshape(5, 130)
    order = np.argsort(-scores_UI, axis=1, kind="stable")[:, :10]
    gaps = -np.diff(np.sort(-scores_UI, axis=1)[:, :11])
    assert np.abs(gaps).min() > 2e-6  # else, rounding could exchange two items
    np.testing.assert_array_equal(lists.items_UK, order)
    np.testing.assert_allclose(lists.scores_UK, np.take_along_axis(scores_UI, order, 1), rtol=1e-6, atol=1e-6)


@is_product
def test_tiles_and_threads_do_not_change_lists(hidden: tuple[int, ...]) -> None:
    ranking = make_ranking(Network("regression", 8, hidden, "tanh"), 23, 700)
    limit = Limit(np.arange(701), np.arange(700, dtype=np.int32) % 6, np.full(6, 3, np.int32))
    whole = top_lists(ranking.scorer, ranking.users, 15, limit=limit)
    assert (whole.filled_U == 15).all()
    for users, items, threads in ((1, 700, 1), (23, 1, 2), (5, 33, 2), (6, 32, 3), (20, 481, 1)):
        tile = TileSize(users, items)
        lists = top_lists(ranking.scorer, ranking.users, 15, limit=limit, threads=threads, tile=tile)
        for array, same in zip(whole, lists, strict=True):
            np.testing.assert_array_equal(array, same, strict=True)


def test_ties_have_the_order_of_the_items() -> None:
    assert contents(lists_of([[1, 2, 1, 2, 0, 2], [0, 0, 0, 0, 0, 0]], 4)) == [[1, 3, 5, 0], [0, 1, 2, 3]]


def test_seen_items_are_left_out() -> None:
    seen = Seen(*ragged([[1, 3], [0, 1, 2, 3], [], [2, 2]]))
    lists = lists_of([[1, 2, 3, 4]] * 4, 2, seen=seen, tile=TileSize(3, 2))
    assert contents(lists) == [[2, 0], [], [3, 2], [3, 1]]
    assert lists.filled_U.tolist() == [2, 0, 2, 2]


def test_more_places_than_items() -> None:
    assert contents(lists_of([[1, 3, 2]], 5)) == [[1, 2, 0]]


@is_product
def test_lists_without_users_or_items(hidden: tuple[int, ...]) -> None:
    network = Network("regression", 8, hidden, "relu")
    for users, items in ((0, 5), (3, 0), (0, 0)):
        ranking = make_ranking(network, users, items)
        limit = Limit(np.zeros(items + 1, np.int64), np.empty(0, np.int32), np.ones(1, np.int32))
        for own in (None, limit):
            lists = top_lists(ranking.scorer, ranking.users, 2, limit=own)
            assert lists.items_UK.shape == (users, 2)
            assert (lists.filled_U == min(items, 2)).all()


def test_scores_that_are_not_finite_are_in_no_list() -> None:
    lists = lists_of([[1, NAN, 3, INF, -INF], [1, 2, 3, 4, 5], [NAN] * 5], 4, seen=Seen(*ragged([[1], [], []])))
    assert contents(lists) == [[2, 0], [4, 3, 2, 1], []]
    assert lists.not_finite_U.tolist() == [2, 0, 5]


def test_a_limit_skips_items() -> None:
    # Items 0 to 3 have value 0, item 4 has values 0 and 1, item 5 has value 1 twice, item 6 has none.
    values = ragged([[0], [0], [0], [0], [0, 1], [1, 1], []])
    scores = [[9, 8, 7, 6, 5, 4, 3]]
    assert contents(lists_of(scores, 4, limit=Limit(*values, np.array([2, 1], np.int32)))) == [[0, 1, 5, 6]]
    assert contents(lists_of(scores, 4, limit=Limit(*values, np.array([0, 0], np.int32)))) == [[6]]
    assert contents(lists_of(scores, 3, limit=Limit(*values, np.array([9, 9], np.int32)))) == [[0, 1, 2]]


def test_a_limit_that_skips_many_items_needs_further_passes() -> None:
    # The first 900 items have value 0; the next ones have values 1, 2, 3, … of 30 items each.
    values = [[0]] * 900 + [[1 + i // 30] for i in range(300)]
    limit = Limit(*ragged(values), np.full(11, 2, np.int32))
    lists = lists_of([list(range(1200, 0, -1))] * 2, 15, limit=limit, seen=Seen(*ragged([[0, 900], []])))
    starts = range(900, 1200, 30)
    assert contents(lists) == [
        [1, 2, 901, 902, *(i for s in starts[1:6] for i in (s, s + 1)), 1080],
        [0, 1, 900, 901, *(i for s in starts[1:6] for i in (s, s + 1)), 1080],
    ]


def test_arguments_that_do_not_fit_are_refused() -> None:
    def refused(reason: str, count: int = 1, **options: Any) -> None:
        with pytest.raises(ValueError, match=reason):
            lists_of([[1, 2, 3], [1, 2, 3]], count, **options)

    refused("at least one place", count=0)
    refused("splits of seen must be 3", seen=Seen(*ragged([[1]])))
    refused("must be ascending", seen=Seen(*ragged([[], [2, 1]])))
    refused("allowed_I has 2", allowed_I=np.ones(2, np.bool_))
    refused("splits of limit must be 4", limit=Limit(*ragged([[0]]), np.ones(1, np.int32)))
    refused("maxima for 1 values", limit=Limit(*ragged([[0], [1], []]), np.ones(1, np.int32)))
    assert contents(lists_of([[1, 2, 3], [1, 2, 3]], 3, seen=Seen(*ragged([[2], [1]])))) == [[1, 0], [2, 0]]
