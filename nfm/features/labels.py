"""Labels of each task: read from raw rows, checked when all are counted, described in the statistics.

binary: 0 and 1, or false and true. regression: a finite number. multiclass: any category; the labels of the train fold
are the classes, numbered in the order of their values.
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
from nfm.contract.schema import FOLDS, Kind
from nfm.contract.values import dictionary_indices, encode_dictionary, kind_of, to_floats
from nfm.features.statistics import Distribution, number_facts

Task = Literal["binary", "regression", "multiclass"]
MOST_CLASSES = 1000  # each costs an output of the model, and a column of the scores
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # that are told of a regression's labels

_ONE, _ZERO = ("1", "true"), ("0", "false")
_TAKES: dict[Task, str] = {
    "binary": "0 and 1 (or false and true)",
    "regression": "finite numbers that 32-bit floats can hold",
    "multiclass": "a text, number, boolean or date in every row",
}


class Label(NamedTuple):
    """The label's column, what it contains, and the task."""

    column: str
    kind: Kind
    task: Task = "binary"


class LabelRows(NamedTuple):
    """The labels of N rows."""

    texts: Values  # canonical; of a regression only the W that are no finite number, as they are written
    numbers: NDArray[np.float64] | None  # (N,) of a regression; NaN where there is no finite number
    is_one: NDArray[np.bool_]  # (N,) of a binary task
    is_zero: NDArray[np.bool_]  # (N,) of a binary task; what is neither is refused when all are counted


@dataclass(frozen=True)
class Labels:
    """Facts of the labels, from their counts."""

    rows: dict[str, int]  # by fold
    positive: dict[str, int]  # rows of label 1, by fold; none where the task is not binary
    classes: tuple[str, ...]  # of a multiclass task: canonical texts, by number
    classes_before: int  # so many of them are those of the encoding that this one grew from
    facts: dict[str, Any]  # what statistics.json says


def open_label(column: str, type_: pa.DataType, task: Task, where: str) -> Label:
    """Return the label; raise DataError if its column's type cannot hold what the task takes."""
    kind = kind_of(type_)
    if kind is None or (task == "regression" and kind not in ("number", "text")):
        other = " If it is a category, that is model.task: binary or multiclass." if kind else ""
        raise DataError(
            f"Column '{column}' of {where} is {type_}: the label of a {task} task takes {_TAKES[task]}. Cast it in the "
            f"source, or name another column as columns.label.{other}"
        )
    return Label(column, kind, task)


def check_task(task: Task, classes: Sequence[str], where: str) -> None:
    """Raise DataError unless an encoding with these classes can grow by rows of this task."""
    if bool(classes) != (task == "multiclass"):
        was = f"the {len(classes)} classes of a multiclass task" if classes else "no classes"
        raise DataError(
            f"The encoding in {where} cannot grow: its labels were {was}, and model.task is {task}. Put model.task "
            "back, or make the features anew, without --grow-from."
        )


def read(rows: Rows, label: Label) -> LabelRows:
    """Read the labels of N rows, right and wrong ones; DataError for a text that is not a number, in a regression."""
    if label.task == "regression":
        return _read_numbers(rows.column(label.column), label.column)
    values = read_field_values((label.column,), (label.kind,), None, rows)

    def means(texts: Sequence[str]) -> NDArray[np.bool_]:
        if label.task != "binary":
            return np.zeros(rows.num_rows, np.bool_)
        found = pc.fill_null(pc.is_in(values.texts, pa.array(texts, pa.large_string())), False)
        means_it: NDArray[np.bool_] = np.append(found.to_numpy(zero_copy_only=False), False)[values.indices]
        return means_it

    return LabelRows(values, None, means(_ONE), means(_ZERO))


def _read_numbers(array: pa.Array, column: str) -> LabelRows:
    x = to_floats(array, column)
    with np.errstate(over="ignore"):  # what float32 cannot hold is wrong
        x = np.where(np.isfinite(x.astype(np.float32)), x, np.nan)
    wrong = encode_dictionary(array.take(pa.array(np.flatnonzero(np.isnan(x)))))
    texts = [None if value is None else str(value) for value in wrong.dictionary.to_pylist()]
    neither = np.zeros(len(x), np.bool_)
    return LabelRows(Values(pa.array(texts, pa.large_string()), dictionary_indices(wrong)), x, neither, neither)


def column(labels: LabelRows, label: Label, classes: Sequence[str]) -> NDArray[np.float32]:
    """(N,) the dataset's label: 0 or 1, the number, or the number of the class.

    Raises DataError for a label that did not exist when the classes were counted.
    """
    if labels.numbers is not None:
        return labels.numbers.astype(np.float32)
    if label.task == "binary":
        return labels.is_one.astype(np.float32)
    places = pc.fill_null(pc.index_in(labels.texts.texts, pa.array(classes, pa.large_string())), -1)
    found = np.append(places.to_numpy(zero_copy_only=False), -1)[labels.texts.indices]
    if (found < 0).any():
        raise DataError(
            f"Column '{label.column}' holds labels that were not there when the classes were counted: the table "
            "changed while it was read. The old dataset was left as it was; run the job again."
        )
    return found.astype(np.float32)


