"""Read interactions: the canonical texts of their users and items, and their times. Does not need Spark."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nfm.contract.arrays import to_arrow
from nfm.contract.columns import Rows, read_field_values
from nfm.contract.dataset import FOLD, HISTORY, HISTORY_WEIGHTS, SEQUENCE
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS
from nfm.contract.schema import Kind
from nfm.contract.times.compare import read_times
from nfm.contract.values import decode_dictionary, kind_of

# Columns that are added to the interactions; those of users have other names.
USER, ITEM, TIME = "_nfm_user", "_nfm_item", "_nfm_time"


@dataclass(frozen=True)
class Order:
    """Settings that decide the order, the fold and the history of an interaction."""

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
