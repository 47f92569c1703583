"""Findings in the statistics of an encoding. Each says what was found, why it matters, and what to do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from nfm.features.report.label_findings import class_findings, fold_findings


class Kind(NamedTuple):
    """A kind of finding."""

    meaning: str  # predicate of a sentence about several fields, numbers or folds
    advice: str


_SHIFTED = (
    "Scores will be wrong by about as much, and metrics of the two folds cannot be compared. Check whether split puts "
    "rows of another kind into the fold, or whether labels of the latest rows are still incomplete."
)
_LATE = "Leave it out unless it is known when a row is scored."
KINDS = {  # in the order of the report, the most serious first
    "one label": Kind("have rows with one label only", "Check the label's column, and how split assigns rows."),
    "leak": Kind("rank the labels almost perfectly", f"It nearly repeats the label. {_LATE}"),
    "unique": Kind("have a different value in nearly every row", "Leave it out, or use a coarser column instead."),
    "skipped files": Kind(
        "have files that could not be read",
        "Their rows are not in the dataset. Restore the files and run the feature job again.",
    ),
    "bad rows": Kind(
        "have rows that do not fit the columns",
        "These rows are not in the dataset (source.on_bad_row: skip). Repair them and run the feature job again.",
    ),
    "named like the label": Kind("are named like the label", f"It may be known only when the label is. {_LATE}"),
    "possible leak": Kind("rank the labels suspiciously well", f"Such a high AUC is rare. {_LATE}"),
    "no rows": Kind("have no rows", "Check the shares or dates in split."),
    "label rate": Kind("have another label rate than the train fold", _SHIFTED),
    "label mean": Kind("have another mean label than the train fold", _SHIFTED),
    "rare classes": Kind(
        "have very few rows",
        "The model can learn little about them. Merge them in the source, or leave them out with source.where.",
    ),
    "unseen": Kind("have many values that the vocabulary lacks", "Otherwise use a coarser column, or hash_buckets."),
    "nearly all missing": Kind(
        "are missing in nearly every row",
        "Usually such a column is not filled, or is read incorrectly. Leave it out unless this is intended.",
    ),
    "constant": Kind(
        "are the same in every row",
        "The model cannot learn from it. Leave it out, or check how the column is filled.",
    ),
    "missing": Kind(
        "are missing in most rows",
        "Check how the column is filled, and keep it if a missing value is informative.",
    ),
}
SERIOUS = ("one label", "leak", "unique", "skipped files", "bad rows")

FEW = 50  # with fewer values, a share is not meaningful
UNIQUE = 0.95
MISSING, NEARLY_ALL_MISSING = 0.5, 0.95
LEAK, POSSIBLE_LEAK = 0.99, 0.95
FEW_LABELS = 5  # with fewer rows of either label, a high AUC may be chance
UNSEEN = 0.2

_SHORTEST = 3  # letters in the name of a label that is specific enough to compare: not y, not id
# Generic words in the names of labels.
_GENERIC = {"is", "has", "was", "did", "will", "the", "label", "target", "outcome", "class", "flag", "y"}


def findings(statistics: Mapping[str, Any], columns_key: Sequence[str], label: str | None) -> list[dict[str, str]]:
    """Return what a user should check before training, the most serious finding first.

    Each finding has `about` (a field, number or fold), `kind` (one of `KINDS`) and `text`.
    """
    rows, judged = statistics["rows"], _judged_labels(statistics)
    found = [*fold_findings(statistics), *class_findings(statistics["label"])]
    skipped = statistics.get("skipped_files", [])
    if skipped:
        files = f"{len(skipped):,} files" if len(skipped) > 1 else f"One file ({skipped[0]})"
        found.append(("source", "skipped files", f"{files} could not be read."))
    if bad := statistics.get("bad_rows", 0):
        found.append(("source", "bad rows", f"{bad:,} row{'s' * (bad > 1)} could not be parsed."))
    for name, facts in statistics["fields"].items():
        columns = facts.get("columns") or [name]
        found += [(name, *finding) for finding in _field_findings(facts, set(columns) <= set(columns_key))]
        found += [(name, *finding) for finding in _column_findings(columns, facts, facts["values"], judged, label)]
    for name, facts in statistics["numbers"].items():
        columns = facts.get("columns") or [name]
        if rows["train"] > 1 and not facts["missing"]["train"] and "min" in facts and facts["min"] == facts["max"]:
            found.append((name, "constant", "Every row of the train fold has the same number."))
        found += [(name, *finding) for finding in _column_findings(columns, facts, rows, judged, label)]
    found.sort(key=lambda finding: list(KINDS).index(finding[1]))
    return [{"about": about, "kind": kind, "text": f"{text} {KINDS[kind].advice}"} for about, kind, text in found]


def _judged_labels(statistics: Mapping[str, Any]) -> int:
    """Return how many of the rows on which AUCs are measured have the rarer label; 0 if the task is not binary."""
    if statistics["label"]["task"] != "binary":
        return 0
    rows, positive = statistics["rows"], statistics["label"]["positive"]
    ones = positive["valid"] + positive["test"]
    return int(min(ones, rows["valid"] + rows["test"] - ones))


def _field_findings(facts: Mapping[str, Any], is_key: bool) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the findings that only fields can have."""
    distinct = (facts["distinct"] or {}).get("train")
    missing = facts["missing"]["train"]
    present = facts["values"]["train"] - missing
    if distinct == 1 and not missing and present > 1:
        yield "constant", "Every row of the train fold has the same value."
    if distinct is not None and present >= FEW and distinct >= UNIQUE * present:
        key = " It is part of columns.key, which identifies a row." if is_key else ""
        text = f"{distinct:,} different values among {present:,} of the train fold: values almost never repeat, so "
        yield "unique", f"{text}nothing learned about them applies to new rows.{key}"
        return  # values of other folds are then out of the vocabulary, too
    coverage = facts["coverage"] or {}
    lacking = {
        fold: 1 - coverage[fold]
        for fold in ("valid", "test")
        if coverage.get(fold) is not None and facts["values"][fold] - facts["missing"][fold] >= FEW
    }
    if max(lacking.values(), default=0) > UNSEEN:
        shares = " and ".join(f"{share:.1%} of the {fold} fold’s values" for fold, share in lacking.items())
        train = 0.0 if coverage["train"] is None else 1 - coverage["train"]
        if train > UNSEEN / 2:
            why = (
                f"{train:.1%} of the train fold’s values are not in it either: the vocabulary is too small. Lower "
                "min_count, or raise max_size."
            )
        else:
            why = (
                "It contains the train fold’s values, so the others are too rare or change with time: grow the "
                "vocabulary more often."
            )
        yield "unseen", f"{shares} are not in the vocabulary of {facts['vocabulary']:,} values. {why}"


