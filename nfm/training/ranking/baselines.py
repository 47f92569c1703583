"""Baselines of the ranking task: popular items, and neighbours of the user's items.

Items of users are given as CSR: those of user u are items[starts[u]:starts[u + 1]], in any order; repeated items count
once. The numbers of the users are the rows of these structures. Lists are int32, (users, k), −1 in empty places.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nfm.training.ranking.metrics import is_in, pair_keys, row_numbers

ItemsOfUsers = tuple[NDArray[np.int64], NDArray[np.int32]]  # starts and items
Integers = NDArray[np.integer]
Matrix = Any  # scipy has no type information

NEIGHBOURS = 100
_CELLS = 4_000_000  # products in a block of a sparse matrix product: at most 64 MB
_DECIMALS = 10  # of scores: a tie does not depend on the order in which similarities are added


def popularity_lists(counts_I: Integers, hidden: ItemsOfUsers, users_U: Integers, k: int) -> NDArray[np.int32]:
    """Return the items with the most train interactions for each user, without the user's hidden items.

    Equal counts are ordered by item. Items without interactions come last.
    """
    rows, items = _select(hidden, users_U)
    return _popular(_by_popularity(counts_I), rows, items, len(users_U), k)


def neighbour_lists(
    counts_I: Integers,
    seen: ItemsOfUsers,
    hidden: ItemsOfUsers,
    users_U: Integers,
    k: int,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.int32]:
    """Return the list of each user by item-kNN, without the user's hidden items.

    `seen` are the train items of all users. The similarity of two items is the cosine of their columns of the binary
    matrix users × items. Each item has that many nearest neighbours, itself excluded; equal similarities are ordered by
    item. The score of an item is the sum of its similarities to those items of the user of which it is a neighbour.
    Equal scores are ordered by item. Items with score 0 follow, ordered by popularity.
    """
    seen_UI = binary_matrix(seen, len(counts_I))
    similar_II = item_similarities(seen_UI, neighbours)
    order_I = _by_popularity(counts_I)
    chosen_UI = seen_UI[users_U]
    parts = [np.full((0, k), -1, np.int32)]
    for start, stop in _blocks(_products(chosen_UI, similar_II)):
        scores = (chosen_UI[start:stop] @ similar_II).tocsr()
        scores.data = np.round(scores.data, _DECIMALS)
        rows, items = _select(hidden, users_U[start:stop])
        scores = _without(scores, rows, items)
        lists, _ = best_of_rows(scores, k)
        parts.append(_fill(lists, order_I, rows, items))
    return np.concatenate(parts)


def binary_matrix(seen: ItemsOfUsers, items: int) -> Matrix:
    """Return the sparse matrix users × items with a 1 for each pair."""
    starts, indices = seen
    matrix = sparse.csr_matrix((np.ones(len(indices)), indices, starts), shape=(len(starts) - 1, items), copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def item_similarities(seen_UI: Matrix, neighbours: int = NEIGHBOURS) -> Matrix:
    """Return the sparse matrix items × items with the cosines of each item's nearest neighbours in its row.

    Rows are computed in blocks, so memory is that of the result plus a bounded part.
    """
    degrees_I = np.asarray(seen_UI.sum(axis=0)).ravel()
    columns = seen_UI.T.tocsr()
    parts = [sparse.csr_matrix((0, len(degrees_I)))]
    for start, stop in _blocks(_products(columns, seen_UI)):
        common = (columns[start:stop] @ seen_UI).tocsr()
        rows = row_numbers(common.indptr) + start
        # A single division and a single root of exact integers: equal cosines are equal bits.
        common.data = np.sqrt(common.data**2 / (degrees_I[rows] * degrees_I[common.indices]))
        common.data[rows == common.indices] = 0
        common.eliminate_zeros()
        parts.append(_matrix_of_lists(*best_of_rows(common, min(neighbours, len(degrees_I))), len(degrees_I)))
    return sparse.vstack(parts, format="csr")


def best_of_rows(matrix: Matrix, k: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the columns of the k largest entries of each row, largest first, and the entries, both (rows, k).

    Equal entries are ordered by column. Where a row has fewer entries, columns are −1 and entries 0.
    """
    matrix.sort_indices()
    columns_RK = np.full((matrix.shape[0], k), -1, np.int32)
    values_RK = np.zeros((matrix.shape[0], k))
    for row in range(matrix.shape[0]):
        start, stop = matrix.indptr[row], matrix.indptr[row + 1]
        values, columns = matrix.data[start:stop], matrix.indices[start:stop]
        if len(values) > k:  # sort no more than the entries that reach the k-th
            chosen = np.flatnonzero(values >= np.partition(values, -k)[-k])
            values, columns = values[chosen], columns[chosen]
        best = np.argsort(-values, kind="stable")[:k]
        columns_RK[row, : len(best)] = columns[best]
        values_RK[row, : len(best)] = values[best]
    return columns_RK, values_RK


