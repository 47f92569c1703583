"""Choose the key, which identifies a row, and the columns that the split hashes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from nfm.init.facts import Column

_MOST_CANDIDATES = 8  # columns whose combinations are tried
_GROUPS = 20  # into which numbers are divided


@dataclass(frozen=True)
class Key:
    """Columns that identify a row, or come closest to it."""

    columns: tuple[str, ...]
    reason: str
    also: tuple[str, ...] = ()  # inputs that identify a row together with the key
    by: tuple[str, ...] = ()  # columns that the split hashes; empty: those of the key


def choose_key(columns: Sequence[Column], free: set[str], categorical: set[str], label: Column | None) -> Key:
    """Return a unique column, else a unique combination, else the column that the model needs least.

    `columns` may be the key; `free` are those that are not inputs; `categorical` are the categorical inputs.
    """
    plain = [c for c in columns if c.kind not in ("list", "other") and c.filled]
    rows = columns[0].rows
    unique = [c for c in plain if c.is_unique and (c.name in free or c.has_id_name)]
    if unique:
        best = max(
            unique, key=lambda c: (c.has_row_name, c.has_id_name, c.words < 4, c.kind != "time", c.kind == "integer")
        )
        return Key((best.name,), f"unique in {rows:,} rows")
    candidates = [c for c in plain if c.distinct > 1 and c.words < 4 and c.name in free | categorical]
    candidates.sort(key=lambda c: (c.name not in free, not c.has_id_name, -c.distinct))
    for size in (2, 3):
        for group in combinations(candidates[:_MOST_CANDIDATES], size):
            if any(c.name in free or c.has_id_name or c.distinct > 20 for c in group) and _is_unique_together(group):
                return _combine(group, free, categorical, len(plain))
    varied = [c for c in plain if c.distinct > 1] or plain or list(columns)
    left_out = [c for c in varied if c.name in free]
    # If all columns are inputs, choose the one that explains least of the label.
    key = max(left_out, key=lambda c: c.distinct) if left_out else min(varied, key=lambda c: _association(c, label))
    by = sorted((c for c in varied if c.kind != "time"), key=lambda c: -c.distinct)
    reason = "NOT unique, and no 2 or 3 columns together are: add a row number to the table"
    return Key((key.name,), reason, by=tuple(c.name for c in by[:_MOST_CANDIDATES]))


def _association(column: Column, label: Column | None) -> float:
    """Return the share of the label's variance that a column explains, corrected for chance (adjusted R²)."""
    if label is None:  # prefer the column that varies least
        return -float(max(column.counts.max(), column.rows - column.filled))
    groups = _group_values(column)
    y = label.numbers if label.is_number and label.distinct > 2 else label.codes
    known = (label.codes >= 0) & np.isfinite(y)
    groups, y = groups[known], y[known].astype(np.float64)
    if label.kind == "text" and label.distinct > 2:  # classes have no order
        targets = [(label.codes[known] == i).astype(np.float64) for i in np.argsort(-label.counts)[:10]]
    else:
        targets = [y]
    return max(_adjusted_r2(groups, target) for target in targets)


def _group_values(column: Column) -> NDArray[np.int64]:
    if not column.is_number or column.distinct <= _GROUPS:
        return column.codes + 1
    edges = np.nanquantile(column.numbers, np.linspace(0, 1, _GROUPS))
    return np.where(np.isnan(column.numbers), 0, np.searchsorted(edges, column.numbers) + 1)


def _adjusted_r2(groups: NDArray[np.int64], y: NDArray[np.float64]) -> float:
    rows = np.bincount(groups)
    means = np.bincount(groups, y) / np.maximum(rows, 1)
    within, count = ((y - means[groups]) ** 2).sum() / max(y.var() * len(y), 1e-300), int((rows > 0).sum())
    return float(1 - within * (len(y) - 1) / max(len(y) - count, 1))


def _is_unique_together(columns: Sequence[Column]) -> bool:
    if np.prod([float(c.distinct + 1) for c in columns]) < columns[0].rows:
        return False
    code = columns[0].codes + 1
    for column in columns[1:]:
        code = np.unique(code, return_inverse=True)[1] * (column.distinct + 1) + column.codes + 1
    return len(np.unique(code)) == len(code)


def _combine(columns: Sequence[Column], free: set[str], categorical: set[str], total: int) -> Key:
    """Return a key of several columns; columns that the model needs remain inputs, outside the key."""
    names = tuple(c.name for c in columns)
    outside = tuple(name for name in names if name not in free)
    can_spare_all = len(outside) == len(names) and categorical - set(names) and len(names) <= total / 2
    if not outside or can_spare_all:
        return Key(names, f"together unique in {columns[0].rows:,} rows")
    if len(outside) == len(names):  # one column must be the key
        outside = tuple(sorted(names, key=lambda name: next(c.distinct for c in columns if c.name == name)))[:-1]
    kept = tuple(name for name in names if name not in outside)
    reason = f"unique in {columns[0].rows:,} rows together with {' and '.join(outside)}, which are inputs"
    return Key(kept, reason, also=outside, by=names)
