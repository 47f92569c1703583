"""Derive columns from the times of the raw table, such as the hour of a timestamp (`columns.time`)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow
from nfm.contract.columns import Rows
from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.times.derived import AGE, Derived, TimeKind, TimePart
from nfm.contract.times.local import DAY, Times, load_zone, read_local_times, time_kind

_REMOVE_HOUR = "Provide timestamps, or remove hour from the list in columns.time."


def derive(rows: Rows, derived: Sequence[Derived]) -> Rows:
    """Return the same rows with the derived columns."""
    return _DerivedRows(rows, {one.name: one for one in derived}, {}) if derived else rows


@dataclass(frozen=True)
class _DerivedRows:
    """Rows with derived columns. A time column is read once."""

    rows: Rows
    derived: Mapping[str, Derived]
    read: dict[str, Times]

    @property
    def num_rows(self) -> int:
        return self.rows.num_rows

    def column(self, name: str) -> pa.Array:
        one = self.derived.get(name)
        if one is None:
            return self.rows.column(name)
        for column, kind in zip(one.columns, one.kinds, strict=True):
            if column not in self.read:
                self.read[column] = read_local_times(self.rows.column(column), column, kind, one.zone)
        times = [self.read[column] for column in one.columns]
        if one.part == "hour":
            self._check_clock(one, times[0])
        values = _count_days(*times) if one.part == AGE else _CALENDAR[one.part](times[0].seconds)
        return to_arrow(values, np.logical_or.reduce([some.missing for some in times]))

    def _check_clock(self, one: Derived, times: Times) -> None:
        dates = np.flatnonzero(~(times.has_clock | times.missing))
        if len(dates):
            example = self.rows.column(one.columns[0])[int(dates[0])].as_py()
            raise DataError(
                f"Column '{one.columns[0]}' contains {quoted(example)}, which has no time of day, but '{one.name}' "
                f"(columns.time) needs the hour. {_REMOVE_HOUR}"
            )


def _count_days(times: Times, since: Times) -> NDArray[np.float64]:
    """Return the (N,) days between two times: elapsed time for two instants, else the difference of the clocks."""
    instants = times.instant & since.instant
    seconds = times.seconds - since.seconds - np.where(instants, times.offsets - since.offsets, 0)
    return (seconds + (times.nanoseconds - since.nanoseconds) / 1e9) / DAY


def _dates(seconds: NDArray[np.int64]) -> NDArray[np.datetime64]:
    return (seconds // DAY).view("datetime64[D]")


_CALENDAR: Mapping[TimePart, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {
    "hour": lambda seconds: seconds % DAY // 3600,
    "weekday": lambda seconds: (seconds // DAY + 3) % 7 + 1,  # 1970 began on a Thursday
    "month": lambda seconds: _dates(seconds).astype("datetime64[M]").astype(np.int64) % 12 + 1,
    "day": lambda seconds: (_dates(seconds) - _dates(seconds).astype("datetime64[M]")).astype(np.int64) + 1,
    "year": lambda seconds: _dates(seconds).astype("datetime64[Y]").astype(np.int64) + 1970,
}


def learn_kinds(derived: Iterable[Derived], schema: pa.Schema, where: str, zone: str) -> tuple[Derived, ...]:
    """Return the derived columns with the kinds of their times in a table; `zone` is stored where it matters.

    Raises DataError if the table has a column with the name of a derived one, or a column that does not contain times.
    """
    names = {name.lower(): name for name in schema.names}
    learned = []
    for one in derived:
        if (taken := names.get(one.name.lower())) is not None:
            raise DataError(
                f"columns.time.{one.columns[0]}: {one.part} makes the column '{one.name}', but {where} has a column "
                f"'{taken}' already. Remove {one.part} from the list, or rename that column in the source."
            )
        kinds = tuple(_check_time(one, column, schema, where) for column in one.columns)
        learned.append(replace(one, kinds=kinds, zone=None if set(kinds) == {"local"} else zone))
    return tuple(learned)


def _check_time(one: Derived, column: str, schema: pa.Schema, where: str) -> TimeKind:
    type_ = schema.field(column).type
    kind = time_kind(type_)
    if kind is None:
        raise DataError(
            f"Column '{column}' of {where} is {type_}, but '{one.name}' (columns.time) needs a date, a timestamp or "
            "ISO 8601 texts. Cast it in the source, or remove it from columns.time."
        )
    if one.part == "hour" and pa.types.is_date(type_.value_type if pa.types.is_dictionary(type_) else type_):
        raise DataError(
            f"Column '{column}' of {where} is {type_}: a date has no hour, which '{one.name}' (columns.time) needs. "
            f"{_REMOVE_HOUR}"
        )
    return kind


def check_derived(derived: Sequence[Derived], schema: pa.Schema, where: str) -> pa.Schema:
    """Return the schema of a table with the derived columns, whose times must be of the kinds in training.

    Raises DataError if a column does not contain times, or only one of the tables has times with a zone.
    """
    for one in derived:
        for column, trained in zip(one.columns, one.kinds, strict=True):
            arrived = _check_time(one, column, schema, where)
            if {trained, arrived} == {"local", "instant"}:
                was, now, cast = ("with", "without", "tz_localize(ZONE)")
                if trained == "local":
                    was, now, cast = ("without", "with", "tz_convert(ZONE).dt.tz_localize(None)")
                raise DataError(
                    f"Column '{column}' of {where} now contains times {now} a zone, but the encoding was made from "
                    f"times {was} a zone, so the same moment could get another hour. Provide it as in training (in "
                    f"pandas with .dt.{cast}), or run nfm features and nfm train again."
                )
        load_zone(one.zone or "UTC")
    names = {one.name for one in derived}
    types = [(one.name, pa.float64() if one.part == AGE else pa.int64()) for one in derived]
    return pa.schema([*(field for field in schema if field.name not in names), *types]) if derived else schema
