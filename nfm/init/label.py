"""Guess the label from names, choose the model task, find columns that reveal the label."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nfm.contract.errors import ConfigError, DataError
from nfm.contract.messages import did_you_mean, listed
from nfm.init.facts import Column

_CERTAIN = ("label", "target", "y")
_LIKELY = (
    "outcome", "class", "survived", "churn", "churned", "exited", "attrition", "click", "clicked", "returned", "bought",
    "purchased", "converted", "conversion", "subscribed", "default", "defaulted", "fraud", "cancelled", "canceled",
)  # fmt: skip
_MOST_CLASSES = 1000  # limit of the multiclass task
_FEW = 10  # integer columns with at most this many values are classes
RARE = 8  # a class with fewer rows may be missing from the train fold
_CHANCE = 1e-6  # if less probable by chance, a column filled in for one class only reveals the label


@dataclass(frozen=True)
class Label:
    """Column of the label, and the model task."""

    column: Column
    task: str
    reason: str
    where: str | None  # SQL condition of the rows that can be used; None: all rows


def find_label(columns: Mapping[str, Column], name: str | None) -> Label | None:
    """Return the column named by --label, or the only one with a usual name and fitting values; None if unclear.

    Raises ConfigError for a name that is not in the table, and DataError for a column that cannot be a label.
    """
    if name is not None:
        if name not in columns:
            hint = did_you_mean([name], list(columns))
            raise ConfigError(
                f"--label {name}: the table has no such column. {hint} Its columns: {listed(columns, most=30)}"
            )
        return _describe(columns[name])
    for names in (_CERTAIN, _LIKELY):
        found = [
            c
            for c in columns.values()
            if re.sub(r"^(is|has|was)_?", "", c.name.lower()) in names and _can_be_label(c, names)
        ]
        if len(found) == 1:
            return _describe(found[0])
        if found:
            return None
    return None


def _can_be_label(column: Column, names: Sequence[str]) -> bool:
    few = 2 <= column.distinct <= (20 if column.name.lower() in ("class", *_CERTAIN) else 2)
    return column.kind not in ("time", "list", "other") and (few or (names is _CERTAIN and column.is_number))


def _describe(column: Column) -> Label:
    about = f"Column '{column.name}' cannot be the label"
    if not column.filled:
        raise DataError(f"{about}: it is null in all {column.rows:,} rows. Name another column with --label.")
    if column.kind in ("time", "list", "other"):
        raise DataError(
            f"{about}: it contains {column.kind if column.kind != 'other' else column.values.type} values, but a label "
            "must be a number, a text or a boolean. Name another column with --label."
        )
    if column.distinct < 2:
        raise DataError(f"{about}: all rows contain {column.examples()}. Name another column with --label.")
    task = _choose_task(column)
    if task == "multiclass" and (column.distinct > _MOST_CLASSES or column.is_nearly_unique):
        raise DataError(
            f"{about}: its texts have {column.distinct:,} different values in {column.rows:,} rows, but a multiclass "
            f"task takes at most {_MOST_CLASSES:,} classes with several rows each. Name another column with --label."
        )
    frequent = int((column.counts >= RARE).sum())
    if task == "multiclass" and frequent < 2:
        raise DataError(
            f"{about}: {frequent} of its {column.distinct:,} classes have at least {RARE} rows, but a multiclass task "
            "needs two. Name another column with --label, or give more rows."
        )
    where = _usable_rows(column, task)
    reason = column.summary
    if task == "binary":
        reason = (
            f"{column.kind}, {float(np.nanmean(column.numbers)):.1%} are {'true' if column.kind == 'boolean' else 1}"
        )
    if task == "multiclass" and column.distinct == 2:
        reason += "; for a binary model, write the label as 0 and 1 in the table"
    return Label(column, task, reason, where)


def _choose_task(column: Column) -> str:
    values = set(column.encoded.dictionary.to_pylist()) if column.distinct <= 2 else set()
    if column.reads_as_text:  # the jobs read only these texts as 0 and 1
        is_binary = len(values) == 2 and values in ({"0", "1"}, {"false", "true"})
    else:
        is_binary = column.distinct == 2 and (column.kind == "boolean" or (column.is_number and _is_zero_one(column)))
    if is_binary:
        return "binary"
    return "regression" if column.is_number and not has_few_values(column) else "multiclass"


def has_few_values(column: Column) -> bool:
    """Return whether integers have so few values, each in many rows, that they are classes."""
    return column.kind == "integer" and column.distinct <= _FEW and column.filled >= 5 * column.distinct


def _is_zero_one(column: Column) -> bool:
    return set(column.numbers[np.isfinite(column.numbers)].tolist()) == {0.0, 1.0}


def _usable_rows(column: Column, task: str) -> str | None:
    """Return an SQL condition that excludes rows with a missing label or a rare class; None if there are none."""
    name = f"`{column.name.replace('`', '``')}`"
    conditions = []
    if column.filled < column.rows:
        conditions.append(f"{name} is not null")
        if column.has_nan and not column.reads_as_text:
            conditions.append(f"not isnan({name})")
    rare = np.flatnonzero(column.counts < RARE) if task == "multiclass" else ()
    if len(rare):
        texts = [_sql(column.encoded.dictionary[int(i)].as_py(), column) for i in rare]
        conditions.append(f"{name} not in ({', '.join(texts)})")
    return " and ".join(conditions) or None


def _sql(value: object, column: Column) -> str:
    if column.is_number and not column.reads_as_text:
        return str(value)
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def describe_leak(column: Column, label: Label) -> str | None:
    """Return a clause that says how a column reveals the label; None if it does not."""
    label_column = label.column
    known = (column.codes >= 0) & (label_column.codes >= 0)
    if known.sum() < 10:
        return None
    if (
        column.is_number
        and label_column.is_number
        and (why := _same_number(column.numbers[known], label_column.numbers[known], label_column.name))
    ):
        return why
    if label.task == "regression":
        return None
    return (
        _maps(column.codes[known], label_column.codes[known], label_column.name)
        or _separates(column, label)
        or _filled_for_one(column, label_column)
    )


def _same_number(x: NDArray[np.float64], y: NDArray[np.float64], name: str) -> str | None:
    if len(np.unique(x)) <= _FEW or len(np.unique(y)) <= _FEW:
        return None
    if abs(np.corrcoef(x, y)[0, 1]) > 0.9999:
        return f"it is {name} up to scale"
    ranks = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    if (ranks[0] == ranks[1]).all() or (ranks[0] == ranks[1].max() - ranks[1]).all():
        return f"it has the same order as {name} in every row"
    return None


def _maps(codes: NDArray[np.int64], label_codes: NDArray[np.int64], name: str) -> str | None:
    """Return a clause if each value occurs with one label only, in many rows."""
    pairs = len(np.unique(codes * (label_codes.max() + 1) + label_codes))
    values, labels = len(np.unique(codes)), len(np.unique(label_codes))
    if pairs != values or labels < 2 or len(codes) < 10 * values:
        return None
    return (
        f"its values are those of {name}, one to one"
        if values == labels
        else f"each value has one value of {name} only"
    )


def _separates(column: Column, label: Label) -> str | None:
    """Return a clause if all numbers of one class are below those of the other."""
    if not column.is_number or label.column.distinct != 2:
        return None
    x, codes = column.numbers, label.column.codes
    first, second = (x[(codes == i) & np.isfinite(x)] for i in (0, 1))
    if min(len(first), len(second)) < 20 or (first.max() >= second.min() and second.max() >= first.min()):
        return None
    return f"its numbers separate the values of {label.column.name} without exception"


def _filled_for_one(column: Column, label_column: Column) -> str | None:
    """Return a clause if nearly all rows with a value have the same label, which is improbable by chance."""
    known = label_column.codes >= 0
    filled = known & (column.codes >= 0)
    if not 20 <= filled.sum() < known.sum():
        return None
    counts = np.bincount(label_column.codes[filled], minlength=label_column.distinct)
    most = int(counts.argmax())
    base = (label_column.codes[known] == most).mean()
    if counts[most] < 0.98 * filled.sum() or base > 0.9 or base ** filled.sum() > _CHANCE:
        return None
    return f"it is filled in (nearly) only where {label_column.name} is {label_column.encoded.dictionary[most].as_py()}"
