"""The rows that a table means, computed from the values that were written, in plain Python."""

import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from nfm.contract.encoder import Encoding
from tests.contract.conftest import slow_hash
from tests.fuzz.recipe import Recipe
from tests.fuzz.values import canonical_text, meaning

IMPOSSIBLE = "cannot be stored"


def table_rows(recipe: Recipe, schema: pa.Schema) -> Iterable[dict[str, Any]]:
    """Yield the rows that the source reads, with the columns of the schema."""
    exact = recipe.settings.get("spark.sql.caseSensitive") == "true"
    for file in recipe.files:
        if not file.is_read:
            continue
        folders = {name: _folder_value(text, schema.field(name).type) for name, text in file.folders.items()}
        for values in file.rows:
            row = dict(zip(file.types, values, strict=True))
            known = {(name if exact else name.lower()): value for name, value in (row | folders).items()}
            if recipe.keeps({name.lower(): value for name, value in known.items()}):
                yield {name: known.get(name if exact else name.lower()) for name in schema.names}


def _folder_value(text: str | None, type_: pa.DataType) -> Any:
    if text is None:
        return None
    kind = pa.types
    if kind.is_integer(type_):
        return int(text)
    if kind.is_floating(type_):
        return float(text)
    if kind.is_decimal(type_):
        return Decimal(text)
    if kind.is_date(type_):
        return date.fromisoformat(text)
    if kind.is_time(type_):
        return time.fromisoformat(text)
    if kind.is_timestamp(type_):
        moment = datetime.fromisoformat(re.sub(r"(\.\d+)$", lambda m: m[0].ljust(7, "0"), text))
        return moment.replace(tzinfo=UTC) if type_.tz else moment
    return text


def expected(row: dict[str, Any], schema: pa.Schema, encoding: Encoding, vocabularies: dict[str, list[str]]) -> str:
    """Return the text of a row as `reading.encode` writes it: carried values, ids of each field, numbers."""
    carried = [carried_meaning(row[name], schema.field(name).type) for name in schema.names]
    ids: list[Any] = []
    for field in encoding.spec.fields:
        type_ = schema.field(field.columns[0]).type
        known = vocabularies.get(field.name)
        value = row[field.columns[0]]
        if field.bag is None:
            ids.append(_id(stored(value, type_), type_, field.oov_buckets, known))
        else:
            members = value if isinstance(value, list) else [None] if value is None else [IMPOSSIBLE]
            ids.append([_id(stored(m, type_.value_type), type_.value_type, field.oov_buckets, known) for m in members])
    numbers = [_number(row[n.column], schema.field(n.column).type) for n in encoding.spec.numbers]
    return repr((carried, ids, numbers))


def stored(value: Any, type_: pa.DataType, errors: str = "strict") -> Any:
    """Return a value as a column of this type stores it."""
    if value is None:
        return None
    try:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, timedelta):
            value = value // timedelta(microseconds=1)
        if pa.types.is_floating(type_):
            return float(value)
        if pa.types.is_decimal(type_) and not isinstance(value, float):
            return Decimal(value)
        if pa.types.is_integer(type_) and not isinstance(value, str | bytes) and value == int(value):
            return int(value)
    except (TypeError, ValueError, ArithmeticError):
        return IMPOSSIBLE  # a scan that accepts such a value differs from this
    return value.decode(errors=errors) if isinstance(value, bytes) and pa.types.is_string(type_) else value


def carried_meaning(value: Any, type_: pa.DataType) -> Any:
    if isinstance(value, dict) and pa.types.is_struct(type_):
        known = {name.lower(): member for name, member in value.items()}
        return {f.name.lower(): carried_meaning(known.get(f.name.lower()), f.type) for f in type_}
    if isinstance(value, list) and pa.types.is_list(type_):
        return [carried_meaning(member, type_.value_type) for member in value]
    if isinstance(value, bytes) and pa.types.is_string(type_):
        return value.decode()
    if isinstance(value, str) and pa.types.is_binary(type_):
        return value.encode()
    if pa.types.is_timestamp(type_) and isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC if type_.tz else None)
    if isinstance(value, timedelta) and pa.types.is_integer(type_):
        return meaning(value // timedelta(microseconds=1))
    if isinstance(value, float) and value == 0 and not pa.types.is_floating(type_):
        return meaning(0)
    return meaning(value)


def _id(value: Any, type_: pa.DataType, buckets: int, known: list[str] | None) -> int:
    text = canonical_text(value, type_)
    if text is None:
        return 0
    return 1 + buckets + known.index(text) if known and text in known else 1 + slow_hash(text, 15) % buckets


def _number(value: Any, type_: pa.DataType) -> tuple[float, float]:
    number = stored(value, type_)
    number = math.nan if number is None or number == IMPOSSIBLE else float(number)
    if not math.isfinite(number):
        return 0.0, 1.0
    limit = float(np.finfo(np.float32).max)
    return float(np.float32(min(max(number, -limit), limit))), 0.0
