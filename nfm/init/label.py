"""The label: guess it from names, choose the task, find columns that reveal it."""

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
_MOST_CLASSES = 1000  # of the product
_FEW = 10  # integer columns with at most this many values are classes
RARE = 8  # a class of fewer rows may be missing from the train fold
_CHANCE = 1e-6  # below this probability, a column that is filled in for one class only reveals the label


@dataclass(frozen=True)
class Label:
    """The label's column and how it is learned."""

    column: Column
    task: str
    reason: str
    where: str | None  # SQL: the rows that can be used; None: all


def find_label(columns: Mapping[str, Column], wanted: str | None) -> Label | None:
    """Return the column named by --label, or the only one with a usual name and fitting values; None if unclear.

    Raises ConfigError for a name that is not in the table, and DataError for a column that cannot be a label.
    """
    if wanted is not None:
        if wanted not in columns:
            hint = did_you_mean([wanted], list(columns))
            raise ConfigError(
                f"--label {wanted}: the table has no such column. {hint} Its columns: {listed(columns, most=30)}"
            )
        return _label(columns[wanted])
    for names in (_CERTAIN, _LIKELY):
        found = [
            c for c in columns.values() if re.sub(r"^(is|has|was)_?", "", c.name.lower()) in names and _fits(c, names)
        ]
        if len(found) == 1:
            return _label(found[0])
        if found:
            return None
    return None


def _fits(column: Column, names: Sequence[str]) -> bool:
    few = 2 <= column.distinct <= (20 if column.name.lower() in ("class", *_CERTAIN) else 2)
    return column.kind not in ("time", "list", "other") and (few or (names is _CERTAIN and column.is_number))


def _label(column: Column) -> Label:
    about = f"Column '{column.name}' cannot be the label"
    if not column.filled:
        raise DataError(f"{about}: it is null in all {column.rows:,} rows. Name another column with --label.")
    if column.kind in ("time", "list", "other"):
        raise DataError(
            f"{about}: it contains {column.kind if column.kind != 'other' else column.values.type} values, and a label "
            "is a number, a text or a boolean. Name another column with --label."
        )
    if column.distinct < 2:
        raise DataError(f"{about}: all rows contain {column.examples()}. Name another column with --label.")
    task = _task(column)
    if task == "multiclass" and (column.distinct > _MOST_CLASSES or column.is_nearly_unique):
        raise DataError(
            f"{about}: its texts have {column.distinct:,} different values in {column.rows:,} rows, and a multiclass "
            f"task takes {_MOST_CLASSES:,} classes with several rows each. Name another column with --label."
        )
    frequent = int((column.counts >= RARE).sum())
    if task == "multiclass" and frequent < 2:
        raise DataError(
            f"{about}: {frequent} of its {column.distinct:,} classes have at least {RARE} rows, and a multiclass task "
            "needs two. Name another column with --label, or give more rows."
        )
    where = _usable_rows(column, task)
    reason = column.summary
    if task == "binary":
        reason = (
            f"{column.kind}, {float(np.nanmean(column.numbers)):.1%} are {'true' if column.kind == 'boolean' else 1}"
        )
    return Label(column, task, reason, where)


def _task(column: Column) -> str:
    values = set(column.encoded.dictionary.to_pylist()) if column.distinct <= 2 else set()
    if column.reads_as_text:  # only these texts are taken for 0 and 1
        is_binary = len(values) == 2 and values in ({"0", "1"}, {"false", "true"})
    else:
        is_binary = column.distinct == 2 and (column.kind == "boolean" or (column.is_number and _zero_one(column)))
    if is_binary:
        return "binary"
    return "regression" if column.is_number and not is_few(column) else "multiclass"


def is_few(column: Column) -> bool:
    """Return whether integers have so few values, each in many rows, that they are classes."""
    return column.kind == "integer" and column.distinct <= _FEW and column.filled >= 5 * column.distinct


def _zero_one(column: Column) -> bool:
    return set(column.numbers[np.isfinite(column.numbers)].tolist()) == {0.0, 1.0}


def _usable_rows(column: Column, task: str) -> str | None:
    """Return the SQL condition that leaves out rows with a missing label or a class that is too rare; None if none."""
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


def leak(column: Column, label: Label) -> str | None:
    """Return how a column reveals the label, as a clause; None if it does not."""
    goal = label.column
    both = (column.codes >= 0) & (goal.codes >= 0)
    if both.sum() < 10:
        return None
    if (
        column.is_number
        and goal.is_number
        and (why := _same_number(column.numbers[both], goal.numbers[both], goal.name))
    ):
        return why
    if label.task == "regression":
        return None
    mine, theirs = column.codes[both], goal.codes[both]
    return _maps(mine, theirs, goal.name) or _separates(column, label) or _filled_for_one(column, goal)


def _same_number(x: NDArray[np.float64], y: NDArray[np.float64], name: str) -> str | None:
    if len(np.unique(x)) <= _FEW or len(np.unique(y)) <= _FEW:
        return None
    if abs(np.corrcoef(x, y)[0, 1]) > 0.9999:
        return f"it is {name} up to scale"
    ranks = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    if (ranks[0] == ranks[1]).all() or (ranks[0] == ranks[1].max() - ranks[1]).all():
        return f"it has the same order as {name} in every row"
    return None


def _maps(mine: NDArray[np.int64], theirs: NDArray[np.int64], name: str) -> str | None:
    """Each value has rows of one label only, and there are many rows a value."""
    pairs = len(np.unique(mine * (theirs.max() + 1) + theirs))
    values, labels = len(np.unique(mine)), len(np.unique(theirs))
    if pairs != values or labels < 2 or len(mine) < 10 * values:
        return None
    return (
        f"its values are those of {name}, one to one"
        if values == labels
        else f"each value has one value of {name} only"
    )


def _separates(column: Column, label: Label) -> str | None:
    """Numbers of one class are all below those of the other."""
    if not column.is_number or label.column.distinct != 2:
        return None
    x, codes = column.numbers, label.column.codes
    first, second = (x[(codes == i) & np.isfinite(x)] for i in (0, 1))
    if min(len(first), len(second)) < 20 or (first.max() >= second.min() and second.max() >= first.min()):
        return None
    return f"its numbers separate the values of {label.column.name} without an exception"


def _filled_for_one(column: Column, goal: Column) -> str | None:
    """Nearly all rows with a value have the same label, which chance would hardly do."""
    known = goal.codes >= 0
    filled = known & (column.codes >= 0)
    if not 20 <= filled.sum() < known.sum():
        return None
    counts = np.bincount(goal.codes[filled], minlength=goal.distinct)
    most = int(counts.argmax())
    base = (goal.codes[known] == most).mean()
    if counts[most] < 0.98 * filled.sum() or base > 0.9 or base ** filled.sum() > _CHANCE:
        return None
    return f"it is filled in (nearly) only where {goal.name} is {goal.encoded.dictionary[most].as_py()}"
