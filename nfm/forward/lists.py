"""The best K items of each user.

Pairs are scored in tiles of users and items, and each user's best items are kept while the tiles pass: no array has the
size of users × items. Items are ordered by score (descending), then by index (ascending).

With a limit, a list takes the items in this order, except those with a value of which it already contains the maximum.
Each pass over the items keeps the best ones that follow the last item considered and that can still be taken. The first
of them always is, so a list of K items takes at most K passes; nearly all need one or two.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nfm.forward.rows import TILE, Work, process_in_steps
from nfm.forward.sides import Side
from nfm.kernels.topk import (
    Best,
    Chosen,
    Excluded,
    Limit,
    Lists,
    choose_nothing,
    empty_best,
    empty_lists,
    extend_lists,
    merge_tile,
    sort_best,
)

__all__ = ["Limit", "Lists", "Seen", "TileSize", "top_lists"]

State = TypeVar("State", Chosen, Lists)

_KEPT_FOR_LIMIT = 4  # times K: items kept in a pass, because a limit skips some of them
_NO_LIMIT = Limit(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))


class Block(Protocol):
    """Scores pairs of some users, for one thread."""

    def score(self, start: int, stop: int, out_UT: NDArray[np.float32], /) -> None:
        """Write the scores of all users and the items from start up to stop."""
        ...


class Scorer(Protocol):
    """Scores pairs of users and items: `pairs.PairScorer`, or an order of the items that is the same for all users."""

    @property
    def is_product(self) -> bool:
        """True if a score costs no more than a dot product."""
        ...

    @property
    def count(self) -> int:
        """Number of items."""
        ...

    def prepare(self, users: Side, /) -> Block:
        """Return an object that scores pairs of these users, for one thread."""
        ...


class Seen(NamedTuple):
    """Items that are left out of users' lists: user u's from splits_U1[u] up to splits_U1[u + 1], ascending."""

    splits_U1: NDArray[np.int64]
    items: NDArray[np.int32]


class TileSize(NamedTuple):
    """Number of users and items whose scores are in memory at once, in each thread. Lists do not depend on it."""

    users: int
    items: int


# Fastest sizes on a core with 2 MB of second-level cache. Threads share the users, in steps of a tile's users.
_PRODUCTS, _HIDDEN_PAIRS = TileSize(192, 2 * TILE), TileSize(48, 2 * TILE)


def top_lists(
    scorer: Scorer,
    users: Side,
    count: int,
    seen: Seen | None = None,
    allowed_I: NDArray[np.bool_] | None = None,
    limit: Limit | None = None,
    threads: int = 1,
    tile: TileSize | None = None,
) -> Lists:
    """Return each user's best items; equal for every tile size and number of threads, bit for bit.

    Args:
        scorer: the model and the items.
        users: sums of U users.
        count: maximum length of a list, K.
        seen: items to leave out for each user.
        allowed_I: items that may be in lists; None: all.
        limit: maximum number of items with a value, in a list.
        threads: number of threads.
        tile: size of the tiles; None: chosen for the model.
    """
    rows = len(users.linear_B)
    seen = seen or Seen(np.zeros(rows + 1, np.int64), np.empty(0, np.int32))
    _check(scorer.count, rows, count, seen, allowed_I, limit)
    tile = tile or (_PRODUCTS if scorer.is_product else _HIDDEN_PAIRS)
    allowed_I = np.empty(0, np.bool_) if allowed_I is None else allowed_I
    lists = empty_lists(rows, count)

    def make() -> Work:
        maker = _Maker(scorer, limit or _NO_LIMIT, allowed_I, seen, tile.items)

        def work(start: int, stop: int) -> None:
            own = _take(lists, slice(start, stop))
            maker.fill(users.select(slice(start, stop)), np.arange(start, stop), own)

        return work

    process_in_steps(rows, max(1, min(tile.users, -(-rows // threads))), threads, make)
    return lists


class _Maker(NamedTuple):
    """Makes the lists of some users at a time."""

    scorer: Scorer
    limit: Limit
    allowed_I: NDArray[np.bool_]
    seen: Seen
    step: int  # items of a tile

    def fill(self, users: Side, numbers: NDArray[np.int64], lists: Lists) -> None:
        """Fill the lists of users, who have these numbers in `seen`."""
        count, limited = lists.items_UK.shape[1], len(self.limit.most_V) > 0
        most = min(count * _KEPT_FOR_LIMIT if limited else count, self.scorer.count)
        chosen, unfinished = choose_nothing(len(numbers), len(self.limit.most_V)), np.arange(len(numbers))
        while len(unfinished):
            some_chosen, some_lists = _take(chosen, unfinished), _take(lists, unfinished)
            best = self._find_best(users.select(unfinished), numbers[unfinished], most, some_chosen)
            extend_lists(best, self.limit, some_chosen, some_lists)
            some_lists.not_finite_U[:] = best.not_finite_U
            _put(some_chosen, chosen, unfinished)
            _put(some_lists, lists, unfinished)
            # If fewer were kept than possible, or all could be kept, none are left.
            more_U = (best.filled_U == most) & (most < self.scorer.count)
            unfinished = unfinished[(some_lists.filled_U < count) & more_U]

    def _find_best(self, users: Side, numbers: NDArray[np.int64], most: int, chosen: Chosen) -> Best:
        """Return each user's best items, sorted, that can be added to the list."""
        best, block = empty_best(len(numbers), most), self.scorer.prepare(users)
        splits_U1, items = self.seen
        excluded = Excluded(splits_U1[numbers], splits_U1[numbers + 1], items, self.allowed_I)
        buffer = np.empty(len(numbers) * min(self.step, self.scorer.count), np.float32)
        for start in range(0, self.scorer.count, self.step):
            stop = min(start + self.step, self.scorer.count)
            scores_UT = buffer[: len(numbers) * (stop - start)].reshape(len(numbers), stop - start)
            block.score(start, stop, scores_UT)
            merge_tile(scores_UT, start, best, excluded, self.limit, chosen)
        sort_best(best)
        return best


