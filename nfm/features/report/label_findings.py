"""Findings in the labels: folds with one label only, folds whose labels differ from the train fold's, rare classes."""

from collections.abc import Iterator, Mapping
from math import log, sqrt
from typing import Any

from nfm.reports.page import short

SIGNIFICANT = 3.0  # standard errors
SHIFTED = 0.5  # standard deviations between the mean labels of two folds
RARE = 10  # rows of a class in the train fold

_NAMED = 3  # maximum number of classes that a finding names
_CONSEQUENCES = {
    "train": "there is nothing to learn from",
    "valid": "training cannot stop early, and trials cannot be compared",
    "test": "the trained model cannot be evaluated",
}


def fold_findings(statistics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the findings about each fold: about, kind and text."""
    rows = statistics["rows"]
    for fold, consequence in _CONSEQUENCES.items():
        if not rows[fold]:
            yield f"{fold} fold", "no rows", f"No rows: {consequence}."
        elif (only := _only_label(statistics, fold)) is not None:
            yield f"{fold} fold", "one label", f"All {rows[fold]:,} labels are {only}: {consequence}."
        elif fold != "train" and rows["train"]:
            for kind, text in _compare_with_train(statistics, fold):
                yield f"{fold} fold", kind, f"{text}."


def _only_label(statistics: Mapping[str, Any], fold: str) -> str | None:
    """Return the label that all rows of a fold have; None if there are several labels."""
    label, n = statistics["label"], statistics["rows"][fold]
    if label["task"] == "ranking":
        return None
    if label["task"] == "binary":
        return {0: "0", n: "1"}.get(label["positive"][fold])
    if label["task"] == "regression":
        facts = label["by_fold"][fold]
        return f"{facts['min']:.6g}" if facts["min"] == facts["max"] else None
    return next((_quote(facts) for facts in label["classes"] if facts[fold] == n), None)


def _compare_with_train(statistics: Mapping[str, Any], fold: str) -> Iterator[tuple[str, str]]:
    """Compare the labels of a held-out fold with those of the train fold; both have rows. Yields kind and text."""
    rows, label = statistics["rows"], statistics["label"]
    n = rows[fold]
    if label["task"] == "ranking":
        return
    if label["task"] == "regression":
        here, train = label["by_fold"][fold], label["by_fold"]["train"]
        difference = abs(here["mean"] - train["mean"])
        error = sqrt(here["std"] ** 2 / n + train["std"] ** 2 / rows["train"])
        if train["std"] and difference > max(SHIFTED * train["std"], SIGNIFICANT * error):
            yield (
                "label mean",
                f"The mean label is {here['mean']:.4g}, compared with {train['mean']:.4g} in the train fold: a "
                f"difference of {difference / train['std']:.2g} standard deviations of the train fold",
            )
    elif label["task"] == "binary":
        positive, train_positive = label["positive"][fold], label["positive"]["train"]
        # Negatives are left out of the train fold only, so count them to compare the rates.
        train_rows = rows["train"] + statistics.get("left_out", 0)
        if train_positive and _differs(positive, n, train_positive, train_rows):
            here, train = positive / n, train_positive / train_rows
            ratio = f"{here / train:.2g} times"
            yield "label rate", f"The label rate is {here:.2%}, compared with {train:.2%} in the train fold ({ratio})"
    else:
        # Of many classes, some differ by chance, so the threshold rises with their number.
        significant = sqrt(SIGNIFICANT**2 + 2 * log(len(label["classes"])))
        shares = [
            (facts, facts[fold] / n, facts["train"] / rows["train"])
            for facts in label["classes"]
            if facts["train"] and _differs(facts[fold], n, facts["train"], rows["train"], significant)
        ]
        if shares:
            shares.sort(key=lambda share: -abs(share[1] - share[2]))
            named = [f"{_quote(facts)} has {here:.2%} of the rows against {train:.2%}" for facts, here, train in shares]
            more = f" (and {len(shares) - _NAMED} more classes)" if len(shares) > _NAMED else ""
            yield "label rate", f"{', '.join(named[:_NAMED])} in the train fold{more}"


def _differs(positive: int, n: int, train_positive: int, train_n: int, significant: float = SIGNIFICANT) -> bool:
    """Check whether a rate is outside 0.5 … 2 times the train fold's rate, by more than chance explains."""
    ratio = (positive / n) / (train_positive / train_n)
    pooled = (positive + train_positive) / (n + train_n)
    error = sqrt(pooled * (1 - pooled) * (1 / n + 1 / train_n))
    return not 0.5 <= ratio <= 2 and abs(positive / n - train_positive / train_n) > significant * error


def class_findings(label: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the finding about classes with few rows in the train fold: about, kind and text."""
    classes = label.get("classes", [])
    rare = sorted((facts for facts in classes if facts["train"] < RARE), key=lambda facts: facts["train"])
    if rare:
        named = ", ".join(f"{_quote(facts)} ({facts['train']})" for facts in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        text = f"{len(rare):,} of {len(classes):,} classes have fewer than {RARE} rows in the train fold"
        yield label["column"], "rare classes", f"{text}: {named}{more}."


def _quote(facts: Mapping[str, Any]) -> str:
    return f"‘{short(facts['class'], 40)}’"
