"""Lists of the baselines equal those of dense matrices, ties included."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.training.ranking import baselines
from nfm.training.ranking.baselines import (
    ItemsOfUsers,
    best_of_rows,
    binary_matrix,
    item_similarities,
    neighbour_lists,
    popularity_lists,
)

pytestmark = pytest.mark.unit


def csr(sets: Sequence[Sequence[int]]) -> ItemsOfUsers:
    lengths = [len(items) for items in sets]
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return starts, np.array([item for items in sets for item in items], np.int32)


def padded(ranked: list[int], k: int) -> list[int]:
    return (ranked + [-1] * k)[:k]


def popular_by_definition(counts: Sequence[int], hidden: Sequence[int], k: int) -> list[int]:
    return padded(sorted(set(range(len(counts))) - set(hidden), key=lambda item: (-counts[item], item)), k)


def neighbours_by_definition(dense_UI: NDArray[np.int64], neighbours: int) -> NDArray[np.float64]:
    """Cosines of the nearest neighbours of each item; their squares are compared as fractions, without rounding."""
    items = dense_UI.shape[1]
    common_II = dense_UI.T @ dense_UI
    similar_II = np.zeros((items, items))
    for item in range(items):
        squares = {
            other: Fraction(int(common_II[item, other]) ** 2, int(common_II[item, item] * common_II[other, other]))
            for other in range(items)
            if other != item and common_II[item, other]
        }
        for other in sorted(squares, key=lambda number: (-squares[number], number))[:neighbours]:
            similar_II[item, other] = math.sqrt(squares[other])
    return similar_II


class Case(NamedTuple):
    """Interactions of users, what is hidden from them, and users in any order, some of them twice."""

    items: int
    seen: list[list[int]]
    hidden: list[list[int]]
    users: list[int]
    k: int
    neighbours: int

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.bincount(csr(self.seen)[1], minlength=self.items)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    items, users = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    some = st.lists(st.integers(0, items - 1), max_size=12)  # repeated items too
    seen = [draw(some) for _ in range(users)]
    hidden = [draw(some | st.just(list(range(items))) | st.just(own)) for own in seen]
    chosen = draw(st.lists(st.integers(0, users - 1), max_size=8))
    return Case(items, seen, hidden, chosen, draw(st.integers(1, 12)), draw(st.integers(1, 10)))


@given(cases())
def test_popular_items_agree_with_the_definition(case: Case) -> None:
    lists = popularity_lists(case.counts, csr(case.hidden), np.array(case.users, int), case.k)
    assert lists.dtype == np.int32
    expected = [popular_by_definition(case.counts.tolist(), case.hidden[user], case.k) for user in case.users]
    assert lists.tolist() == expected


@given(cases(), st.sampled_from([1, 20, 4_000_000]))
def test_neighbours_agree_with_dense_matrices(case: Case, cells: int) -> None:
    dense_UI = np.zeros((len(case.seen), case.items), np.int64)
    for user, own in enumerate(case.seen):
        dense_UI[user, own] = 1
    similar_II = neighbours_by_definition(dense_UI, case.neighbours)
    scores_UI = np.round(dense_UI @ similar_II, 10)
    expected = []
    for user in case.users:
        free = sorted(set(range(case.items)) - set(case.hidden[user]))
        scored = sorted((item for item in free if scores_UI[user, item]), key=lambda i: (-scores_UI[user, i], i))
        rest = popular_by_definition(case.counts.tolist(), [*case.hidden[user], *scored], case.k)
        expected.append(padded(scored + [item for item in rest if item >= 0], case.k))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "_CELLS", cells)
        found_II = item_similarities(binary_matrix(csr(case.seen), case.items), case.neighbours)
        lists = neighbour_lists(
            case.counts, csr(case.seen), csr(case.hidden), np.array(case.users, int), case.k, case.neighbours
        )
    assert found_II.toarray() == pytest.approx(similar_II, abs=1e-15)
    assert lists.dtype == np.int32
    assert lists.tolist() == expected


def test_neighbours_of_a_small_example() -> None:
    seen = csr([[0, 1], [0, 1], [0, 2], [3]])
    counts = np.array([3, 2, 1, 1])
    similar = item_similarities(binary_matrix(seen, 4)).toarray()
    assert similar[0] == pytest.approx([0, 2 / math.sqrt(6), 1 / math.sqrt(3), 0])
    lists = neighbour_lists(counts, seen, seen, np.array([0, 2, 3]), 3)
    assert lists.tolist() == [[2, 3, -1], [1, 3, -1], [0, 1, 2]]  # user 3 has no neighbour: popular items


def test_an_item_keeps_its_nearest_neighbours_and_ties_are_ordered_by_item() -> None:
    seen = csr([[0, 3], [0, 1], [0, 2], [0, 4, 1]])
    similar = item_similarities(binary_matrix(seen, 5), neighbours=2)
    assert similar[0].indices.tolist() == [1, 2]  # 1 has two users in common with 0; 2, 3 and 4 are equal
    assert np.diff(similar.indptr).tolist() == [2, 2, 1, 1, 2]


def test_a_user_who_has_every_item_has_an_empty_list() -> None:
    everything = csr([[2, 0, 1], [1]])
    users = np.array([0, 1])
    assert popularity_lists(np.array([1, 2, 1]), everything, users, 2).tolist() == [[-1, -1], [0, 2]]
    assert neighbour_lists(np.array([1, 2, 1]), everything, everything, users, 2).tolist() == [[-1, -1], [0, 2]]


def test_k_above_the_catalogue_leaves_empty_places() -> None:
    seen, nothing = csr([[0], [0, 1]]), csr([[], []])
    assert popularity_lists(np.array([2, 1]), nothing, np.array([0]), 5).tolist() == [[0, 1, -1, -1, -1]]
    assert neighbour_lists(np.array([2, 1]), seen, nothing, np.array([0]), 5).tolist() == [[1, 0, -1, -1, -1]]


def test_inputs_are_not_changed() -> None:
    seen = csr([[2, 0, 2], [1, 0]])
    starts, items = seen[0].copy(), seen[1].copy()
    neighbour_lists(np.array([2, 1, 2]), seen, seen, np.array([1, 0]), 2)
    assert (seen[0] == starts).all() and (seen[1] == items).all()


def test_best_entries_of_many_columns_agree_with_a_full_sort() -> None:
    rng = np.random.default_rng(4)
    dense = rng.integers(0, 5, (30, 200)).astype(float)  # many ties
    matrix = binary_matrix(csr([np.flatnonzero(row).tolist() for row in dense]), 200)
    matrix.data = dense[dense > 0]
    columns, values = best_of_rows(matrix, 7)
    expected = np.argsort(-dense, axis=1, kind="stable")[:, :7]
    assert (columns == expected).all()
    assert (values == np.take_along_axis(dense, expected, axis=1)).all()
