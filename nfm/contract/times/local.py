"""Read dates and timestamps as local times: the time of day and the date that a clock shows in one time zone.

Offsets come from `zoneinfo` and not from `pyarrow.compute`, which ignores daylight saving time after 2037.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import null_mask, to_arrow, to_numpy
from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.times.derived import TimeKind
from nfm.contract.values import canonical_text, decode_dictionary, dictionary_indices, encode_dictionary, kind_of

DAY = 86_400  # seconds
_ISO = r"^\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?$"
_ISO_WITH_OFFSET = r"^\d{4}-\d\d-\d\d[T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?(Z|[+-]\d\d(:?\d\d)?)$"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIXED = re.compile(r"(?:UTC|GMT|UT)?([+-])(\d{1,2})(?::?(\d\d))?(?::?(\d\d))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Days whose offsets Python can compute; earlier and later days have the offset of the nearest one.
_FIRST, _LAST = ((day - _EPOCH.date()).days for day in (date(1, 1, 2), date(9999, 12, 30)))


class Times(NamedTuple):
    """Times of N rows."""

    seconds: NDArray[np.int64]  # (N,) from 1970 to the local time; undefined where missing
    nanoseconds: NDArray[np.int64]  # (N,) beyond `seconds`, at least 0
    offsets: NDArray[np.int64]  # (N,) local time - UTC in seconds; 0 for a time without a zone
    instant: NDArray[np.bool_]  # (N,) True for a time with a zone
    has_clock: NDArray[np.bool_]  # (N,) False for a date without a time of day
    missing: NDArray[np.bool_]  # (N,)


def time_kind(type_: pa.DataType) -> TimeKind | None:
    """Return the kind of times in a column of this Arrow type; None if it cannot contain times."""
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    if pa.types.is_timestamp(type_):
        return "local" if type_.tz is None else "instant"
    if pa.types.is_date(type_):
        return "local"
    return "text" if kind_of(type_) == "text" else None


def read_local_times(values: pa.Array, column: str, kind: TimeKind, zone: str | None) -> Times:
    """Read a column of dates, timestamps or ISO texts.

    Args:
        values: (N,) of a type with a `time_kind`.
        column: name for messages.
        kind: kind of the times when the encoding was made.
        zone: name of the zone in which instants are read.

    Raises:
        DataError: a text is not a time, or has a zone offset where the encoding has none, or the reverse.
    """
    if time_kind(values.type) == "text":
        return _read_texts(values, column, kind, zone)
    values = decode_dictionary(values)
    missing, type_ = null_mask(values), values.type
    if missing.all():  # a column without a type in its file arrives as integers
        zeros = np.zeros(len(missing), np.int64)
        return Times(zeros, zeros, zeros, ~missing, ~missing, missing)
    ticks = to_numpy(values.view(pa.int32() if type_.bit_width == 32 else pa.int64())).astype(np.int64)
    ticks[missing] = 0  # undefined until now
    if pa.types.is_date(type_):
        days = ticks if type_.bit_width == 32 else ticks // (1000 * DAY)
        no = np.zeros_like(missing)
        return _local(days * DAY, np.zeros_like(days), no, no, missing, None)
    seconds, rest = np.divmod(ticks, _PER_SECOND[type_.unit])
    instant = np.full(len(missing), type_.tz is not None)
    return _local(seconds, rest * (10**9 // _PER_SECOND[type_.unit]), instant, np.ones_like(missing), missing, zone)


def _local(
    seconds: NDArray[np.int64],
    nanoseconds: NDArray[np.int64],
    instant: NDArray[np.bool_],
    has_clock: NDArray[np.bool_],
    missing: NDArray[np.bool_],
    zone: str | None,
) -> Times:
    offsets = np.zeros_like(seconds)
    if zone is not None and instant.any():
        offsets[instant] = _find_offsets(seconds[instant], zone)
    return Times(seconds + offsets, nanoseconds, offsets, instant, has_clock, missing)


def _read_texts(values: pa.Array, column: str, kind: TimeKind, zone: str | None) -> Times:
    """Parse each distinct text once; blank texts are missing."""
    encoded = encode_dictionary(values)
    texts = canonical_text(encoded.dictionary, "text", column)
    blank = null_mask(texts) | to_numpy(pc.match_substring_regex(texts, r"^\s*$"))
    present = np.flatnonzero(~blank)
    found = texts.take(to_arrow(present))

    def refuse(text: str, problem: str) -> DataError:
        return DataError(
            f"Column '{column}' is in columns.time, but {quoted(text)} {problem}. Provide the times as timestamps (of "
            f"CSV and JSON, with source.types: {{{column}: timestamp_ntz}} and source.options.timestampNTZFormat), or "
            "leave such rows out with source.where."
        )

    microseconds, has_offset = parse_iso(found, refuse)
    wrong = np.flatnonzero(has_offset if kind == "local" else ~has_offset)
    if kind != "text" and len(wrong):
        contained, has = ("times without a zone", "a") if kind == "local" else ("times with a zone", "no")
        raise DataError(
            f"Column '{column}' contained {contained} when the encoding was made, and now contains the text "
            f"{quoted(found[int(wrong[0])].as_py())}, which has {has} zone offset. Provide the times as in training, "
            "or run nfm features and nfm train again."
        )
    size = len(texts) + 1  # the last entry is that of nulls
    seconds, rest, instant = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.bool_)
    seconds[present], rest[present] = np.divmod(microseconds, 10**6)
    instant[present] = has_offset
    has_clock = np.append(to_numpy(pc.binary_length(texts)) > len("2026-10-31"), False)
    times = _local(seconds, rest * 1000, instant, has_clock, np.append(blank, True), zone)
    rows = dictionary_indices(encoded)
    return Times._make(array[rows] for array in times)


def parse_iso(texts: pa.Array, refuse: Callable[[str, str], Exception]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Parse N texts of ISO 8601, without nulls; digits after the microseconds are ignored.

    Returns:
        (N,) microseconds since 1970, in UTC where the text has a zone offset; and (N,) whether it has one.

    Raises:
        The result of `refuse` for the first text that is not a time, and the problem: "is not …".
    """
    has_offset = to_numpy(pc.match_substring_regex(texts, _ISO_WITH_OFFSET))
    wrong = np.flatnonzero(~(has_offset | to_numpy(pc.match_substring_regex(texts, _ISO))))
    if len(wrong):
        problem = "is not an ISO 8601 date or time such as 2026-10-31 or 2026-10-31T23:59:00Z"
        raise refuse(texts[int(wrong[0])].as_py(), problem)
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    microseconds = np.zeros(len(texts), np.int64)
    for mask, type_ in ((has_offset, pa.timestamp("us", "UTC")), (~has_offset, pa.timestamp("us"))):
        some = texts.take(to_arrow(np.flatnonzero(mask)))
        try:
            microseconds[mask] = to_numpy(some.cast(type_).view(pa.int64()))
        except pa.ArrowInvalid:
            example = next(text for text in some.to_pylist() if not _is_valid(text, type_))
            raise refuse(example, "is not a possible time") from None
    return microseconds, has_offset


