"""Compiled loops that draw negatives: items that a user does not have.

A draw is a function of (seed, epoch, place of the row, number of the negative, attempt) alone: these numbers are hashed
with the finalizer of splitmix64 (Steele, Lea & Flood 2014). Threads may share the rows in any way.

Each loop is exact up to the 64 bits of a hash. Uniform draws take the r-th item that the user lacks. Weighted draws and
draws from a batch reject items that the user has. After `ATTEMPTS` rejections they use an inverse transform over what
is left, at the cost of the catalogue's or the batch's size.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import compile_when_called

ATTEMPTS = 256  # enough for a user who has 95 % of the weight: 0.95²⁵⁶ = 2 · 10⁻⁶
_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_LOW_BITS = np.uint64(0xFFFFFFFF)
_1, _11, _27, _30, _31, _32 = (np.uint64(n) for n in (1, 11, 27, 30, 31, 32))
_2_POWER_64, _2_POWER_MINUS_53 = 2.0**64, 2.0**-53


class Stream(NamedTuple):
    """Numbers that determine the draws of a batch, with those of the row, the negative and the attempt."""

    seed: np.uint64
    epoch: np.uint64
    first: np.uint64  # place of the batch's first row in the epoch


class AliasTable(NamedTuple):
    """Table that draws one of I items in constant time (Walker 1977).

    Item i is drawn if a 64-bit fraction is below its threshold, else its alias.
    """

    thresholds_I: NDArray[np.uint64]
    aliases_I: NDArray[np.int32]
    weights_I: NDArray[np.float64]  # for the inverse transform
    attempts: int  # `ATTEMPTS`; 0 if no item has a weight


@compile_when_called
def fill_alias_table(weights_I: Any, thresholds_I: Any, aliases_I: Any) -> None:
    """Fill an alias table in linear time (Vose 1991).

    Args:
        weights_I: float64, not negative, with a positive and finite sum.
        thresholds_I: uint64, receives the thresholds.
        aliases_I: int32, receives the aliases.
    """
    count, total, heaviest = len(weights_I), 0.0, 0
    for i in range(count):
        total += weights_I[i]
        if weights_I[i] > weights_I[heaviest]:
            heaviest = i
    # Items below the mean are listed from the left, the others from the right.
    share_I, listed_I = np.empty(count), np.empty(count, np.int32)
    small, large = 0, count
    for i in range(count):
        share_I[i] = weights_I[i] / total * count
        if share_I[i] < 1:
            listed_I[small] = i
            small += 1
        else:
            large -= 1
            listed_I[large] = i
    while small > 0 and large < count:
        low, high = listed_I[small - 1], listed_I[large]
        thresholds_I[low], aliases_I[low] = np.uint64(share_I[low] * _2_POWER_64), high
        share_I[high] -= 1 - share_I[low]
        small -= 1
        if share_I[high] < 1:
            large += 1
            listed_I[small] = high
            small += 1
    # The shares of all others are 1 except for rounding errors. An item without weight is never drawn.
    for place in range(count):
        if place < small or place >= large:
            i = listed_I[place]
            thresholds_I[i], aliases_I[i] = 0, i if weights_I[i] > 0 else heaviest


@compile_when_called
def draw_uniform(start: Any, stop: Any, seen: Any, stream: Any, users_B: Any, items: Any, out_BN: Any) -> None:
    """Draw from the items that the user lacks, each with the same probability, for the rows from start up to stop.

    Args:
        start: first row.
        stop: row after the last one.
        seen: int64 (U + 1,) starts and int32 items of each user, ascending.
        stream: `Stream`.
        users_B: int32 user of each row.
        items: number of items.
        out_BN: int32, filled with −1; receives the items.
    """
    starts, seen_items = seen
    for b in range(start, stop):
        begin, end = starts[users_B[b]], starts[users_B[b] + 1]
        unseen = items - (end - begin)
        if unseen <= 0:
            continue
        row_key = _hash_row(stream, b)
        for n in range(out_BN.shape[1]):
            rank = _below(_hash(_hash(row_key, n), 0), unseen)
            out_BN[b, n] = _find_unseen(seen_items, begin, end, rank)


@compile_when_called
def draw_weighted(start: Any, stop: Any, seen: Any, stream: Any, users_B: Any, table: Any, out_BN: Any) -> None:
    """Draw from the items that the user lacks, in proportion to their weights, for the rows from start up to stop.

    Args:
        start: first row.
        stop: row after the last one.
        seen: int64 (U + 1,) starts and int32 items of each user, ascending.
        stream: `Stream`.
        users_B: int32 user of each row.
        table: `AliasTable`.
        out_BN: int32, filled with −1; receives the items.
    """
    starts, seen_items = seen
    thresholds_I, aliases_I, weights_I, attempts = table
    items = len(weights_I)
    for b in range(start, stop):
        begin, end = starts[users_B[b]], starts[users_B[b] + 1]
        row_key = _hash_row(stream, b)
        for n in range(out_BN.shape[1]):
            key, drawn = _hash(row_key, n), -1
            for attempt in range(attempts):
                word = _hash(key, attempt)
                item = _below(word, items)
                # The high 64 bits of word · items are the item; the low ones are a fraction that is independent of it.
                if word * np.uint64(items) >= thresholds_I[item]:
                    item = np.int64(aliases_I[item])
                if not _has(seen_items, begin, end, item):
                    drawn = item
                    break
            if drawn < 0:
                fraction = np.float64(_hash(key, attempts) >> _11) * _2_POWER_MINUS_53
                drawn = _invert(weights_I, seen_items, begin, end, fraction)
            if drawn < 0:
                break
            out_BN[b, n] = drawn


@compile_when_called
def draw_from_batch(start: Any, stop: Any, seen: Any, stream: Any, users_B: Any, items_B: Any, out_BN: Any) -> None:
    """Draw from the other rows of the batch whose item the user lacks, each with the same probability.

    Args:
        start: first row.
        stop: row after the last one.
        seen: int64 (U + 1,) starts and int32 items of each user, ascending.
        stream: `Stream`.
        users_B: int32 user of each row.
        items_B: int32 item of each row.
        out_BN: int32, filled with −1; receives the items.
    """
    starts, seen_items = seen
    others = len(items_B) - 1
    for b in range(start, stop):
        begin, end = starts[users_B[b]], starts[users_B[b] + 1]
        row_key = _hash_row(stream, b)
        for n in range(out_BN.shape[1]):
            key, drawn = _hash(row_key, n), -1
            for attempt in range(ATTEMPTS if others else 0):
                other = _below(_hash(key, attempt), others)
                other += other >= b
                if not _has(seen_items, begin, end, items_B[other]):
                    drawn = other
                    break
            if drawn < 0:
                drawn = _choose_row(items_B, b, seen_items[begin:end], _hash(key, ATTEMPTS))
            if drawn < 0:
                break
            out_BN[b, n] = items_B[drawn]


@compile_when_called
def _mix(h: Any) -> Any:
    """Apply the finalizer of splitmix64: each input bit affects each output bit."""
    h = (h ^ (h >> _30)) * _FIRST
    h = (h ^ (h >> _27)) * _SECOND
    return h ^ (h >> _31)


@compile_when_called
def _hash(key: Any, number: Any) -> Any:
    """Return output `number` (from 0 on) of the generator splitmix64 with the state `key`."""
    return _mix(key + _GOLDEN * (np.uint64(number) + _1))


@compile_when_called
def _hash_row(stream: Any, b: Any) -> Any:
    """Return the key of row b of a batch."""
    return _hash(_hash(_mix(stream.seed + _GOLDEN), stream.epoch), stream.first + np.uint64(b))


@compile_when_called
def _below(word: Any, count: Any) -> Any:
    """Return the high 64 bits of word · count, a number below count, which is at most 2³¹.

    Its probabilities differ from 1 / count by less than 2⁻⁶⁴.
    """
    factor = np.uint64(count)
    return np.int64(((word >> _32) * factor + (((word & _LOW_BITS) * factor) >> _32)) >> _32)


@compile_when_called
def _has(seen_items: Any, begin: Any, end: Any, item: Any) -> Any:
    """Return whether the ascending items from begin up to end include an item."""
    stop = end
    while begin < stop:
        middle = (begin + stop) >> 1
        if seen_items[middle] < item:
            begin = middle + 1
        else:
            stop = middle
    return begin < end and seen_items[begin] == item


@compile_when_called
def _find_unseen(seen_items: Any, begin: Any, end: Any, rank: Any) -> Any:
    """Return the item with this rank, from 0 on, among those that are not in the list from begin up to end."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if seen_items[middle] - (middle - begin) <= rank:  # the unseen items below this one
            low = middle + 1
        else:
            high = middle
    return rank + (low - begin)