def _matrix_of_lists(columns_RK: NDArray[np.int32], values_RK: NDArray[np.float64], width: int) -> Matrix:
    filled = columns_RK >= 0
    starts = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])
    return sparse.csr_matrix((values_RK[filled], columns_RK[filled], starts), shape=(len(columns_RK), width))


def _products(left: Matrix, right: Matrix) -> NDArray[np.int64]:
    """Return the number of products of entries for each row of left @ right: a limit of the entries of that row."""
    sizes = np.diff(right.indptr)[left.indices].astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(sizes)])
    return np.asarray(sums[left.indptr[1:]] - sums[left.indptr[:-1]])


def _blocks(costs: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Divide rows into blocks (start, stop) of bounded cost; a block has at least one row."""
    sums, start = np.cumsum(costs + 1), 0
    while start < len(costs):
        before = sums[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(sums, before + _CELLS, side="right")))
        yield start, stop
        start = stop


def _select(items_of_users: ItemsOfUsers, users_U: Integers) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the pairs (place in users_U, item) of these users."""
    starts, items = items_of_users
    lengths_U = starts[users_U + 1] - starts[users_U]
    rows = np.repeat(np.arange(len(users_U)), lengths_U)
    first_U = np.cumsum(lengths_U) - lengths_U
    return rows, items[np.arange(len(rows)) + (starts[users_U] - first_U)[rows]]


def _without(scores: Matrix, rows: Integers, items: Integers) -> Matrix:
    """Return the matrix without these pairs and without zeros."""
    keys = pair_keys(row_numbers(scores.indptr), scores.indices)
    scores.data[is_in(keys, np.sort(pair_keys(rows, items)))] = 0
    scores.eliminate_zeros()
    return scores


def _by_popularity(counts_I: Integers) -> NDArray[np.int32]:
    return np.argsort(-counts_I.astype(np.int64), kind="stable").astype(np.int32)


def _popular(order_I: NDArray[np.int32], rows: Integers, items: Integers, users: int, k: int) -> NDArray[np.int32]:
    """Return the first k items of the order for each user, without the pairs (row, item).

    Let s_0 < s_1 < … be the places of a user's excluded items in the order. The j-th item that remains has the place
    j + (number of m with s_m − m ≤ j), because s_m − m items that remain are before s_m.
    """
    places_I = np.empty(len(order_I), np.int64)
    places_I[order_I] = np.arange(len(order_I))
    keys = np.unique(pair_keys(rows, places_I[items]))
    rows, places = keys >> 32, keys & 0xFFFFFFFF
    sizes_U = np.bincount(rows, minlength=users)
    numbers = np.arange(len(rows)) - (np.cumsum(sizes_U) - sizes_U)[rows]
    before = places - numbers
    early = before < k
    excluded_UK = np.bincount(rows[early] * k + before[early], minlength=users * k).reshape(users, k)
    chosen_UK = np.arange(k) + np.cumsum(excluded_UK, axis=1)
    lists_UK = np.full((users, k), -1, np.int32)
    exists_UK = chosen_UK < len(order_I)
    lists_UK[exists_UK] = order_I[chosen_UK[exists_UK]]
    return lists_UK


def _fill(
    lists_UK: NDArray[np.int32], order_I: NDArray[np.int32], rows: Integers, items: Integers
) -> NDArray[np.int32]:
    """Put popular items in the empty places of the lists, without the pairs (row, item) and those in the lists."""
    users, k = lists_UK.shape
    listed = np.nonzero(lists_UK >= 0)
    rows, items = np.concatenate([rows, listed[0]]), np.concatenate([items, lists_UK[listed]])
    popular_UK = _popular(order_I, rows, items, users, k)
    empty_UK = lists_UK < 0
    numbers_UK = np.cumsum(empty_UK, axis=1) - 1
    lists_UK[empty_UK] = np.take_along_axis(popular_UK, np.maximum(numbers_UK, 0), axis=1)[empty_UK]
    return lists_UK
