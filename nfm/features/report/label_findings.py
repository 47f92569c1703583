"""Findings in the labels of each task: one label only, labels unlike those of the train fold, rare classes."""

from collections.abc import Iterator, Mapping
from math import log, sqrt
from typing import Any

from nfm.reports.page import short

SIGNIFICANT = 3.0  # standard errors
SHIFTED = 0.5  # standard deviations that a fold's mean label is off
RARE = 10  # rows of a class in the train fold

_NAMED = 3  # classes that are named, of those a finding is about
_LOST = {
    "train": "there is nothing to learn from",
    "valid": "training cannot stop early or be compared on it",
    "test": "the finished model cannot be measured on it",
}


def fold_findings(statistics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Return what stands out in each fold: about, kind, text."""
    rows = statistics["rows"]
    for fold, lost in _LOST.items():
        if not rows[fold]:
            yield f"{fold} fold", "no rows", f"No rows: {lost}."
        elif (only := _only_label(statistics, fold)) is not None:
            yield f"{fold} fold", "one label", f"All {rows[fold]:,} labels are {only}: {lost}."
        elif fold != "train" and rows["train"]:
            for kind, seen in _other_labels(statistics, fold):
                yield f"{fold} fold", kind, f"{seen}."


def _only_label(statistics: Mapping[str, Any], fold: str) -> str | None:
    """Return the label of all rows of a fold; None if there are several."""
    label, n = statistics["label"], statistics["rows"][fold]
    if label["task"] == "binary":
        return {0: "0", n: "1"}.get(label["positive"][fold])
    if label["task"] == "regression":
        facts = label["by_fold"][fold]
        return f"{facts['min']:.6g}" if facts["min"] == facts["max"] else None
    return next((_quoted(one) for one in label["classes"] if one[fold] == n), None)


def _other_labels(statistics: Mapping[str, Any], fold: str) -> Iterator[tuple[str, str]]:
    """Compare the labels of a held-out fold with the train fold's (both have rows): the kind, and a text."""
    rows, label = statistics["rows"], statistics["label"]
    n = rows[fold]
    if label["task"] == "regression":
        here, train = label["by_fold"][fold], label["by_fold"]["train"]
        off = abs(here["mean"] - train["mean"])
        error = sqrt(here["std"] ** 2 / n + train["std"] ** 2 / rows["train"])
        if train["std"] and off > max(SHIFTED * train["std"], SIGNIFICANT * error):
            yield (
                "label mean",
                f"The mean label is {here['mean']:.4g} against {train['mean']:.4g} in the train fold, "
                f"{off / train['std']:.2g} of its standard deviations off",
            )
    elif label["task"] == "binary":
        ones, of_train = label["positive"][fold], label["positive"]["train"]
        # Negatives are left out of the train fold only: compare its rate as if they were still there.
        whole = rows["train"] + statistics.get("left_out", 0)
        if of_train and _differ(ones, n, of_train, whole):
            here, train = ones / n, of_train / whole
            seen = f"The label rate is {here:.2%} against {train:.2%} in the train fold ({here / train:.2g} times)"
            yield "label rate", seen
    else:
        # Of many classes some differ by chance: each has to differ by more.
        significant = sqrt(SIGNIFICANT**2 + 2 * log(len(label["classes"])))
        shares = [(one, one[fold] / n, one["train"] / rows["train"]) for one in label["classes"] if one["train"]]
        other = [
            (one, here, train)
            for one, here, train in shares
            if _differ(one[fold], n, one["train"], rows["train"], significant)
        ]
        if other:
            other.sort(key=lambda found: -abs(found[1] - found[2]))
            named = [f"{_quoted(one)} has {here:.2%} of the rows against {train:.2%}" for one, here, train in other]
            more = f" (and {len(other) - _NAMED} more classes)" if len(other) > _NAMED else ""
            yield "label rate", f"{', '.join(named[:_NAMED])} in the train fold{more}"


def _differ(ones: int, n: int, ones_of_train: int, n_of_train: int, significant: float = SIGNIFICANT) -> bool:
    """Check whether a rate is outside 0.5 … 2 times the train fold's, and not by chance."""
    ratio = (ones / n) / (ones_of_train / n_of_train)
    pooled = (ones + ones_of_train) / (n + n_of_train)
    error = sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_of_train))
    return not 0.5 <= ratio <= 2 and abs(ones / n - ones_of_train / n_of_train) > significant * error


def class_findings(label: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Return the classes of a multiclass label that have few rows in the train fold: about, kind, text."""
    rare = sorted((one for one in label.get("classes", []) if one["train"] < RARE), key=lambda one: one["train"])
    if rare:
        named = ", ".join(f"{_quoted(one)} ({one['train']})" for one in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        seen = f"{len(rare):,} of {len(label['classes']):,} classes have fewer than {RARE} rows in the train fold"
        yield label["column"], "rare classes", f"{seen}: {named}{more}."


def _quoted(one: Mapping[str, Any]) -> str:
    return f"‘{short(one['class'], 40)}’"
