"""Labels of each model task: read them from raw rows, check their counts, and describe them in the statistics.

A binary label is 0 or 1, or false or true. A regression label is a finite number. A multiclass label is any category;
the labels of the train fold are the classes, numbered in the order of their values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.cells import Cells
from nfm.contract.columns import Rows, Values, read_field_values
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.scaling import describe_lost_precision
from nfm.contract.schema import FOLDS, Kind
from nfm.contract.values import dictionary_indices, encode_dictionary, kind_of, to_floats
from nfm.features.statistics import Distribution, describe_number

Task = Literal["binary", "regression", "multiclass", "ranking"]
MAX_CLASSES = 1000  # each class needs an output of the model and a column of the scores
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of regression labels, in the statistics

_ONE, _ZERO = ("1", "true"), ("0", "false")
_ACCEPTED: dict[Task, str] = {
    "binary": "0 or 1 (or false or true)",
    "regression": "a finite number in the range of 32-bit floats",
    "multiclass": "a text, number, boolean or date in every row",
    "ranking": "absent",
}


class Label(NamedTuple):
    """Column of the label, its kind, and the model task."""

    column: str  # empty for ranking, which has no label: each row is an interaction, and counts as label 1
    kind: Kind
    task: Task = "binary"


class LabelRows(NamedTuple):
    """Labels of N rows, valid or not; `check` refuses invalid labels when all are counted."""

    texts: Values  # canonical texts; for regression, only the raw texts of labels that are not finite numbers
    numbers: NDArray[np.float64] | None  # (N,) for regression; NaN if the label is not a finite number
    is_one: NDArray[np.bool_]  # (N,) for a binary task; False for others
    is_zero: NDArray[np.bool_]  # (N,) for a binary task; False for others


@dataclass(frozen=True)
class Labels:
    """Statistics of the labels, from their counts."""

    rows: dict[str, int]  # by fold
    positive: dict[str, int]  # rows with label 1, by fold; 0 unless the task is binary
    classes: tuple[str, ...]  # canonical texts of a multiclass task's classes, by number
    classes_before: int  # how many of the classes are from the encoding that this one grew from
    facts: dict[str, Any]  # content of `label` in statistics.json


def open_label(column: str, type_: pa.DataType, task: Task, where: str) -> Label:
    """Return the label; DataError if the type of its column does not suit the model task."""
    kind = kind_of(type_)
    if kind is None or (task == "regression" and kind not in ("number", "text")):
        hint = " If the label is a category, set model.task: binary or multiclass." if kind else ""
        raise DataError(
            f"Column '{column}' of {where} is {type_}: the label of a {task} task must be {_ACCEPTED[task]}. Cast it "
            f"in the source, or set columns.label to another column.{hint}"
        )
    return Label(column, kind, task)


NO_LABEL = Label("", "number", "ranking")


def check_task(task: Task, classes: Sequence[str], where: str) -> None:
    """Raise DataError unless an encoding with these classes can grow with rows of this model task."""
    if bool(classes) != (task == "multiclass"):
        old = f"it has the {len(classes)} classes of a multiclass task" if classes else "it has no classes"
        raise DataError(
            f"The encoding in {where} cannot grow: {old}, and model.task is {task}. Restore model.task, or run the "
            "feature job without --grow-from."
        )


def read(rows: Rows, label: Label) -> LabelRows:
    """Read the labels of N rows, valid or not; DataError if a regression label is a text that is not a number."""
    if label.task == "regression":
        return _read_numbers(rows.column(label.column), label.column)
    if label.task == "ranking":
        none, count = np.zeros(rows.num_rows, np.bool_), rows.num_rows
        return LabelRows(Values(pa.array(["1"], pa.large_string()), np.zeros(count, np.int32)), None, none, none)
    values = read_field_values((label.column,), (label.kind,), None, rows)

    def is_any(texts: Sequence[str]) -> NDArray[np.bool_]:
        if label.task != "binary":
            return np.zeros(rows.num_rows, np.bool_)
        matches = pc.fill_null(pc.is_in(values.texts, pa.array(texts, pa.large_string())), False)
        row_matches: NDArray[np.bool_] = np.append(matches.to_numpy(zero_copy_only=False), False)[values.indices]
        return row_matches

    return LabelRows(values, None, is_any(_ONE), is_any(_ZERO))


def _read_numbers(array: pa.Array, column: str) -> LabelRows:
    x = to_floats(array, column)
    with np.errstate(over="ignore"):  # numbers beyond float32 become infinite, and are invalid labels
        x = np.where(np.isfinite(x.astype(np.float32)), x, np.nan)
    invalid = encode_dictionary(array.take(pa.array(np.flatnonzero(np.isnan(x)))))
    texts = [None if value is None else str(value) for value in invalid.dictionary.to_pylist()]
    not_binary = np.zeros(len(x), np.bool_)
    values = Values(pa.array(texts, pa.large_string()), dictionary_indices(invalid))
    return LabelRows(values, x, not_binary, not_binary)


def encode(labels: LabelRows, label: Label, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return the dataset's (N,) labels: 0 or 1, the number, or the number of the class.

    Raises DataError for a label that was not in the table when the classes were counted.
    """
    if labels.numbers is not None:
        return labels.numbers.astype(np.float32)
    if label.task == "binary":
        return labels.is_one.astype(np.float32)
    if label.task == "ranking":
        return np.ones(len(labels.is_one), np.float32)
    numbers = pc.fill_null(pc.index_in(labels.texts.texts, pa.array(classes, pa.large_string())), -1)
    row_numbers = np.append(numbers.to_numpy(zero_copy_only=False), -1)[labels.texts.indices]
    if (row_numbers < 0).any():
        raise DataError(
            f"Column '{label.column}' has labels that were not in the table when the classes were counted: the table "
            "changed while it was read. The old dataset is unchanged; run the job again."
        )
    return row_numbers.astype(np.float32)


