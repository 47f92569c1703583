"""Read the times of a split by time, so that they can be compared: dates, timestamps, integers, or parsed strings.

A string is compared by its time, never letter by letter: 07/24/2024 sorts after 01/02/2026.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.schema import FOLDS
from nfm.contract.times.local import parse_iso
from nfm.contract.values import decode_dictionary, encode_dictionary, kind_of

TIMES = pa.list_(pa.struct([("fold", pa.int8()), ("kind", pa.string()), ("first", pa.int64()), ("last", pa.int64())]))
_FIRST_SECONDS = 10**8  # an integer bound from here on can be a time since 1970, in any unit
_NAIVE, _INSTANT = pa.timestamp("us"), pa.timestamp("us", "UTC")
_ADJACENT = re.compile(r"%[dmyYHIMSj]%[dmyYHIMSjf]")  # numbers without a separator
_KINDS = {pa.int64(): "integer", pa.date32(): "D", _NAIVE: "us", _INSTANT: "us UTC"}


def read_times(values: pa.Array, column: str, format_: str | None) -> pa.Array:
    """Return the (N,) times: int64, date32, or timestamp("us"), with the zone UTC if the column's times are instants.

    Raises DataError for a missing time, a string that is not a time, or strings of which only some have a zone offset.
    """
    plain = decode_dictionary(values)
    if plain.null_count:
        raise DataError(
            f"Column '{column}' decides the fold (split.time), but has nulls ({plain.null_count} of the {len(plain)} "
            f"rows in one batch), so these rows have no fold. {CORRECT_ROWS}"
        )
    type_ = plain.type
    if format_ is not None or kind_of(type_) == "text":
        encoded = encode_dictionary(values)
        texts = encoded.dictionary.cast(pa.string())
        times = _parse_iso(texts, column) if format_ is None else _parse(texts, column, type_, format_)
        return times.take(encoded.indices)
    if pa.types.is_timestamp(type_):
        return plain.cast(_NAIVE if type_.tz is None else _INSTANT, safe=False)
    if pa.types.is_date(type_):
        return plain.cast(pa.date32())
    return plain.cast(pa.int64()) if pa.types.is_integer(type_) else plain


def _parse_iso(texts: pa.Array, column: str) -> pa.Array:
    microseconds, has_offset = parse_iso(texts, lambda text, problem: _not_a_time(column, text, problem))
    if has_offset.any() and not has_offset.all():
        has, lacks = (quoted(texts[int(mask.argmax())].as_py()) for mask in (has_offset, ~has_offset))
        raise _mixed(column, f"{has} has one and {lacks} does not")
    return to_arrow(microseconds).view(_INSTANT if has_offset.any() else _NAIVE)


def _parse(texts: pa.Array, column: str, type_: pa.DataType, format_: str) -> pa.Array:
    """Parse each text with a format of Python's strptime."""
    width = len(datetime(2000, 1, 1).strftime(format_.partition("%f")[0])) if pa.types.is_integer(type_) else 0
    times = [_parse_text(text.zfill(width), column, format_) for text in texts.to_pylist()]
    return pa.array(times, _INSTANT if "%z" in format_ else _NAIVE)


def _parse_text(text: str, column: str, format_: str) -> datetime:
    try:
        time = datetime.strptime(text, format_)
    except ValueError:
        raise _not_a_time(column, text, f"is not a possible time in the form {format_} (split.format)") from None
    # Without separators, 1112024 could be the 11th of January or the 1st of November: all digits must be there.
    if _ADJACENT.search(format_) and not text.startswith(time.strftime(format_.partition("%f")[0])):
        raise _not_a_time(column, text, f"lacks digits of the form {format_} (split.format), so it is ambiguous")
    return time


def _not_a_time(column: str, example: str, problem: str) -> DataError:
    return DataError(
        f"Column '{column}' decides the fold (split.time), but {quoted(example)} {problem}. Set split.format to the "
        f"form of the times, such as '%m/%d/%Y' for 07/24/2024, provide them as dates or timestamps, or leave such "
        "rows out with source.where."
    )


def _mixed(column: str, which: str) -> DataError:
    return DataError(
        f"Column '{column}' decides the fold (split.time), but only some of its times have a zone offset ({which}), so "
        "they cannot be compared. Write all of them in one form."
    )