def _take(state: State, users: slice | NDArray[np.int64]) -> State:
    """Return the state of some users: a view if they are a slice."""
    arrays: Any = [array[users] for array in state]
    return type(state)(*arrays)


def _put(some: State, state: State, users: NDArray[np.int64]) -> None:
    """Replace the state of some users."""
    pairs: Any = zip(some, state, strict=True)
    for changed, array in pairs:
        array[users] = changed


def _check(
    items: int, users: int, count: int, seen: Seen, allowed_I: NDArray[np.bool_] | None, limit: Limit | None
) -> None:
    """Raise ValueError for arguments with which the loops would read beyond an array or miss a seen item."""
    if count < 1:
        raise ValueError(f"a list has at least one place, not {count}")
    _check_splits("seen", seen.splits_U1, users, len(seen.items))
    inside = np.ones(max(0, len(seen.items) - 1), np.bool_)
    starts = seen.splits_U1[(seen.splits_U1 > 0) & (seen.splits_U1 < len(seen.items))]
    inside[starts - 1] = False
    if (inside & (np.diff(seen.items) < 0)).any():
        raise ValueError("the seen items of each user must be ascending")
    if allowed_I is not None and len(allowed_I) != items:
        raise ValueError(f"there are {items} items, but allowed_I has {len(allowed_I)} entries")
    if limit is not None:
        _check_splits("limit", limit.splits_I1, items, len(limit.values))
        if len(limit.values) and not 0 <= limit.values.min() <= limit.values.max() < len(limit.most_V):
            raise ValueError(f"the limit has maxima for {len(limit.most_V)} values, but items have other values")


def _check_splits(name: str, splits: NDArray[np.int64], rows: int, total: int) -> None:
    if len(splits) != rows + 1 or splits[0] != 0 or splits[-1] != total or (np.diff(splits) < 0).any():
        raise ValueError(f"the splits of {name} must be {rows + 1} ascending numbers from 0 to {total}")