def _column_findings(
    columns: Sequence[str], facts: Mapping[str, Any], values: Mapping[str, int], labels: int, label: str | None
) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the findings that both fields and numbers can have."""
    missing, auc = facts["missing"]["train"], facts.get("auc")
    share = missing / values["train"] if values["train"] else 0
    if share > MISSING:
        rows = "every row" if missing == values["train"] else f"{share:.1%}"
        yield "nearly all missing" if share > NEARLY_ALL_MISSING else "missing", f"Missing in {rows} of the train fold."
    if auc is not None and auc >= POSSIBLE_LEAK and labels >= FEW_LABELS:
        text = f"On its own, it ranks the valid and test rows with an AUC of {auc:.3f}."
        yield "leak" if auc >= LEAK else "possible leak", text
    matches = [column for column in columns if label is not None and names_label(column, label)]
    if matches:
        alone = "" if auc is None else f" (on its own, it has an AUC of {auc:.3f})"
        yield "named like the label", f"Column {', '.join(matches)} is named like the label, {label}{alone}."


def names_label(column: str, label: str) -> bool:
    """Check whether a column's name contains the label's name, word by word, or is nearly equal to it.

    Case, underscores, digits and endings (click, clicked, clicks) are ignored. A short or generic label name (y, id,
    target) matches only an equal name.
    """
    column_words, label_words = _words(column), _words(label)
    column_text, label_text = "".join(column_words), "".join(label_words)
    if len(label_text) < _SHORTEST:
        return False
    if column_text == label_text:
        return True
    specific = [word for word in label_words if word not in _GENERIC]
    if len("".join(specific)) < _SHORTEST:
        return False
    column_stems, label_stems = [_stem(word) for word in column_words], [_stem(word) for word in specific]
    n = len(label_stems)
    if any(column_stems[i : i + n] == label_stems for i in range(len(column_stems))):
        return True
    similarity = SequenceMatcher(None, column_text, label_text).ratio()
    return min(len(column_text), len(label_text)) > 5 and similarity >= 0.9


def _words(name: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[^\W\d_]+", separated.casefold())
    return [word for word in words if len(word) > 1] or words  # converted_7d → converted


def _stem(word: str) -> str:
    stem = re.sub(r"(?<=...)(ings?|ed|es|s|d|e)$", "", word)
    return re.sub(r"(?<=...)(.)\1$", r"\1", stem)  # cancelled → cancel
