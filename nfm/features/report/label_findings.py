"""What stands out in the labels of each task: one label only, other labels than the train fold's, rare classes."""

from collections.abc import Iterator, Mapping
from math import log, sqrt
from typing import Any

SIGNIFICANT = 3.0  # standard errors
SHIFTED = 0.5  # standard deviations that a fold's mean label is off
RARE = 10  # rows of a class in the train fold

_NAMED = 3  # classes that are named, of those a finding is about
_LONGEST = 40  # letters of a class


def only_label(statistics: Mapping[str, Any], fold: str) -> str | None:
    """The label of all rows of a fold that has rows; None where they have several."""
    label, n = statistics["label"], statistics["rows"][fold]
    if label["task"] == "binary":
        ones = label["positive"][fold]
        return {0: "0", n: "1"}.get(ones)
    if label["task"] == "regression":
        facts = label["by_fold"][fold]
        return f"{facts['min']:.6g}" if facts["min"] == facts["max"] else None
    return next((_quoted(one["class"]) for one in label["classes"] if one[fold] == n), None)


def other_labels(statistics: Mapping[str, Any], fold: str) -> Iterator[tuple[str, str]]:
    """How the labels of a held-out fold differ from the train fold's (both have rows): the kind, and a text."""
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
                f"{off / train['std']:.2g} of its standard deviations off: scores will be off by about as much",
            )
        return
    if label["task"] == "binary":
        ones, of_train = label["positive"][fold], label["positive"]["train"]
        # Negatives are left out of the train fold only: its rate is compared as if they were still there.
        whole = rows["train"] + statistics.get("left_out", 0)
        if of_train and _differ(ones, n, of_train, whole):
            yield (
                "label rate",
                f"The label rate is {ones / n:.2%} against {of_train / whole:.2%} in the train fold "
                f"({ones / n / (of_train / whole):.2g} times): scores will be off by about as much",
            )
        return
    # Of many classes some differ by chance: each has to differ by more.
    significant = sqrt(SIGNIFICANT**2 + 2 * log(len(label["classes"])))
    other = [
        one
        for one in label["classes"]
        if one["train"] and _differ(one[fold], n, one["train"], rows["train"], significant)
    ]
    if other:
        other.sort(key=lambda one: -abs(one[fold] / n - one["train"] / rows["train"]))
        told = [
            f"{_quoted(one['class'])} has {one[fold] / n:.2%} of the rows against {one['train'] / rows['train']:.2%}"
            for one in other[:_NAMED]
        ]
        more = f" (and {len(other) - _NAMED} more classes)" if len(other) > _NAMED else ""
        yield "label rate", f"{', '.join(told)} in the train fold{more}: scores will be off by about as much"


def _differ(ones: int, n: int, ones_of_train: int, n_of_train: int, significant: float = SIGNIFICANT) -> bool:
    """Whether a rate is outside 0.5 … 2 times the train fold's, and not by chance."""
    ratio = (ones / n) / (ones_of_train / n_of_train)
    pooled = (ones + ones_of_train) / (n + n_of_train)
    error = sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_of_train))
    return not 0.5 <= ratio <= 2 and abs(ones / n - ones_of_train / n_of_train) > significant * error


def of_classes(label: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Classes of a multiclass label that have few rows in the train fold: about, kind, text."""
    rare = sorted((one for one in label.get("classes", []) if one["train"] < RARE), key=lambda one: one["train"])
    if rare:
        named = ", ".join(f"{_quoted(one['class'])} ({one['train']})" for one in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        yield (
            label["column"],
            "rare classes",
            f"{len(rare):,} of {len(label['classes']):,} classes have fewer than {RARE} rows in the train fold: "
            f"{named}{more}. Little can be learned of them. Put them together in the source, or leave them out with "
            "source.where.",
        )


def _quoted(text: str) -> str:
    return f"‘{text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}’"