def check(label: Label, counts: pa.Table, cells: Cells | None, old_classes: Sequence[str], where: str) -> Labels:
    """Check the counted labels and derive their facts; DataError for unusable labels, or without a row to train on.

    `counts`: the rows of its texts, like `sums.SUMMARY`; `cells`: a regression's numbers; None without rows;
    `old_classes`: of the encoding that this one grows from; empty without it, or in other tasks.
    """
    _refuse_wrong(label, counts, where)
    if label.task == "regression":
        rows = {fold: 0 if cells is None else int(cells.counts[:, i].sum()) for i, fold in enumerate(FOLDS)}
    else:
        rows = {fold: rows_of(counts, fold) for fold in FOLDS}
    if not rows["train"]:
        raise DataError(
            f"The train fold of {where} is empty: the table has {sum(rows.values())} rows, of which {rows['valid']} "
            f"fall to validation and {rows['test']} to test. Check source.path, source.where and split."
        )
    facts: dict[str, Any] = {"column": label.column, "task": label.task}
    positive, classes = dict.fromkeys(FOLDS, 0), tuple(old_classes)
    if label.task == "binary":
        ones = counts.filter(pc.field("text").isin(_ONE))
        positive = {fold: rows_of(ones, fold) for fold in FOLDS}
        facts |= {"positive": positive, "rate": {fold: positive[fold] / n if n else None for fold, n in rows.items()}}
    elif label.task == "regression":
        facts |= _number_facts(cells)
    else:
        classes = _classes(label, counts, old_classes, where)
        by_class = {row["text"]: {fold: row[fold] for fold in FOLDS} for row in counts.to_pylist()}
        none = dict.fromkeys(FOLDS, 0)  # of an older class that this table does not have
        facts["classes"] = [{"class": text, **by_class.get(text, none)} for text in classes]
    return Labels(rows, positive, classes, len(old_classes), facts)


def _refuse_wrong(label: Label, counts: pa.Table, where: str) -> None:
    null = pc.field("text").is_null()
    nulls, others = rows_of(counts.filter(null)), counts.filter(~null)
    if label.task == "binary":
        others = others.filter(~pc.field("text").isin([*_ONE, *_ZERO]))
    elif label.task == "multiclass":
        others = others.slice(0, 0)
    if nulls or len(others):
        found, other = [f"{nulls} null labels"] if nulls else [], ""
        if len(others):
            found.append(f"{rows_of(others)} labels that are something else, {_example(others)} for one")
            if label.task == "binary":
                other = " For other labels there are model.task: regression and multiclass."
        raise DataError(
            f"Column '{label.column}' of {where} is the label of a {label.task} task, which takes "
            f"{_TAKES[label.task]}, but holds {' and '.join(found)}. {CORRECT_ROWS}{other}"
        )


def _example(counts: pa.Table) -> str:
    """The most frequent text."""
    return quoted(max(counts.to_pylist(), key=lambda row: (sum(row[fold] for fold in FOLDS), row["text"]))["text"])


def _classes(label: Label, counts: pa.Table, old: Sequence[str], where: str) -> tuple[str, ...]:
    """The older classes, then the new ones of the train fold in the order of their values."""
    about = f"Column '{label.column}' of {where} is the label of a multiclass task"
    in_train = counts.filter(pc.field("train") > 0)
    # A summary names the most frequent labels only, but counts all.
    found = pc.sum(in_train["train_values"]).as_py()
    if found > MOST_CLASSES:
        raise DataError(
            f"{about}, which takes {MOST_CLASSES:,} classes at most, but has {found:,} different labels in the train "
            f"fold, {_example(in_train)} for one. If it is a number to predict, that is model.task: regression; else "
            "put rare classes together in the source."
        )
    new = set(in_train["text"].to_pylist()) - set(old)
    classes = (*old, *sorted(new, key=Decimal if label.kind == "number" else str.encode))
    if len(classes) < 2:
        raise DataError(
            f"{about}, which takes two classes at least, but all {rows_of(counts, 'train')} labels of the train fold "
            f"are {_example(in_train)}. Check columns.label, source.where and split."
        )
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{about}, which takes {MOST_CLASSES:,} classes at most, but {len(new):,} new ones would be added to "
            f"{len(old):,}. Make the features anew, without --grow-from, or put rare classes together in the source."
        )
    unseen = counts.filter(~pc.field("text").isin(pa.array(classes, pa.large_string())))
    if len(unseen):
        raise DataError(
            f"{about}, but {rows_of(unseen)} rows of the validation and test folds have one that the train fold does "
            f"not have, {_example(unseen)} for one: the model would have no output for it. Leave such rows out with "
            "source.where, or change split so that the train fold has every class."
        )
    return classes


def _number_facts(cells: Cells | None) -> dict[str, Any]:
    """Facts of the train fold, and mean and spread of each fold."""
    by_fold = {fold: Distribution.of_fold(cells, fold) for fold in FOLDS}
    train = by_fold["train"]
    facts = number_facts(cells, train, {})
    return {
        **{key: value for key, value in facts.items() if key not in ("missing", "auc")},
        "quantiles": {f"{q:g}": train.quantile(q) for q in QUANTILES},
        "by_fold": {fold: found.facts() if found.rows else None for fold, found in by_fold.items()},
    }


def rows_of(counts: pa.Table, *folds: str) -> int:
    """The number of rows behind some counts, in these folds or in all."""
    return sum(pc.sum(counts[fold]).as_py() or 0 for fold in folds or FOLDS)