def check(label: Label, counts: pa.Table, cells: Cells | None, old_classes: Sequence[str], where: str) -> Labels:
    """Check the counted labels, and return their statistics.

    Args:
        label: The label.
        counts: Counts of the label's texts, with the schema `sums.SUMMARY`.
        cells: Counts of a regression's numbers; None without rows.
        old_classes: Classes of the encoding that this one grows from, if any.
        where: Description of the table, for messages.

    Raises:
        DataError: a label is invalid, the classes cannot be used, or the train fold is empty.
    """
    _check_valid(label, counts, where)
    if label.task == "regression":
        rows = {fold: 0 if cells is None else int(cells.counts[:, i].sum()) for i, fold in enumerate(FOLDS)}
    else:
        rows = {fold: sum_rows(counts, fold) for fold in FOLDS}
    if not rows["train"]:
        raise DataError(
            f"The train fold of {where} is empty: the table has {sum(rows.values())} rows, of which {rows['valid']} "
            f"are in the valid fold and {rows['test']} in the test fold. Check source.path, source.where and split."
        )
    facts: dict[str, Any] = {"column": label.column, "task": label.task}
    positive, classes = dict.fromkeys(FOLDS, 0), tuple(old_classes)
    if label.task == "binary":
        ones = counts.filter(pc.field("text").isin(_ONE))
        positive = {fold: sum_rows(ones, fold) for fold in FOLDS}
        facts |= {"positive": positive, "rate": {fold: positive[fold] / n if n else None for fold, n in rows.items()}}
    elif label.task == "regression":
        facts |= _number_facts(cells)
        if (reason := describe_lost_precision(facts["mean"], facts["std"])) is not None:
            raise DataError(f"Column '{label.column}' of {where} is the label; its rows of the train fold {reason}.")
    elif label.task == "multiclass":
        classes = _classes(label, counts, old_classes, where)
        by_class = {row["text"]: {fold: row[fold] for fold in FOLDS} for row in counts.to_pylist()}
        no_rows = dict.fromkeys(FOLDS, 0)  # for an older class that this table does not contain
        facts["classes"] = [{"class": text, **by_class.get(text, no_rows)} for text in classes]
    return Labels(rows, positive, classes, len(old_classes), facts)


