"""Settings of `columns.time`: columns that are derived from times, such as the hour of a timestamp."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args

from pydantic import PlainValidator

from nfm.contract.times.derived import AGE, CATEGORIES, Derived, TimePart, derived_name
from nfm.contract.times.local import find_zone

_ALLOWED = ", ".join([*get_args(TimePart), "{age: COLUMN}"])


def _parts(value: Any) -> Any:
    if not isinstance(value, tuple) or not value:
        shown = "nothing" if value in (None, ()) else repr(value)
        raise ValueError(f"{shown} given; write a list such as [hour, weekday], of: {_ALLOWED}")
    names = []
    for part in value:
        if (read := _read_part(part)) is None:
            raise ValueError(f"{part!r} given; allowed in the list: {_ALLOWED}")
        names.append(read[0])
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{repeated} is in the list twice, but a column has only one {repeated}: remove one")
    return value


def _zone(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} given; a time zone is a string such as Europe/Berlin, UTC or '+02:00'")
    find_zone(value)
    return value


TimeParts = Annotated[Any, PlainValidator(_parts)]  # a tuple of names, and a mapping for an age
TimeZone = Annotated[str | None, PlainValidator(_zone)]


def _read_part(part: Any) -> tuple[TimePart, str | None] | None:
    """Return an entry's part and the column that an age names; None if it is neither."""
    if isinstance(part, str) and part in get_args(TimePart):
        return part, None  # type: ignore[return-value]
    if isinstance(part, Mapping) and list(part) == [AGE] and isinstance(part[AGE], str):
        return AGE, part[AGE]
    return None


def list_derived(time: Mapping[str, tuple[Any, ...]]) -> Iterator[Derived]:
    """Yield the derived columns of `columns.time`; an age that names no column has one column, see `complete_ages`."""
    for column, parts in time.items():
        for part, other in filter(None, map(_read_part, parts)):
            yield Derived(derived_name(column, part), part, (column,) if other is None else (column, other))


def complete_ages(derived: Iterable[Derived], since: str | None) -> Iterator[Derived]:
    """Yield the derived columns; an age that names no column is counted from the column `since`.

    Raises ValueError for an age that has no other column to be counted from.
    """
    for one in derived:
        column, other = one.columns[0], since if len(one.columns) == 1 else one.columns[1]
        if one.part == AGE and other in (None, column):
            why = "no column is named" if other is None else f"{column!r} is the column itself"
            raise ValueError(
                f"columns.time.{column}: age counts the days from another column of the row, but {why}: write "
                "{age: COLUMN}, such as {age: booked_at}"
            )
        yield replace(one, columns=(column, other)) if one.part == AGE and other is not None else one


def add_inputs(columns: Any) -> Any:
    """Add to the content of `columns` a field or a number for each derived column that no field or number reads."""
    if not isinstance(columns, Mapping) or not isinstance(columns.get("time"), Mapping):
        return columns
    sections = {name: columns.get(name) or {} for name in ("categorical", "numeric")}
    if not all(isinstance(section, Mapping) for section in sections.values()):
        return columns
    settings = [one for section in sections.values() for one in section.values() if isinstance(one, Mapping)]
    taken = {*sections["categorical"], *sections["numeric"]}
    taken |= {one["column"] for one in settings if isinstance(one.get("column"), str)}
    added: dict[str, dict[str, Any]] = {"categorical": {}, "numeric": {}}
    for column, parts in columns["time"].items():
        for part, _ in filter(None, map(_read_part, parts if isinstance(parts, tuple) else ())):
            if (name := derived_name(column, part)) not in taken:
                added["categorical" if part in CATEGORIES else "numeric"][name] = {}
    return {**columns, **{name: {**section, **added[name]} for name, section in sections.items()}}


def check_read(derived: Iterable[Derived], read: Collection[str]) -> None:
    """Raise ValueError if a derived column is not in `read`, the columns that fields and numbers read."""
    for one in derived:
        if one.name not in read:
            raise ValueError(
                f"columns.time.{one.columns[0]}: {one.part} makes the column {one.name!r}, but the field or number of "
                "this name reads another column: rename it, or remove its `column:`"
            )