def check_times(column: str, type_: pa.DataType, format_: str | None, bounds: Iterable[str | int]) -> None:
    """Raise DataError unless the times of a column of this type can be compared with the bounds."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    is_text, is_integer = kind_of(type_) == "text", pa.types.is_integer(type_)
    if format_ is not None and not (is_text or is_integer):
        raise DataError(
            f"Column '{column}' decides the fold (split.time) and is {type_}, but split.format describes strings and "
            "integers. Remove split.format."
        )
    for bound in bounds:
        parsed = is_text or format_ is not None
        parse_bound(bound, (_INSTANT if _has_offset(bound) else _NAIVE) if parsed else type_, column, type_)
        if is_integer and isinstance(bound, int) and _is_year_last(bound):
            raise DataError(
                f"Column '{column}' decides the fold (split.time) and is {type_}, and {bound} looks like a date with "
                "the year at the end: such integers do not sort by time. Set split.format, such as '%m%d%Y' for "
                "7242024, and write split.valid_from and split.test_from as dates such as 2026-10-31."
            )


def _has_offset(bound: str | int) -> bool:
    return isinstance(bound, str) and datetime.fromisoformat(bound).tzinfo is not None


def _is_year_last(bound: int) -> bool:
    """Return whether an integer reads as a date of the years 1900 to 2100 whose last digits are the year."""
    for format_ in ("%m%d%Y", "%d%m%Y"):
        try:
            if 1900 <= datetime.strptime(str(bound).zfill(8), format_).year <= 2100:
                return True
        except ValueError:
            pass
    return False


def check_integers(times: pa.Array, bounds: Iterable[str | int | None], column: str) -> None:
    """Raise DataError if the (N,) integers are not all in the form of an integer bound: 20240701, or seconds."""
    for bound in bounds:
        if not isinstance(bound, int) or not pa.types.is_integer(times.type):
            continue
        distinct = pc.unique(times)
        if _is_date(bound, 2100):
            wrong = next((time for time in distinct.to_pylist() if not _is_date(time, 9999)), None)
            problem = "is a date in the form 20261031. Write all of them in this form; if they are not dates, choose a "
            problem += "bound that is not one"
        else:
            wrong = _find_other_unit(to_numpy(distinct), bound)
            problem = "seems to be in another unit, such as seconds beside milliseconds. Write all of them in one unit"
        if wrong is not None:
            raise DataError(
                f"Column '{column}' decides the fold (split.time) and has the integer {wrong}, but the bound {bound} "
                f"{problem}. source.where can leave rows out."
            )


def _is_date(number: int, last_year: int) -> bool:
    """Return whether an integer is a date in the form 20261031, from the year 1900 on."""
    try:
        return 1900 <= number // 10_000 <= last_year and bool(date(number // 10_000, number // 100 % 100, number % 100))
    except ValueError:
        return False


def _find_other_unit(times: NDArray[np.int64], bound: int) -> int | None:
    """Return a time that would be near the bound if one of them were in a unit 1000, 10⁶ or 10⁹ times as small."""
    if bound < _FIRST_SECONDS:
        return None
    ratio = times.astype(np.float64) / bound
    near = np.zeros(len(times), np.bool_)
    for factor in (1e3, 1e6, 1e9):
        near |= (ratio > factor / 3) & (ratio < factor * 3)
        if bound >= 1000 * _FIRST_SECONDS:
            near |= (ratio > 1 / factor / 3) & (ratio < 3 / factor)
    return int(times[near.argmax()]) if near.any() else None


def parse_bound(bound: str | int, type_: pa.DataType, column: str, shown_type: pa.DataType | None = None) -> Any:
    """Return valid_from or test_from as a scalar of this type of times; DataError if they cannot be compared.

    `shown_type`: the type of the column, for the message, if it is not the type of its times.
    """
    is_date, is_timestamp = pa.types.is_date(type_), pa.types.is_timestamp(type_)
    try:
        if isinstance(bound, int) and pa.types.is_integer(type_):
            return pa.scalar(bound).cast(type_)
        time = datetime.fromisoformat(bound) if isinstance(bound, str) and (is_date or is_timestamp) else None
        if time is not None and is_date and time == datetime(time.year, time.month, time.day):
            return pa.scalar(time.date(), pa.date32())
        if time is not None and is_timestamp and (type_.tz is not None or time.tzinfo is None):
            return pa.scalar(time if time.tzinfo else time.replace(tzinfo=UTC), _INSTANT).cast(type_)
    except (ValueError, pa.ArrowInvalid):
        pass
    raise DataError(
        f"Column '{column}' decides the fold (split.time) and is {shown_type or type_}, to which {bound!r} cannot be "
        "compared. Set split.valid_from and split.test_from to dates such as 2026-10-31 for dates, timestamps and "
        "strings (with a time of day, such as 2026-10-31 12:00, only if the column has one; with an offset only if "
        "its times are instants), and to integers for integers that sort by time; for integers such as 20261031, you "
        "can also set split.format: '%Y%m%d' and give dates."
    )


@dataclass
class FoldTimes:
    """First and last time of each fold; mergeable."""

    spans: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)  # by fold and kind

    def add(self, folds: NDArray[np.int8], times: pa.Array) -> None:
        """Add N rows with times of `read_times`."""
        kind = _KINDS[times.type]
        ticks = to_numpy(times.view(pa.int32() if kind == "D" else pa.int64()))
        for fold in range(len(FOLDS)):
            if len(here := ticks[folds == fold]):
                self._merge(fold, kind, int(here.min()), int(here.max()))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the content as a value of the type TIMES."""
        return [
            {"fold": fold, "kind": kind, "first": first, "last": last}
            for (fold, kind), (first, last) in self.spans.items()
        ]

    def merge_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a value of the type TIMES."""
        for row in rows:
            self._merge(row["fold"], row["kind"], row["first"], row["last"])

    def _merge(self, fold: int, kind: str, first: int, last: int) -> None:
        before = self.spans.get((fold, kind), (first, last))
        self.spans[fold, kind] = min(first, before[0]), max(last, before[1])

    def facts(self, column: str) -> dict[str, Any]:
        """Return the column with the first and the last time of each fold that has rows, for statistics.json.

        Raises DataError if only some of the times have a zone offset.
        """
        spans = {kind: span for (_, kind), span in self.spans.items()}
        if len(spans) > 1:
            examples = " and ".join(quoted(_show(first, kind)) for kind, (first, _) in spans.items())
            raise _mixed(column, f"such as {examples}")
        folds = {FOLDS[fold]: [_show(tick, kind) for tick in span] for (fold, kind), span in self.spans.items()}
        return {"column": column, "folds": dict(sorted(folds.items(), key=lambda item: FOLDS.index(item[0])))}


def _show(tick: int, kind: str) -> str | int:
    if kind == "integer":
        return tick
    time = np.datetime64(tick, "D") if kind == "D" else np.datetime64(tick, "us")
    text = str(time).removesuffix(".000000").replace("T", " ")
    return f"{text} UTC" if kind == "us UTC" else text.removesuffix(" 00:00:00")
