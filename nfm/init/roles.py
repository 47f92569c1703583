"""Choose the role of each column: categorical field, number, or left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.config.columns import DATASET_COLUMNS
from nfm.contract.errors import DataError
from nfm.contract.schema import flag_name, weights_name
from nfm.contract.times.derived import AGE, derived_name
from nfm.init.facts import Column
from nfm.init.key import Key, choose_key
from nfm.init.label import Label, describe_leak
from nfm.init.times import choose_parts, read_times

Section = Literal["categorical", "numeric", "time", "left out"]
_MOST_CATEGORIES = 32  # integer columns with at most this many values are categories
_MANY = 50  # values; in larger vocabularies, rare values are left out
_HUGE = 50_000  # values in a sample; larger vocabularies are limited
BUCKETS = 16
_CLIP = (0.01, 0.99)  # quantiles, for a number whose extreme values would dominate its scale
_DELIMITERS = ("|", ";", ", ", ",")


@dataclass(frozen=True)
class Role:
    """Role of a column in the configuration."""

    column: str
    section: Section
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Any, ...] = ()  # of a time


def choose_roles(columns: Mapping[str, Column], label: Label | None) -> tuple[Key, list[Role]]:
    """Return the key, and the role of each other column except the label."""
    others = [c for c in columns.values() if label is None or c.name != label.column.name]
    revealing = {c.name: why for c in others if label and (why := describe_leak(c, label))}
    times = read_times(c for c in others if c.kind == "time" and c.name not in revealing)
    taken = {name.lower() for name in columns}
    parts = {name: choose_parts(name, times, taken) for name in times}
    roles = {c.name: _choose_role(c, revealing.get(c.name), parts.get(c.name)) for c in others}
    free = {name for name, role in roles.items() if role.section in ("time", "left out")}
    categorical = {name for name, role in roles.items() if role.section == "categorical"}
    candidates = [c for c in others if c.name not in revealing]
    if not candidates:
        raise DataError("Every other column reveals the label, so no input is left. Name another column with --label.")
    key = choose_key(candidates, free, categorical, label.column if label else None)
    return key, [role for name, role in roles.items() if name not in key.columns]


def _choose_role(column: Column, revealed: str | None, parts: Sequence[Any] | None) -> Role:
    why = _why_excluded(column) or (revealed and f"reveals the label: {revealed}")
    if why:
        return Role(column.name, "left out", why)
    if column.kind == "time":
        shown = f"a time: {column.examples(2)}"
        if parts:
            return Role(column.name, "time", shown, parts=tuple(parts))
        why = "nothing in it repeats"
        if parts is None:
            why = "not in the form of ISO 8601; source.types can make a timestamp of it, for columns.time"
        return Role(column.name, "left out", f"{shown}; {why}")
    if column.kind == "list":
        return Role(column.name, "categorical", _bag_summary(column.values), _bag_settings(column.values))
    if column.kind == "text" and (delimiter := _bag_delimiter(column)) is not None:
        lists = pc.split_pattern(column.values, delimiter)
        settings = _bag_settings(lists) | {"delimiter": delimiter}
        return Role(column.name, "categorical", f"texts with {delimiter!r}; {_bag_summary(lists)}", settings)
    if column.kind in ("text", "boolean") or (column.kind == "integer" and _is_category(column)):
        return Role(column.name, "categorical", column.summary, _category_settings(column))
    return Role(column.name, "numeric", column.summary, _number_settings(column))


def _why_excluded(column: Column) -> str | None:
    """Return a clause that says why a column cannot be an input; None if it can."""
    if not column.filled:
        return "null in every row"
    if column.kind == "other":
        return f"{str(column.values.type)[:40]}, which cannot be an input: make columns of it in the source"
    if column.distinct == 1 and column.filled == column.rows:
        return f"every row contains {column.examples()}"
    if column.kind == "list":
        lengths = pc.list_value_length(column.values).drop_null()
        numbers = pa.types.is_floating(column.values.type.value_type)
        return "an array of numbers, a vector" if numbers and column.is_nearly_unique and len(lengths) else None
    if column.words >= 4 and column.distinct > 0.5 * column.filled:
        return f"free text: {column.distinct:,} texts of {column.words:.0f} words on average"
    if column.is_nearly_unique and (column.kind == "text" or (column.kind == "integer" and column.has_id_name)):
        return f"an id or a name: {column.distinct:,} values in {column.filled:,} rows"
    if column.kind == "integer" and column.is_unique and column.rows > 20 and _counts_up(column):
        return f"a row number: {column.examples(2)}"
    return None


def _counts_up(column: Column) -> bool:
    return bool(
        (np.diff(column.numbers) > 0).all() and np.nanmax(column.numbers) - np.nanmin(column.numbers) < 2 * column.rows
    )


def _is_category(column: Column) -> bool:
    if column.has_id_name or column.distinct <= 2:
        return True
    return column.distinct <= _MOST_CATEGORIES and column.filled >= 10 * column.distinct


def _category_settings(column: Column) -> dict[str, Any]:
    if column.distinct > _HUGE:
        return {"min_count": 5, "max_size": 1_000_000}
    once = int((column.counts == 1).sum())
    return {"min_count": 2} if column.distinct > _MANY and once > 0.1 * column.distinct else {}


def _number_settings(column: Column) -> dict[str, Any]:
    numbers = column.numbers[np.isfinite(column.numbers)]
    size = np.abs(numbers)
    low, middle, high = np.quantile(size, [0.25, 0.5, 0.99])
    heavy = size.max() > 20 and (high > 10 * middle) and size.max() > 20 * max(low, 1e-9)
    settings: dict[str, Any] = {"scale": "log1p"} if heavy else {}
    unit = size.max() or 1.0  # keeps the squares of very large numbers finite
    if np.std(numbers / unit) > 3 * np.std(np.clip(numbers, *np.quantile(numbers, _CLIP)) / unit):
        settings["clip"] = list(_CLIP)
    return settings | ({"missing_flag": True} if column.filled < column.rows else {})


def _bag_delimiter(column: Column) -> str | None:
    """Return the delimiter if the texts are lists whose values repeat in other rows; None otherwise."""
    texts = column.encoded.dictionary
    for delimiter in _DELIMITERS:
        lengths = pc.add(pc.count_substring(texts, delimiter), 1)
        if pc.mean(pc.greater(lengths, 1)).as_py() < 0.3 or len(pc.unique(lengths)) == 1:
            continue  # a constant number of members: not a bag, but a code with several parts
        members = pc.split_pattern(texts, delimiter).flatten()
        values_repeat = len(members) >= 2 * len(pc.unique(members))
        if values_repeat and pc.mean(pc.count_substring_regex(members, r"\S+")).as_py() < 3:
            return delimiter
    return None


def _bag_settings(lists: pa.Array) -> dict[str, Any]:
    longest = pc.max(pc.list_value_length(lists)).as_py() or 0
    members = len(pc.unique(lists.flatten()))
    settings: dict[str, Any] = {"bag": True} | ({"min_count": 2} if members > 10 * _MANY else {})
    return settings | ({"max_length": 100} if longest > 100 else {})


def _bag_summary(lists: pa.Array) -> str:
    lengths, missing = pc.list_value_length(lists), lists.null_count / len(lists)
    members = pc.unique(lists.flatten().drop_null())
    text = f"{len(members):,} different members, {pc.mean(lengths).as_py() or 0:.1f} a row"
    return text + (f"; {missing:.1%} missing" if missing else "")


def choose_output_names(roles: Sequence[Role]) -> dict[str, str]:
    """Return the name of each field or number: that of its column, unless the dataset already has that name."""
    derived = {
        derived_name(r.column, part if isinstance(part, str) else AGE).lower() for r in roles for part in r.parts
    }
    taken, names = derived | set(DATASET_COLUMNS), {}
    for role in roles:
        if role.section == "time":
            continue
        name = role.column
        while {column.lower() for column in _dataset_columns(name, role)} & taken:
            name = f"{name}_value"
        taken |= {column.lower() for column in _dataset_columns(name, role)}
        names[role.column] = name
    return names


def _dataset_columns(name: str, role: Role) -> list[str]:
    columns = [name]
    if role.settings.get("missing_flag"):
        columns.append(flag_name(name))
    if role.settings.get("bag"):
        columns.append(weights_name(name))
    return columns
