"""Order the interactions of each user: their places, folds and histories. Does not need Spark."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy
from nfm.contract.columns import Rows, read_field_values
from nfm.contract.dataset import FOLD, HISTORY, HISTORY_WEIGHTS, SEQUENCE
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS
from nfm.contract.schema import FOLDS, Kind
from nfm.contract.values import decode_dictionary, encode_dictionary, kind_of
from nfm.features.times import read_times

# Columns that are added to the interactions; those of users have other names.
USER, ITEM, TIME = "_nfm_user", "_nfm_item", "_nfm_time"
_PIECE = 1 << 20  # interactions, about, that are ordered together


@dataclass(frozen=True)
class Order:
    """Columns and settings that decide the order, the fold and the history of an interaction."""

    user: str
    item: str
    kinds: tuple[Kind, Kind]  # of these two columns
    time: str | None
    format: str | None  # of texts in the column of the time
    last: int | None  # `split.last`
    history: int | None  # maximum number of items; None: no history
    decay: float
    same_time: bool

    def added(self, item_type: pa.DataType) -> list[pa.Field]:
        """Return the columns that `order_users` adds."""
        fields = [pa.field(SEQUENCE, pa.int64())]
        if self.last is not None:
            fields.append(pa.field(FOLD, pa.string()))
        if self.history is not None:
            fields += [pa.field(HISTORY, pa.list_(item_type)), pa.field(HISTORY_WEIGHTS, pa.list_(pa.float32()))]
        return fields


def read_key(rows: Rows, column: str, kind: Kind, where: str) -> pa.Array:
    """Return the (N,) canonical texts of the column that identifies users or items; DataError if one is missing."""
    values = read_field_values((column,), (kind,), None, rows)
    texts = pa.concat_arrays([values.texts, pa.nulls(1, pa.large_string())]).take(to_arrow(values.indices))
    if texts.null_count:
        raise DataError(
            f"Column '{column}' of {where} identifies a user or an item (ranking), but {texts.null_count} of the "
            f"{len(texts)} rows in one batch have a missing value. {CORRECT_ROWS}"
        )
    return texts.cast(pa.string())


def check_time(column: str, type_: pa.DataType, where: str, nulls: int = 0) -> None:
    """Raise DataError unless the column of the time has a type that sorts by time, and a value in every row."""
    allowed = pa.types.is_integer(type_) or pa.types.is_date(type_) or pa.types.is_timestamp(type_)
    allowed = allowed or kind_of(type_) == "text"
    if not allowed or nulls:
        found = f"has {nulls} nulls in one batch" if allowed else f"is {type_}"
        raise DataError(
            f"Column '{column}' of {where} orders the interactions of a user (ranking.time, split.last): it must be a "
            f"date, a timestamp, an integer or an ISO 8601 text in every row, but {found}. {CORRECT_ROWS}"
        )


def read_order(rows: Rows, order: Order, where: str) -> dict[str, pa.Array]:
    """Return the columns by which Spark sorts the interactions: USER, ITEM and TIME; TIME is 0 without times."""
    time = pa.array(np.zeros(rows.num_rows, np.int64))
    if order.time is not None:
        values = decode_dictionary(rows.column(order.time))
        check_time(order.time, values.type, where, values.null_count)
        times = read_times(values, order.time, order.format)
        time = times.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date32(times.type) else times.cast(pa.int64())
    user, item = (
        read_key(rows, column, kind, where) for column, kind in zip((order.user, order.item), order.kinds, strict=True)
    )
    return {USER: user, ITEM: item, TIME: time}


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
        from nfm.kernels.histories import find_histories  # imports numba, which other tasks do not need

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
