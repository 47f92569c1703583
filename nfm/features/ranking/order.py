"""Order the interactions of each user: their places, folds and histories. Does not need Spark."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy
from nfm.contract.dataset import FOLD, HISTORY, HISTORY_WEIGHTS, SEQUENCE
from nfm.contract.schema import FOLDS
from nfm.contract.values import decode_dictionary, encode_dictionary
from nfm.kernels.histories import find_histories
from nfm.table.jobs.interactions import ITEM, TIME, USER, Order

_PIECE = 1 << 20  # interactions, about, that are ordered together


def order_users(batches: Iterable[pa.RecordBatch], order: Order) -> Iterator[pa.RecordBatch]:
    """Yield interactions with the columns of `Order.added`, without TIME.

    `batches` are sorted by USER, then TIME, then item; all rows of a user are in adjacent batches.
    """
    waiting, count = list[pa.RecordBatch](), 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= _PIECE:
            rows = pa.Table.from_batches(waiting).combine_chunks()
            users = encode_dictionary(rows[USER].combine_chunks())
            last = int(np.argmax(to_numpy(users.indices) == users.indices[-1].as_py()))
            waiting, count = rows.slice(last).to_batches(), len(rows) - last
            if last:
                yield from _order(rows.slice(0, last), order)
    if count:
        yield from _order(pa.Table.from_batches(waiting), order)


def _order(rows: pa.Table, order: Order) -> Iterator[pa.RecordBatch]:
    rows = rows.combine_chunks()
    users, items = (to_numpy(encode_dictionary(rows[name].combine_chunks()).indices) for name in (USER, ITEM))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(users)) + 1, [len(rows)]]).astype(np.int64)
    sizes = np.diff(starts)
    place = np.arange(len(rows)) - np.repeat(starts[:-1], sizes)
    added = {SEQUENCE: to_arrow(place)}
    if order.last is not None:
        folds = assign_last(np.repeat(sizes, sizes), place, order.last)
        added[FOLD] = pa.DictionaryArray.from_arrays(to_arrow(folds), pa.array(FOLDS)).cast(pa.string())
    if order.history is not None:
        times = to_numpy(rows[TIME].combine_chunks())
        places, splits = find_histories(starts, times, items, order.history, order.same_time)
        age = np.arange(len(places)) - np.repeat(splits[:-1], np.diff(splits))
        weights = (order.decay**age).astype(np.float32)
        raw = decode_dictionary(rows[order.item].combine_chunks())
        offsets = to_arrow(splits)
        added[HISTORY] = pa.ListArray.from_arrays(offsets, raw.take(to_arrow(places)))
        added[HISTORY_WEIGHTS] = pa.ListArray.from_arrays(offsets, to_arrow(weights))
    rows = rows.drop_columns([TIME])
    for name, values in added.items():
        rows = rows.append_column(name, values)
    yield from rows.to_batches(max_chunksize=1 << 16)


def assign_last(size: NDArray[np.int64], place: NDArray[np.int64], last: int) -> NDArray[np.int8]:
    """Return (N,) folds as indices in FOLDS, from the number of interactions of the user and the place among them.

    The last ones are the test fold, as many before them the valid fold. A fold gets none if the user would have no
    interaction left for the train fold.
    """
    from_end = size - 1 - place
    test = (from_end < last) & (size > last)
    valid = (from_end >= last) & (from_end < 2 * last) & (size > 2 * last)
    return np.select([test, valid], [np.int8(2), np.int8(1)], np.int8(0))