@compile_when_called
def _invert(weights_I: Any, seen_items: Any, begin: Any, end: Any, fraction: Any) -> Any:
    """Return the unseen item at a fraction of the unseen items' weight; −1 if that weight is 0."""
    total, k = 0.0, begin
    for i in range(len(weights_I)):
        if k < end and seen_items[k] == i:
            k += 1
        else:
            total += weights_I[i]
    target, below, k, last = fraction * total, 0.0, begin, -1
    for i in range(len(weights_I)):
        if k < end and seen_items[k] == i:
            k += 1
        elif weights_I[i] > 0:
            below, last = below + weights_I[i], i
            if below > target:
                break
    return last  # also if rounding errors put the target at the total


@compile_when_called
def _choose_row(items_B: Any, b: Any, seen_items: Any, word: Any) -> Any:
    """Return one of the rows other than b whose item is not in an ascending list; −1 if there is none."""
    unseen = 0
    for other in range(len(items_B)):
        unseen += other != b and not _has(seen_items, 0, len(seen_items), items_B[other])
    if unseen == 0:
        return -1
    rank, chosen = _below(word, unseen), -1
    for other in range(len(items_B)):
        if other != b and not _has(seen_items, 0, len(seen_items), items_B[other]):
            chosen = other
            if rank == 0:
                break
            rank -= 1
    return chosen
