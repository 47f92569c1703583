"""Choose what is derived from the times of a table: `columns.time`."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from nfm.contract.errors import DataError
from nfm.contract.times.derived import AGE, TimePart, derived_name
from nfm.contract.times.local import DAY, Times, read_local_times, time_kind
from nfm.init.facts import Column

_ORDERED = 0.99  # share of rows in which an earlier time must not be after the later one


def read_times(columns: Iterable[Column]) -> dict[str, Times]:
    """Return the times of the columns that the jobs can read, in UTC."""
    times = {}
    for column in columns:
        if time_kind(column.values.type) is not None:
            try:
                times[column.name] = read_local_times(column.values, column.name, "text", "UTC")
            except DataError:  # texts in another form
                continue
    return times


def choose_parts(name: str, times: dict[str, Times], taken: Collection[str]) -> list[Any]:
    """Return what to derive from a column: parts that repeat in later tables, and the age since an earlier column.

    `times` are those of all columns; `taken` the names, in lower case, that a derived column cannot have.
    """
    own = times[name]
    seconds = own.seconds[~own.missing]
    days = int(np.ptp(seconds // DAY)) + 1 if len(seconds) else 0
    repeating: dict[TimePart, bool] = {
        "hour": bool((own.has_clock | own.missing).all()) and len(np.unique(seconds % DAY // 3600)) > 1,
        "weekday": days >= 7 and len(np.unique(seconds // DAY % 7)) > 1,
        "month": days >= 365,
    }
    parts: list[Any] = [part for part, repeats in repeating.items() if repeats]
    since = next((other for other in times if other != name and _is_earlier(times[other], own)), None)
    parts += [] if since is None else [{AGE: since}]
    return [part for part in parts if derived_name(name, part if isinstance(part, str) else AGE).lower() not in taken]


def _is_earlier(first: Times, second: Times) -> bool:
    known = ~(first.missing | second.missing)
    apart = (second.seconds - second.offsets - first.seconds + first.offsets)[known]
    return bool(len(apart) and (apart >= 0).mean() >= _ORDERED and (apart > 0).any())
