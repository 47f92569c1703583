"""Negatives against their exact probabilities: weights renormalised over the items that a user lacks."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare

from nfm.training.ranking.sampler import Sampler, Seen, make_seen

ITEMS = 40
WEIGHTS = np.where(np.arange(ITEMS) % 9 == 4, 0, 1 / (1 + np.arange(ITEMS)) ** 0.75)  # some items have no weight
LISTS = [[], [0, 1, 2, 3, 39], list(range(0, ITEMS, 2)), [*range(20), *range(23, ITEMS)]]  # items of each user
USERS = len(LISTS)


def seen_of(lists: list[list[int]]) -> Seen:
    users_N = [user for user, items in enumerate(lists) for _ in items]
    items_N = [item for items in lists for item in items]
    return make_seen(np.array(users_N, np.int32), np.array(items_N, np.int32), len(lists))


def without(p_I: NDArray[Any], items: list[int]) -> NDArray[np.float64]:
    """Return probabilities renormalised over all items but these."""
    rest: NDArray[np.float64] = np.array(p_I, np.float64)
    rest[items] = 0
    rest /= rest.sum()
    return rest


def assert_distributed(drawn: NDArray[np.int32], p_I: NDArray[np.float64]) -> None:
    """Check by chi-square that items were drawn with these probabilities. The draws are the same in each run."""
    counts_I = np.bincount(drawn.ravel(), minlength=len(p_I))
    assert len(counts_I) == len(p_I)
    assert not counts_I[p_I == 0].any()
    if (p_I > 0).sum() > 1:
        assert chisquare(counts_I[p_I > 0], counts_I.sum() * p_I[p_I > 0]).pvalue > 0.001


@pytest.mark.parametrize("weights_I", [None, WEIGHTS], ids=["uniform", "popularity"])
def test_draws_have_the_probabilities_of_the_unseen_items(weights_I: NDArray[Any] | None) -> None:
    users_B = np.tile(np.arange(USERS, dtype=np.int32), 20_000)
    drawn_BN = Sampler(seen_of(LISTS), ITEMS, 1, weights_I).draw(users_B, 2, 1000, 4)
    for user, items in enumerate(LISTS):
        p_I = without(np.ones(ITEMS) if weights_I is None else weights_I, items)
        assert_distributed(drawn_BN[users_B == user], p_I)
        assert_distributed(drawn_BN[users_B == user, 3], p_I)


def test_draws_are_exact_where_almost_the_whole_weight_is_seen() -> None:
    """With 1e12 of the weight seen, all draws come from the inverse transform; with 200, most do not."""
    for weight in (1e12, 200):
        weights_I = np.where(np.arange(10) == 3, weight, [1, 2, 0, 0, 3, 0.5, 0, 1, 1, 4])
        drawn_BN = Sampler(seen_of([[3, 8]]), 10, 1, weights_I).draw(np.zeros(10_000, np.int32), 0, 0, 4)
        assert_distributed(drawn_BN, without(weights_I, [3, 8]))


@pytest.mark.parametrize("rows", [8, 4000])  # user 1 lacks three rows' items: most draws reach the exact choice in 4000
def test_draws_from_the_batch_have_the_probabilities_of_the_other_rows(rows: int) -> None:
    lists = [[0], [0, 1]]
    users_B = np.ones(rows, np.int32)
    users_B[0] = 0
    items_B = np.array([5, 7, *[0, 1] * ((rows - 4) // 2), 5, 0], np.int32)
    sampler = Sampler(seen_of(lists), 8, 3)
    drawn = np.concatenate([sampler.draw_from_batch(users_B, items_B, epoch, 0, 4) for epoch in range(40_000 // rows)])
    users = np.tile(users_B, 40_000 // rows)
    own = np.tile(np.arange(rows), 40_000 // rows)  # items of other rows only: rows 0, 1 and −2 have their own counts
    for user, chosen in ((0, own == 0), (1, (own > 1) & (own < rows - 2)), (1, own == 1)):
        counts_I = np.bincount(items_B, minlength=8)
        counts_I[items_B[0 if user == 0 else int(own[chosen][0])]] -= 1
        assert (users[chosen] == user).all()
        assert_distributed(drawn[chosen], without(counts_I, lists[user]))


@pytest.mark.parametrize("weights_I", [None, np.arange(1.0, 7)], ids=["uniform", "popularity"])
def test_draws_of_neighbours_are_independent(weights_I: NDArray[Any] | None) -> None:
    users_B = np.zeros(40_000, np.int32)
    sampler = Sampler(seen_of([[2]]), 6, 1, weights_I)
    first, second = (sampler.draw(users_B, epoch, 0, 2) for epoch in (0, 1))
    other = Sampler(seen_of([[2]]), 6, 2, weights_I).draw(users_B, 0, 0, 2)
    pairs = {
        "negatives of a row": (first[:, 0], first[:, 1]),
        "rows": (first[:-1, 0], first[1:, 0]),
        "a row's second negative and the next row's first": (first[:-1, 1], first[1:, 0]),
        "epochs": (first[:, 0], second[:, 0]),
        "seeds": (first[:, 0], other[:, 0]),
    }
    for name, (left, right) in pairs.items():
        table = np.zeros((6, 6), np.int64)
        np.add.at(table, (left, right), 1)
        table = np.delete(np.delete(table, 2, 0), 2, 1)
        assert chi2_contingency(table).pvalue > 0.001, name


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[int, list[list[int]], NDArray[np.float64] | None]:
    """Draw a number of items, the items of each user, and weights."""
    items = draw(st.integers(1, 8))
    lists = draw(st.lists(st.sets(st.integers(0, items - 1)).map(sorted), min_size=1, max_size=4))
    weight = st.sampled_from([0.0, 0.0, 1e-300, 1e-3, 1.0, 7.0, 1e9])
    weights = draw(st.none() | st.lists(weight, min_size=items, max_size=items))
    return items, lists, None if weights is None else np.array(weights)


@given(catalogues(), st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_no_draw_is_a_seen_item_or_has_no_weight(
    catalogue: tuple[int, list[list[int]], NDArray[np.float64] | None], seed: int, first: int
) -> None:
    items, lists, weights_I = catalogue
    users_B = np.tile(np.arange(len(lists)), 3)
    drawn_BN = Sampler(seen_of(lists), items, seed, weights_I).draw(users_B, 1, first, 3)
    for user, drawn in zip(users_B, drawn_BN, strict=True):
        allowed = {i for i in range(items) if i not in lists[user] and (weights_I is None or weights_I[i] > 0)}
        assert set(drawn.tolist()) <= (allowed or {-1})


@given(catalogues(), st.data())
def test_no_draw_from_the_batch_is_a_seen_item(
    catalogue: tuple[int, list[list[int]], NDArray[np.float64] | None], data: st.DataObject
) -> None:
    items, lists, _ = catalogue
    rows = data.draw(st.integers(0, 6))
    users = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=rows, max_size=rows))
    batch = data.draw(st.lists(st.integers(0, items - 1), min_size=rows, max_size=rows))
    drawn_BN = Sampler(seen_of(lists), items, 1).draw_from_batch(np.array(users, int), np.array(batch, int), 0, 0, 3)
    assert drawn_BN.shape == (rows, 3)
    for row, drawn in enumerate(drawn_BN):
        allowed = {batch[other] for other in range(rows) if other != row} - set(lists[users[row]])
        assert set(drawn.tolist()) <= (allowed or {-1})


def test_the_only_unseen_item_is_always_drawn() -> None:
    items = 5000
    seen = seen_of([[i for i in range(items) if i != item] for item in (0, 17, items - 1)])
    users_B = np.array([0, 1, 2, 1], np.int32)
    for weights_I in (None, np.ones(items), 1 / np.arange(1, items + 1) ** 5):
        drawn_BN = Sampler(seen, items, 1, weights_I).draw(users_B, 0, 0, 3)
        assert drawn_BN.tolist() == [[0] * 3, [17] * 3, [items - 1] * 3, [17] * 3]


def test_nothing_to_draw_is_minus_one() -> None:
    seen, users_B = seen_of([[0, 1, 2], [0, 1], []]), np.arange(3)
    assert Sampler(seen, 3, 1).draw(users_B, 0, 0, 2)[:2].tolist() == [[-1, -1], [2, 2]]
    assert Sampler(seen, 3, 1, np.array([1, 1, 0])).draw(users_B, 0, 0, 2)[:2].tolist() == [[-1, -1], [-1, -1]]
    assert (Sampler(seen, 3, 1, np.zeros(3)).draw(users_B, 0, 0, 2) == -1).all()
    assert Sampler(seen, 3, 1).draw_from_batch(users_B[2:], np.array([1]), 0, 0, 2).tolist() == [[-1, -1]]
    assert Sampler(seen, 3, 1).draw(users_B[:0], 0, 0, 2).shape == (0, 2)
    assert Sampler(seen, 3, 1).draw(users_B, 0, 0, 0).shape == (3, 0)


BATCH = np.random.default_rng(0).integers(0, USERS, 6000), np.random.default_rng(1).integers(0, ITEMS, 6000)


@pytest.mark.parametrize("weights_I", [None, WEIGHTS], ids=["uniform", "popularity"])
def test_draws_do_not_depend_on_threads_or_batches(weights_I: NDArray[Any] | None) -> None:
    users_B, items_B = BATCH
    sampler = Sampler(seen_of(LISTS), ITEMS, 5, weights_I, threads=1)
    expected, from_batch = sampler.draw(users_B, 3, 70, 4), sampler.draw_from_batch(users_B, items_B, 3, 70, 4)
    for threads in (1, 2, 3):
        sampler = Sampler(seen_of(LISTS), ITEMS, 5, weights_I, threads)
        np.testing.assert_array_equal(sampler.draw(users_B, 3, 70, 4), expected)
        np.testing.assert_array_equal(sampler.draw_from_batch(users_B, items_B, 3, 70, 4), from_batch)
        for cuts in ([0, 6000], [0, 1, 2, 3000, 6000], [0, 2047, 2048, 5999, 6000]):
            parts = [sampler.draw(users_B[a:b], 3, 70 + a, 4) for a, b in pairwise(cuts)]
            np.testing.assert_array_equal(np.concatenate(parts), expected)
    # The first negatives do not depend on how many follow.
    np.testing.assert_array_equal(sampler.draw(users_B, 3, 70, 1), expected[:, :1])


@pytest.mark.parametrize(
    "draw",
    [lambda s, epoch: s.draw(BATCH[0], epoch, 0, 2), lambda s, epoch: s.draw_from_batch(*BATCH, epoch, 0, 2)],
    ids=["draw", "draw_from_batch"],
)
def test_another_seed_or_epoch_gives_other_draws(draw: Callable[[Sampler, int], NDArray[np.int32]]) -> None:
    samplers = [Sampler(seen_of(LISTS), ITEMS, seed) for seed in (1, 2, 1)]
    first, other_seed, same = (draw(sampler, 0) for sampler in samplers)
    np.testing.assert_array_equal(first, same)
    many = BATCH[0] < 3  # the last user lacks three items only
    assert (first[many] == other_seed[many]).mean() < 0.1
    assert (first[many] == draw(samplers[0], 1)[many]).mean() < 0.1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9) | st.just(2**31 - 1)), max_size=40))
def test_the_lists_of_users_are_sorted_sets(pairs: list[tuple[int, int]]) -> None:
    users_N, items_N = (np.array([pair[i] for pair in pairs], dtype) for i, dtype in enumerate((np.int32, np.int64)))
    starts, items = make_seen(users_N, items_N, 7)
    assert [starts.dtype, items.dtype] == [np.dtype(np.int64), np.dtype(np.int32)]
    for user in range(7):
        assert items[starts[user] : starts[user + 1]].tolist() == sorted({i for u, i in pairs if u == user})
    assert starts[-1] == len(items)


def test_bad_input_is_refused() -> None:
    one, two = np.array([0]), np.array([0, 1])
    with pytest.raises(ValueError, match="1 users and 2 items are not pairs"):
        make_seen(one, two, 1)
    with pytest.raises(ValueError, match=r"users must be in \[0, 1\); found 0 to 1"):
        make_seen(two, two, 1)
    with pytest.raises(ValueError, match=r"items must be in \[0, 2147483648\); found -1 to -1"):
        make_seen(one, one - 1, 1)
    seen = make_seen(two, two, 2)
    with pytest.raises(ValueError, match=r"items must be in \[0, 1\); found 0 to 1"):
        Sampler(seen, 1, 1)
    with pytest.raises(ValueError, match=r"the weights of 2 items have the shape \(3,\)"):
        Sampler(seen, 2, 1, np.ones(3))
    for weights in ([1, -1], [1, np.nan], [1, np.inf], [1.7e308, 1.7e308]):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            Sampler(seen, 2, 1, np.array(weights))
    sampler = Sampler(seen, 2, 1)
    with pytest.raises(ValueError, match=r"users must be in \[0, 2\); found 2 to 2"):
        sampler.draw(np.array([2]), 0, 0, 1)
    with pytest.raises(ValueError, match="1 users and 2 items are not rows of one batch"):
        sampler.draw_from_batch(one, two, 0, 0, 1)
    with pytest.raises(ValueError, match=r"items must be in \[0, 2\); found 0 to 2"):
        sampler.draw_from_batch(two, two * 2, 0, 0, 1)