def _check_valid(label: Label, counts: pa.Table, where: str) -> None:
    """Raise DataError if a label is null or not valid for the model task."""
    null = pc.field("text").is_null()
    nulls, invalid = sum_rows(counts.filter(null)), counts.filter(~null)
    if label.task == "binary":
        invalid = invalid.filter(~pc.field("text").isin([*_ONE, *_ZERO]))
    elif label.task != "regression":
        invalid = invalid.slice(0, 0)
    if nulls or len(invalid):
        problems, hint = [f"{nulls} null labels"] if nulls else [], ""
        if len(invalid):
            problems.append(f"{sum_rows(invalid)} other labels, for example {_example(invalid)}")
            if label.task == "binary":
                task = "regression or multiclass" if _are_numbers(invalid["text"]) else "multiclass"
                hint = f" For other labels, set model.task: {task}."
        raise DataError(
            f"Column '{label.column}' of {where} is the label of a {label.task} task, which must be "
            f"{_ACCEPTED[label.task]}, but it has {' and '.join(problems)}. {CORRECT_ROWS}{hint}"
        )


def _are_numbers(texts: pa.ChunkedArray) -> bool:
    try:
        to_floats(texts.combine_chunks(), "text")
    except DataError:
        return False
    return True


def _example(counts: pa.Table) -> str:
    """Return the most frequent text, quoted."""
    return quoted(max(counts.to_pylist(), key=lambda row: (sum(row[fold] for fold in FOLDS), row["text"]))["text"])


def _classes(label: Label, counts: pa.Table, old: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the older classes, then the new classes of the train fold in the order of their values."""
    subject = f"Column '{label.column}' of {where} is the label of a multiclass task"
    in_train = counts.filter(pc.field("train") > 0)
    # The summary lists only the most frequent labels, but counts all.
    count = pc.sum(in_train["train_values"]).as_py()
    if count > MAX_CLASSES:
        raise DataError(
            f"{subject}, which may have at most {MAX_CLASSES:,} classes, but it has {count:,} different labels in the "
            f"train fold, for example {_example(in_train)}. If the label is a number to predict, set model.task: "
            "regression; otherwise merge rare classes in the source."
        )
    new = set(in_train["text"].to_pylist()) - set(old)
    classes = (*old, *sorted(new, key=Decimal if label.kind == "number" else str.encode))
    if len(classes) < 2:
        raise DataError(
            f"{subject}, which must have at least two classes, but all {sum_rows(counts, 'train')} labels of the train "
            f"fold are {_example(in_train)}. Check columns.label, source.where and split."
        )
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{subject}, which may have at most {MAX_CLASSES:,} classes, but {len(new):,} new classes would be added "
            f"to {len(old):,}. Run the feature job without --grow-from, or merge rare classes in the source."
        )
    unseen = counts.filter(~pc.field("text").isin(pa.array(classes, pa.large_string())))
    if len(unseen):
        raise DataError(
            f"{subject}, but {sum_rows(unseen)} rows of the valid and test folds have labels that the train fold does "
            f"not have, for example {_example(unseen)}: the model would have no output for them. Leave such rows out "
            "with source.where, or change split so that the train fold has every class."
        )
    return classes


def _number_facts(cells: Cells | None) -> dict[str, Any]:
    """Return the statistics of the train fold's labels, and the moments of each fold's labels."""
    by_fold = {fold: Distribution.of_fold(cells, fold) for fold in FOLDS}
    train = by_fold["train"]
    facts = describe_number(cells, train, {})
    return {
        **{key: value for key, value in facts.items() if key not in ("missing", "auc")},
        "quantiles": {f"{q:g}": train.quantile(q) for q in QUANTILES},
        "by_fold": {fold: labels.facts() if labels.rows else None for fold, labels in by_fold.items()},
    }


def sum_rows(counts: pa.Table, *folds: str) -> int:
    """Return the number of rows that were counted, in these folds or in all."""
    return sum(pc.sum(counts[fold]).as_py() or 0 for fold in folds or FOLDS)
