"""Columns that are derived from the times of the raw table (`columns.time`): their names and their sources."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

TimePart = Literal["hour", "weekday", "month", "day", "year", "age"]
AGE: TimePart = "age"
CATEGORIES: tuple[TimePart, ...] = ("hour", "weekday", "month")  # fields by default; the others are numbers
# Times without a zone (and dates), times with a zone, or texts, which may be both.
TimeKind = Literal["local", "instant", "text"]


@dataclass(frozen=True)
class Derived:
    """An integer or a number that is computed from times; fields and numbers read it like a raw column."""

    name: str
    part: TimePart
    columns: tuple[str, ...]  # the time column; for an age also the column from which it is counted
    kinds: tuple[TimeKind, ...] = ()  # kind of the times in each of `columns` when the encoding was made
    zone: str | None = None  # in which times with a zone are read; None if there were only times without one


def derived_name(column: str, part: str) -> str:
    """Return the name of a column that is derived from a time column."""
    return f"{column}_{part}"


def raw_columns(columns: Iterable[str], derived: Iterable[Derived]) -> tuple[str, ...]:
    """Return the columns of the raw table from which these columns are read or derived, each once."""
    sources = {one.name: one.columns for one in derived}
    return tuple(dict.fromkeys(raw for column in columns for raw in sources.get(column, (column,))))


def explain_missing(derived: Iterable[Derived], names: Collection[str], advice: str) -> str:
    """Return the end of a message about missing columns: what is derived from those that are missing, then advice."""
    users: dict[str, list[str]] = {}
    for one in derived:
        for column in one.columns:
            if column not in names:
                users.setdefault(column, []).append(one.name)
    needs = (f"'{column}' is needed for {', '.join(some)} (columns.time). " for column, some in users.items())
    return f"{''.join(needs)}{advice}"
