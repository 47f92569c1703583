"""Negatives of the ranking: items that a user does not have in the train fold."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.kernels import sampling
from nfm.kernels.sampling import AliasTable, Stream

_DRAWS_OF_A_THREAD = 2048  # fewer take less time than to start them in another thread
_ITEM_BITS = 32


class Seen(NamedTuple):
    """Items that each of U users has in the train fold."""

    starts: NDArray[np.int64]  # (U + 1,) user u has the items from starts[u] up to starts[u + 1]
    items: NDArray[np.int32]  # ascending for each user, each once


def make_seen(users_N: NDArray[Any], items_N: NDArray[Any], users: int) -> Seen:
    """List the items of each user.

    Args:
        users_N: user of each pair, in any order.
        items_N: item of each pair; a pair may occur several times.
        users: number of users, U.

    Raises:
        ValueError: a user is not in [0, U), or an item is not in [0, 2³¹).
    """
    if len(users_N) != len(items_N):
        raise ValueError(f"{len(users_N)} users and {len(items_N)} items are not pairs")
    _check_range("user", users_N, users)
    _check_range("item", items_N, 1 << 31)
    keys = users_N.astype(np.int64)
    keys <<= _ITEM_BITS
    keys |= items_N.astype(np.int64)
    keys.sort()  # np.unique makes a hash table, which takes several times longer
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]
    starts = np.zeros(users + 1, np.int64)
    np.cumsum(np.bincount(keys >> _ITEM_BITS, minlength=users), out=starts[1:])
    return Seen(starts, keys.astype(np.int32))  # the low 32 bits


class Sampler:
    """Draw negatives, in several threads.

    A draw depends on the seed, the epoch, the place of its row in the epoch and the number of the negative. It does not
    depend on the number of threads, nor, except for draws from the batch, on how the epoch is divided into batches.
    Draws are independent: the negatives of a row may be equal.
    """

    def __init__(
        self, seen: Seen, items: int, seed: int, weights_I: NDArray[Any] | None = None, threads: int | None = None
    ) -> None:
        """Build the alias table and start the threads.

        Args:
            seen: items that each user has, which are never drawn for this user.
            items: number of items, I.
            seed: seed of all draws.
            weights_I: weights in proportion to which `draw` chooses; an item with weight 0 is never drawn.
                None: equal weights.
            threads: number of threads that share the work; by default one for each core.

        Raises:
            ValueError: `seen` has an item that is not in [0, I), or the weights are not I finite numbers from 0 on.
        """
        _check_range("item", seen.items, items)
        self.seen, self.items, self._seed = seen, items, np.uint64(seed % (1 << 64))
        self._table = None if weights_I is None else make_alias_table(weights_I, items)
        self._threads = threads or pa.cpu_count()
        self._executor = ThreadPoolExecutor(self._threads)

    def draw(self, users_B: NDArray[Any], epoch: int, first: int, count: int) -> NDArray[np.int32]:
        """Draw items that the user of each row lacks, in proportion to the weights; (B, count).

        A row has −1 if the user lacks no item, or none with a weight.

        Args:
            users_B: user of each row.
            epoch: number of the epoch.
            first: place of the first row in the epoch.
            count: number of negatives for each row.
        """
        if self._table is None:
            return self._share(sampling.draw_uniform, users_B, (epoch, first), self.items, count)
        return self._share(sampling.draw_weighted, users_B, (epoch, first), self._table, count)

    def draw_from_batch(
        self, users_B: NDArray[Any], items_B: NDArray[Any], epoch: int, first: int, count: int
    ) -> NDArray[np.int32]:
        """Draw items of other rows that the user of each row lacks, with equal probability for each row; (B, count).

        A row has −1 if the user has the items of all other rows.

        Args:
            users_B: user of each row.
            items_B: item of each row.
            epoch: number of the epoch.
            first: place of the first row in the epoch.
            count: number of negatives for each row.
        """
        if len(users_B) != len(items_B):
            raise ValueError(f"{len(users_B)} users and {len(items_B)} items are not rows of one batch")
        _check_range("item", items_B, self.items)
        items = np.ascontiguousarray(items_B, np.int32)
        return self._share(sampling.draw_from_batch, users_B, (epoch, first), items, count)

    def _share(
        self, loop: Callable[..., object], users_B: NDArray[Any], place: tuple[int, int], source: Any, count: int
    ) -> NDArray[np.int32]:
        """Divide the rows among the threads; the first range is drawn in this thread."""
        _check_range("user", users_B, len(self.seen.starts) - 1)
        stream = Stream(self._seed, np.uint64(place[0]), np.uint64(place[1]))
        out_BN = np.full((len(users_B), count), -1, np.int32)
        arguments = (tuple(self.seen), stream, np.ascontiguousarray(users_B, np.int32), source, out_BN)
        shares = min(self._threads, out_BN.size // _DRAWS_OF_A_THREAD + 1)
        bounds = np.linspace(0, len(users_B), shares + 1).astype(int)
        first, *others = pairwise(bounds.tolist())
        futures = [self._executor.submit(loop, *limits, *arguments) for limits in others]
        loop(*first, *arguments)
        for future in futures:
            future.result()
        return out_BN


def make_alias_table(weights_I: NDArray[Any], items: int) -> AliasTable:
    """Make the table that draws items in proportion to their weights.

    Args:
        weights_I: weights of the items.
        items: number of items, I.

    Raises:
        ValueError: the weights are not I finite numbers from 0 on.
    """
    weights = np.ascontiguousarray(weights_I, np.float64)
    if weights.shape != (items,):
        raise ValueError(f"the weights of {items} items have the shape {weights.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        is_valid = bool(np.isfinite(weights).all() and np.isfinite(weights.sum()) and (weights >= 0).all())
    if not is_valid:
        raise ValueError("the weights of items, and their sum, must be finite and not negative")
    attempts = sampling.ATTEMPTS if weights.any() else 0
    table = AliasTable(np.zeros(items, np.uint64), np.zeros(items, np.int32), weights, attempts)
    if attempts:
        sampling.fill_alias_table(weights, table.thresholds_I, table.aliases_I)
    return table


def _check_range(name: str, numbers_N: NDArray[Any], stop: int) -> None:
    """Check that numbers are in [0, stop): the compiled loops use them as places in arrays."""
    if numbers_N.size and not 0 <= numbers_N.min() <= numbers_N.max() < stop:
        raise ValueError(f"{name}s must be in [0, {stop}); found {numbers_N.min()} to {numbers_N.max()}")
