"""Random columns of raw tables: Arrow types, plain Python values, and the exact meaning of a value.

A column is drawn as one of FAMILIES. Its files may store it in other types of the family, as tables that grew over
years do. `meaning` is what a value means, whatever the type that stores it.
"""

import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

WORDS = (
    *("", " ", "a", "A", "b", "007", "7", "7.0", "3", "true", "null", "NaN", "None", "a|b", "a\\b", "x" * 3000),
    *(
        "ä",
        "a\u0308",
        "Grüße",
        "日本",
        "🦉",
        "👩‍👩‍👧",
        "\x00",
        "a\x00",
        "\t",
        "a\nb",
        "\r\n",
        "\u2028",
        "\u200b",
        "\ufeff",
    ),
    *("__HIVE_DEFAULT_PARTITION__", "2026-11-20", "a,b;c", '"', "'", "%41", "ſ", "İ", "ß"),
)
INTS = {
    pa.int8(): (-(2**7), 2**7 - 1),
    pa.int16(): (-(2**15), 2**15 - 1),
    pa.int32(): (-(2**31), 2**31 - 1),
    pa.int64(): (-(2**63), 2**63 - 1),
    pa.uint8(): (0, 2**8 - 1),
    pa.uint16(): (0, 2**16 - 1),
    pa.uint32(): (0, 2**32 - 1),
    pa.uint64(): (0, 2**64 - 1),
}
_TEXTS = (pa.string(), pa.string(), pa.large_string(), pa.string_view(), *(
    pa.dictionary(index, text)
    for index, text in ((pa.int8(), pa.string()), (pa.int32(), pa.string()), (pa.int16(), pa.large_string()))
))  # fmt: skip
_INSTANTS = tuple(pa.timestamp(unit, zone) for unit in ("s", "ms", "us") for zone in ("UTC", "Europe/Berlin"))
_LOCAL = tuple(pa.timestamp(unit) for unit in ("s", "ms", "us"))
_DECIMALS = (pa.decimal128(5, 2), pa.decimal128(9, 0), pa.decimal128(12, 2), pa.decimal128(20, 0),
             pa.decimal128(38, 4), pa.decimal256(30, 3), pa.decimal32(6, 2), pa.decimal64(12, 3))  # fmt: skip

# Types that store values of one family: mostly the first ones, where a file's type differs from the column's.
FAMILIES: dict[str, tuple[pa.DataType, ...]] = {
    "text": _TEXTS,
    "int": (*INTS, pa.dictionary(pa.int16(), pa.int64()), pa.dictionary(pa.int8(), pa.int32())),
    "float": (pa.float64(), pa.float32(), pa.float64(), pa.float32(), pa.dictionary(pa.int8(), pa.float64())),
    "decimal": _DECIMALS,
    "bool": (pa.bool_(),),
    "date": (pa.date32(), pa.date64()),
    "instant": _INSTANTS,
    "local": _LOCAL,
    "bytes": (pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()),
    "null": (pa.null(),),
    "texts": (*(pa.list_(type_) for type_ in _TEXTS[:5]),
        pa.large_list(pa.string()), pa.list_(pa.large_string()), pa.list_(pa.string(), 2)),
    "ints": (*(pa.list_(type_) for type_ in INTS), pa.large_list(pa.int64()), pa.list_(pa.int32(), 2)),
    "floats": (pa.list_(pa.float64()), pa.list_(pa.float32()), pa.list_(pa.float64(), 2)),
    "decimals": (pa.list_(pa.decimal128(9, 2)), pa.list_(pa.decimal128(12, 2))),
    "bools": (pa.list_(pa.bool_()),),
    "dates": (pa.list_(pa.date32()), pa.large_list(pa.date64())),
    "nulls": (pa.list_(pa.null()),),
    "lists": (pa.list_(pa.list_(pa.int32())), pa.list_(pa.list_(pa.string()))),
    "struct": (
        pa.struct({"a": pa.int64(), "b": pa.string()}), pa.struct({"a": pa.int32(), "b": pa.large_string()}),
        pa.struct({"b": pa.string(), "a": pa.int64()}), pa.struct({"a": pa.int64()}), pa.struct({"A": pa.int64()}),
        pa.struct({"a": pa.int64(), "b": pa.string(), "c": pa.float64()})),
    "map": (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int32())),
    "structs": (pa.list_(pa.struct({"a": pa.int64(), "b": pa.string()})),),
    "exotic": (pa.float16(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.time32("ms"), pa.time64("us"),
               pa.duration("us"), pa.decimal256(50, 2), pa.uuid(), pa.json_(), pa.bool8(),
               pa.list_(pa.timestamp("us")), pa.list_(pa.timestamp("us", "UTC")), pa.list_(pa.binary()),
               pa.struct({"t": pa.timestamp("us", "UTC"), "d": pa.date32()}), pa.time64("ns"),
               pa.dictionary(pa.int32(), pa.decimal128(9, 2)), pa.dictionary(pa.int8(), pa.binary()),
               pa.dictionary(pa.int8(), pa.timestamp("us")), pa.dictionary(pa.int8(), pa.date32())),
}  # fmt: skip
WEIGHTS = {"text": 6, "int": 6, "float": 4, "decimal": 4, "bool": 2, "date": 3, "instant": 3, "local": 2, "texts": 3,
           "ints": 2, "exotic": 1}  # fmt: skip


