"""Compiled loops that keep each user's best M items while tiles of scores pass, and choose lists from them.

Items are ordered by score (descending), then by index (ascending). They must be merged in ascending order: an item
with the score of the worst one kept is then always behind it. The kept items of a user are a binary heap with the worst
one at the root, until `sort_best` sorts them.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from nfm.kernels.compile import compile_now
from nfm.kernels.pooling import read_only_array

EMPTY = -1  # item of a place that is not filled
_BLOCK = np.uint64(64)  # scores that are compared at once with the worst one kept
_LARGEST = np.float32(np.finfo(np.float32).max)
_0, _1, _2 = np.uint64(0), np.uint64(1), np.uint64(2)


class Best(NamedTuple):
    """Running best M items of U users."""

    scores_UM: NDArray[np.float32]
    items_UM: NDArray[np.int32]
    filled_U: NDArray[np.int64]
    not_finite_U: NDArray[np.int64]  # scores that are not finite; such items are never kept


class Excluded(NamedTuple):
    """Items that are never kept: those that a user has seen, and those that are not allowed."""

    places_U: NDArray[np.int64]  # next place in `items`; advances as tiles pass
    stops_U: NDArray[np.int64]  # end of each user's items
    items: NDArray[np.int32]  # ascending for each user
    allowed_I: NDArray[np.bool_]  # empty: all are allowed


class Limit(NamedTuple):
    """Maximum number of items in a list for each of V values of attributes; an item may have several values."""

    splits_I1: NDArray[np.int64]  # item i has the values from splits_I1[i] up to splits_I1[i + 1]
    values: NDArray[np.int32]
    most_V: NDArray[np.int32]


class Lists(NamedTuple):
    """Lists of U users, best item first."""

    items_UK: NDArray[np.int32]  # EMPTY where a list is shorter
    scores_UK: NDArray[np.float32]  # minus infinity where a list is shorter
    filled_U: NDArray[np.int64]
    not_finite_U: NDArray[np.int64]  # scores that are not finite; such items are in no list


class Chosen(NamedTuple):
    """State of lists that a limit applies to: what they contain, and the last item considered."""

    counts_UV: NDArray[np.int32]  # chosen items with each value
    scores_U: NDArray[np.float32]  # score of the last item considered; infinity before the first one
    items_U: NDArray[np.int32]


def empty_best(users: int, most: int) -> Best:
    """Return the state before the first tile."""
    return Best(
        np.full((users, most), -np.inf, np.float32),
        np.full((users, most), EMPTY, np.int32),
        np.zeros(users, np.int64),
        np.zeros(users, np.int64),
    )


def choose_nothing(users: int, values: int) -> Chosen:
    """Return the state of empty lists."""
    return Chosen(np.zeros((users, values), np.int32), np.full(users, np.inf, np.float32), np.zeros(users, np.int32))


def empty_lists(users: int, count: int) -> Lists:
    """Return empty lists of up to `count` items."""
    best = empty_best(users, count)
    return Lists(best.items_UM, best.scores_UM, best.filled_U, best.not_finite_U)


@njit(inline="always")
def _is_worse(score: Any, item: Any, other_score: Any, other_item: Any) -> Any:
    return score < other_score or (score == other_score and item > other_item)


def merge_tile(
    scores_UT: NDArray[np.float32], first: int, best: Best, excluded: Excluded, limit: Limit, chosen: Chosen
) -> None:
    """Merge the scores of U users and the T items from `first` on. Releases the GIL.

    Items are left out that are excluded, that come before the last item considered, or that have a value of which the
    list contains the maximum.

    Args:
        scores_UT: C-contiguous.
        first: index of the first item.
        best: changed in place.
        excluded: its places advance.
        limit: maxima; without values, there is no limit.
        chosen: from `choose_nothing` or `extend_lists`.
    """
    _compiled_merge()(scores_UT, first, tuple(best), tuple(excluded), tuple(limit), tuple(chosen))


def sort_best(best: Best) -> None:
    """Sort the kept items of each user, best first. Releases the GIL."""
    _compiled_sort()(tuple(best))


def extend_lists(best: Best, limit: Limit, chosen: Chosen, lists: Lists) -> None:
    """Append sorted items to each list, in order and as the limit allows, until it is full. Releases the GIL.

    Args:
        best: after `sort_best`.
        limit: maxima.
        chosen: changed in place.
        lists: changed in place.
    """
    _compiled_extend()(tuple(best), tuple(limit), tuple(chosen), tuple(lists))


def _writable(dtype: Any, dimensions: int) -> Any:
    return types.Array(dtype, dimensions, "C")


def _tuple(*arrays: Any) -> Any:
    return types.Tuple(arrays)


# Loops are called with plain tuples, as in `pooling`.
_INTS = _writable(types.int64, 1)
_LISTS = _tuple(_writable(types.int32, 2), _writable(types.float32, 2), _INTS, _INTS)
_BEST = _tuple(_writable(types.float32, 2), _writable(types.int32, 2), _INTS, _INTS)
_EXCLUDED = _tuple(_INTS, *(read_only_array(dtype, 1) for dtype in (types.int64, types.int32, types.boolean)))
_LIMIT = _tuple(*(read_only_array(dtype, 1) for dtype in (types.int64, types.int32, types.int32)))
_CHOSEN = _tuple(_writable(types.int32, 2), _writable(types.float32, 1), _writable(types.int32, 1))


@cache
def _compiled_merge() -> Any:
    scores = _writable(types.float32, 2)
    return compile_now(types.void(scores, types.int64, _BEST, _EXCLUDED, _LIMIT, _CHOSEN), _merge_tile)


@cache
def _compiled_sort() -> Any:
    return compile_now(types.void(_BEST), _sort_best)


@cache
def _compiled_extend() -> Any:
    return compile_now(types.void(_BEST, _LIMIT, _CHOSEN, _LISTS), _extend_lists)


def _merge_tile(scores_UT: Any, first: Any, best: Any, excluded: Any, limit: Any, chosen: Any) -> None:
    best_scores_UM, best_items_UM, filled_U, not_finite_U = best
    places_U, stops_U, excluded_items, allowed_I = excluded
    splits_I1, values, most_V = limit
    counts_UV, last_scores_U, last_items_U = chosen
    width, most = np.uint64(scores_UT.shape[1]), np.uint64(best_scores_UM.shape[1])
    for u in range(np.uint64(len(filled_U))):
        filled, place, stop = np.uint64(filled_U[u]), places_U[u], stops_U[u]
        for begin in range(_0, width, _BLOCK):
            end = min(begin + _BLOCK, width)
            if filled == most and not _has_better(scores_UT, u, begin, end, best_scores_UM[u, _0]):
                continue
            for t in range(begin, end):
                score, item = scores_UT[u, t], first + np.int64(t)
                if filled == most and -_LARGEST <= score <= best_scores_UM[u, _0]:
                    continue
                while place < stop and excluded_items[place] < item:
                    place += 1
                is_seen = place < stop and excluded_items[place] == item
                if is_seen or (len(allowed_I) > 0 and not allowed_I[item]):
                    continue
                if not -_LARGEST <= score <= _LARGEST:
                    not_finite_U[u] += 1
                    continue
                if not _is_worse(score, item, last_scores_U[u], last_items_U[u]):
                    continue
                if len(most_V) and _is_blocked(splits_I1, values, most_V, counts_UV, u, item):
                    continue
                if filled < most:
                    _rise(best_scores_UM, best_items_UM, u, filled, score, item)
                    filled += _1
                else:
                    _sink(best_scores_UM, best_items_UM, u, filled, score, item)
        filled_U[u], places_U[u] = filled, place


def _sort_best(best: Any) -> None:
    scores_UM, items_UM, filled_U, _ = best
    for u in range(np.uint64(len(filled_U))):
        size = np.uint64(filled_U[u])
        while size > _1:
            size -= _1
            score, item = scores_UM[u, size], items_UM[u, size]
            scores_UM[u, size], items_UM[u, size] = scores_UM[u, _0], items_UM[u, _0]
            _sink(scores_UM, items_UM, u, size, score, item)


def _extend_lists(best: Any, limit: Any, chosen: Any, lists: Any) -> None:
    scores_UM, items_UM, filled_U, _ = best
    splits_I1, values, most_V = limit
    counts_UV, last_scores_U, last_items_U = chosen
    list_items_UK, list_scores_UK, lengths_U, _ = lists
    for u in range(len(filled_U)):
        length = lengths_U[u]
        for m in range(filled_U[u]):
            if length == list_items_UK.shape[1]:
                break
            score, item = scores_UM[u, m], items_UM[u, m]
            last_scores_U[u], last_items_U[u] = score, item
            if len(most_V) and _is_blocked(splits_I1, values, most_V, counts_UV, u, item):
                continue
            if len(most_V):
                _count_values(splits_I1, values, counts_UV, u, item)
            list_items_UK[u, length], list_scores_UK[u, length] = item, score
            length += 1
        lengths_U[u] = length


@njit(inline="always")
def _has_better(scores_UT: Any, u: Any, begin: Any, end: Any, worst: Any) -> Any:
    """Return True if one of the scores is above `worst` or not finite."""
    found = np.int32(0)  # as wide as the scores, so that a register has as many
    for t in range(begin, end):
        score = scores_UT[u, t]
        found |= np.int32(not ((score >= -_LARGEST) & (score <= worst)))
    return found != 0


@njit(inline="always")
def _is_blocked(splits_I1: Any, values: Any, most_V: Any, counts_UV: Any, u: Any, item: Any) -> Any:
    found = 0
    for p in range(splits_I1[item], splits_I1[item + 1]):
        found += counts_UV[u, values[p]] >= most_V[values[p]]
    return found > 0


@njit(inline="always")
def _count_values(splits_I1: Any, values: Any, counts_UV: Any, u: Any, item: Any) -> None:
    """Count each of the item's values once, even if the item has it several times."""
    for p in range(splits_I1[item], splits_I1[item + 1]):
        repeated = 0
        for other in range(splits_I1[item], p):
            repeated += values[other] == values[p]
        if not repeated:
            counts_UV[u, values[p]] += 1


@njit(inline="always")
def _rise(scores_UM: Any, items_UM: Any, u: Any, place: Any, score: Any, item: Any) -> None:
    """Add an item at the end of the heap, `place`, and move it up."""
    while place:
        parent = (place - _1) // _2
        if not _is_worse(score, item, scores_UM[u, parent], items_UM[u, parent]):
            break
        scores_UM[u, place], items_UM[u, place] = scores_UM[u, parent], items_UM[u, parent]
        place = parent
    scores_UM[u, place], items_UM[u, place] = score, item


@njit(inline="always")
def _sink(scores_UM: Any, items_UM: Any, u: Any, size: Any, score: Any, item: Any) -> None:
    """Replace the root of a heap of this size, and move the item down."""
    place = _0
    while True:
        child = _2 * place + _1
        if child >= size:
            break
        right = child + _1
        if right < size and _is_worse(scores_UM[u, right], items_UM[u, right], scores_UM[u, child], items_UM[u, child]):
            child = right
        if not _is_worse(scores_UM[u, child], items_UM[u, child], score, item):
            break
        scores_UM[u, place], items_UM[u, place] = scores_UM[u, child], items_UM[u, child]
        place = child
    scores_UM[u, place], items_UM[u, place] = score, item