def _is_valid(text: str, type_: pa.DataType) -> bool:
    try:
        pa.scalar(text).cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


@lru_cache
def find_zone(name: str) -> tzinfo:
    """Return a time zone: a name of the IANA database, or an offset as Spark writes it; ValueError if there is none."""
    if name in ("UTC", "Z"):
        return UTC
    try:
        if match := _FIXED.fullmatch(name):
            sign, *parts = match.groups()
            hours, minutes, seconds = (int(part or 0) for part in parts)
            return timezone((1 if sign == "+" else -1) * timedelta(hours=hours, minutes=minutes, seconds=seconds))
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError(
            f"{name!r} is not a time zone that this machine knows, such as Europe/Berlin, UTC or +02:00 (the Python "
            "package tzdata contains all names)"
        ) from None


def load_zone(name: str) -> tzinfo:
    """Return the time zone that an encoding names; DataError if this machine does not know it."""
    try:
        return find_zone(name)
    except ValueError as error:
        raise DataError(
            f"The encoding derives columns from times in a zone, but {error}. Install tzdata on every machine. To use "
            "another zone, set columns.time_zone and run nfm features again."
        ) from None


def _find_offsets(seconds: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Return the (N,) offsets of a zone in seconds, from the (N,) seconds since 1970 in UTC."""
    days = seconds // DAY
    encoded = to_arrow(days).dictionary_encode()
    changes = np.array([_find_change(zone, day) for day in to_numpy(encoded.dictionary).tolist()], np.int64)
    before, at, after = changes[to_numpy(encoded.indices)].T
    offsets: NDArray[np.int64] = np.where(seconds - days * DAY < at, before, after)
    return offsets


@lru_cache(maxsize=1 << 16)
def _find_change(zone: str, day: int) -> tuple[int, int, int]:
    """Return the offset at the start of a day in UTC, the second at which it changes, and the offset from then on."""
    tz, start = load_zone(zone), _EPOCH + timedelta(min(max(day, _FIRST), _LAST))

    def offset(second: int) -> int:
        found = (start + timedelta(seconds=second)).astimezone(tz).utcoffset()
        assert found is not None
        return round(found.total_seconds())

    before, after = offset(0), offset(DAY)
    low, high = 0, DAY
    while before != after and high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if offset(middle) == before else (low, middle)
    return before, high, after