def draw_value(random: Random, type_: pa.DataType, narrow: bool) -> Any:
    """Draw a plain value for a column of this type; `narrow`: one that the other types of its family can store."""
    kind = pa.types
    if kind.is_dictionary(type_):
        return draw_value(random, type_.value_type, narrow)
    if isinstance(type_, pa.BaseExtensionType):
        value = draw_value(random, type_.storage_type, True)
        return uuid.UUID(int=random.getrandbits(128)).bytes if type_ == pa.uuid() else value
    if kind.is_map(type_):
        return [(word, random.randint(-9, 9)) for word in random.sample(WORDS, random.randint(0, 3))]
    if kind.is_struct(type_):
        return {f.name: None if random.random() < 0.2 else draw_value(random, f.type, narrow) for f in type_}
    if kind.is_list(type_) or kind.is_large_list(type_) or kind.is_fixed_size_list(type_):
        size = type_.list_size if kind.is_fixed_size_list(type_) else random.choice((0, 1, 2, 3, 5))
        members = (None if random.random() < 0.2 else draw_value(random, type_.value_type, narrow) for _ in range(size))
        return list(members)
    if kind.is_null(type_):
        return None
    if kind.is_integer(type_):
        low, high = INTS[type_]
        if narrow:
            return random.randint(0, 9)
        near = (low, high, 0, 1, 2**53 + 1, -(2**53) - 1, random.randint(low, high))
        return min(max(random.choice((*near, random.randint(-9, 9))), low), high)
    if kind.is_floating(type_):
        if narrow:
            return random.choice((0.5, 3.0, -1.25, math.nan, 0.0))
        other = random.choice((random.uniform(-1e3, 1e3), 10.0 ** random.randint(-30, 30), 2.0**60, 0.1))
        value = random.choice((math.nan, math.inf, -math.inf, -0.0, 0.0, 3.0, -1.5, other))
        if kind.is_float16(type_):
            return np.float16(max(min(value, 6e4), -6e4))
        return float(np.float32(value)) if kind.is_float32(type_) else value
    if kind.is_decimal(type_):
        digits = 3 if narrow else random.randint(1, type_.precision)
        unscaled = random.choice((0, 10, 100, 10**digits - 1, -(10**digits) + 1, random.randint(0, 10**digits - 1)))
        unscaled = max(min(unscaled, 10**type_.precision - 1), 1 - 10**type_.precision)
        return (
            Decimal(unscaled).scaleb(-type_.scale) if abs(unscaled) < 10**28 else Decimal(f"{unscaled}E{-type_.scale}")
        )
    return _draw_other(random, type_)


def _draw_other(random: Random, type_: pa.DataType) -> Any:
    kind = pa.types
    if kind.is_boolean(type_):
        return random.random() < 0.5
    days = random.choice((random.randint(0, 25_000), random.randint(-25_000, 40_000), -719_162, 2_932_896))
    if kind.is_date(type_):
        return date(1970, 1, 1) + timedelta(days)
    if kind.is_timestamp(type_):
        if type_.unit == "ns":
            days %= 25_000
        micros = {"s": 0, "ms": random.randint(0, 999) * 1000}.get(type_.unit, random.randint(0, 999_999))
        moment = datetime(1970, 1, 1) + timedelta(days, random.randint(0, 86_399), micros)
        return moment.replace(tzinfo=UTC) if type_.tz else moment
    if kind.is_time(type_):
        return time(random.randint(0, 23), 59, random.randint(0, 59))
    if kind.is_duration(type_):
        return timedelta(random.randint(-9, 9), random.randint(0, 86_399))
    if kind.is_fixed_size_binary(type_):
        return random.randbytes(type_.byte_width)
    if kind.is_binary(type_) or kind.is_large_binary(type_) or kind.is_binary_view(type_):
        return random.choice((b"", b"a", b"\xff\x00", random.choice(WORDS).encode()))
    return random.choice(WORDS)


def meaning(value: Any) -> Any:
    """Return what a value means, comparable and the same for all types that can store it."""
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case bool():
            return ("bool", value)
        case int() | Decimal():
            return ("number", str(Fraction(value)))
        case float():
            is_special = not math.isfinite(value) or (value == 0 and math.copysign(1, value) < 0)
            return ("number", str(value) if is_special else str(Fraction(value)))
        case datetime():
            since = value - datetime(1970, 1, 1, tzinfo=UTC if value.tzinfo else None)
            return ("time", since // timedelta(microseconds=1))
        case date():
            return ("date", value.isoformat())
        case timedelta():
            return ("duration", value // timedelta(microseconds=1))
        case uuid.UUID():
            return value.bytes
        case list():
            return [meaning(member) for member in value]
        case tuple():
            return tuple(meaning(member) for member in value)
        case dict():
            return {name.lower(): meaning(member) for name, member in value.items()}
        case _:
            return value


def canonical_text(value: Any, type_: pa.DataType) -> str | None:
    """Return the canonical text of a value in a column of this type, by docs/features.md; None if it is missing."""
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case float() if not math.isfinite(value):
            return None
        case float() if abs(value) < 2.0**64 and value.is_integer():
            return str(int(value))
        case float():
            text = f"{Decimal(str(np.float32(value) if pa.types.is_float32(type_) else value)):f}"
        case Decimal():
            text = f"{value:f}" if value else "0"
        case _:
            return str(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
