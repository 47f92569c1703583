"""Findings in the statistics of an encoding: what was found, why it matters, and what to do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from nfm.features.report.label_findings import class_findings, fold_findings


class Kind(NamedTuple):
    """A kind of finding."""

    meaning: str  # for several fields at once
    advice: str


_SHIFTED = (
    "Scores will be off by about as much, and metrics of the two folds cannot be compared. Check whether split selects "
    "rows of another kind, or whether labels of the latest rows are still incomplete."
)
_LATE = "Leave it out unless it is known when a row is scored."
KINDS = {  # findings are sorted in this order, the most serious first
    "one label": Kind("have rows of one label only", "Check the label's column, and how split assigns rows."),
    "leak": Kind("rank the labels almost perfectly", f"It nearly repeats the label. {_LATE}"),
    "unique": Kind("differ in nearly every row", "Leave it out, or use a coarser column instead."),
    "skipped files": Kind("lost files", "Their rows are missing here. Restore them and run the feature job again."),
    "named like the label": Kind("are named like the label", f"It may be known only once the label is. {_LATE}"),
    "possible leak": Kind("rank the labels suspiciously well", f"That is rare. {_LATE}"),
    "no rows": Kind("have no rows", "Check the shares or dates in split."),
    "label rate": Kind("have another label rate than the train fold", _SHIFTED),
    "label mean": Kind("have another mean label than the train fold", _SHIFTED),
    "rare classes": Kind(
        "have hardly any rows",
        "Little can be learned about them. Merge them in the source, or leave them out with source.where.",
    ),
    "unseen": Kind("have many values that the vocabulary lacks", "Otherwise use a coarser column, or hash_buckets."),
    "nearly all missing": Kind(
        "are missing in nearly every row",
        "Usually such a column is not filled, or is misread. Leave it out unless this is intended.",
    ),
    "constant": Kind(
        "are the same in every row",
        "Nothing can be learned from it. Leave it out, or check how the column is filled.",
    ),
    "missing": Kind(
        "are missing in most rows",
        "Check how the column is filled, and keep it if a missing value means something.",
    ),
}
SERIOUS = ("one label", "leak", "unique", "skipped files")

FEW = 50  # below this number of values, a share says little
UNIQUE = 0.95
MISSING, NEARLY_ALL_MISSING = 0.5, 0.95
LEAK, POSSIBLE_LEAK = 0.99, 0.95
FEW_LABELS = 5  # rows of either label: below, a high AUC is easily an accident
UNSEEN = 0.2

_SHORTEST = 3  # letters of a label whose name says anything: not y, not id
# Words in the name of a label that do not say what it is about.
_HELPERS = {"is", "has", "was", "did", "will", "the", "label", "target", "outcome", "class", "flag", "y"}


def findings(statistics: Mapping[str, Any], columns_key: Sequence[str], label: str) -> list[dict[str, str]]:
    """Return what a person should look at before training, the most serious first.

    Each finding has `about` (a field, number or fold), `kind` (one of `KINDS`) and `text`.
    """
    rows, judged = statistics["rows"], _judged_labels(statistics)
    found = [*fold_findings(statistics), *class_findings(statistics["label"])]
    skipped = statistics.get("skipped_files", [])
    if skipped:
        files = f"{len(skipped):,} files" if len(skipped) > 1 else f"One file ({skipped[0]})"
        found.append(("source", "skipped files", f"{files} could not be read."))
    for name, facts in statistics["fields"].items():
        columns = facts.get("columns") or [name]
        found += [(name, *what) for what in _field_findings(facts, set(columns) <= set(columns_key))]
        found += [(name, *what) for what in _column_findings(columns, facts, facts["values"], judged, label)]
    for name, facts in statistics["numbers"].items():
        columns = facts.get("columns") or [name]
        if rows["train"] > 1 and not facts["missing"]["train"] and "min" in facts and facts["min"] == facts["max"]:
            found.append((name, "constant", "Every row of the train fold has the same number."))
        found += [(name, *what) for what in _column_findings(columns, facts, rows, judged, label)]
    found.sort(key=lambda finding: list(KINDS).index(finding[1]))
    return [{"about": about, "kind": kind, "text": f"{seen} {KINDS[kind].advice}"} for about, kind, seen in found]


def _judged_labels(statistics: Mapping[str, Any]) -> int:
    """Return the rows of the rarer label among those that the AUC of a field is measured on; 0 where there is none."""
    if statistics["label"]["task"] != "binary":
        return 0
    rows, positive = statistics["rows"], statistics["label"]["positive"]
    ones = positive["valid"] + positive["test"]
    return int(min(ones, rows["valid"] + rows["test"] - ones))


def _field_findings(facts: Mapping[str, Any], of_key: bool) -> Iterator[tuple[str, str]]:
    distinct = (facts["distinct"] or {}).get("train")
    missing = facts["missing"]["train"]
    present = facts["values"]["train"] - missing
    if distinct == 1 and not missing and present > 1:
        yield "constant", "Every row of the train fold has the same value."
    if distinct is not None and present >= FEW and distinct >= UNIQUE * present:
        key = " It is part of columns.key, which identifies a row." if of_key else ""
        seen = f"{distinct:,} different values among {present:,} of the train fold: hardly any value occurs again, so "
        yield "unique", f"{seen}nothing learned from one applies to new rows.{key}"
        return  # it follows that other folds have other values
    coverage = facts["coverage"] or {}
    unseen = {
        fold: 1 - coverage[fold]
        for fold in ("valid", "test")
        if coverage.get(fold) is not None and facts["values"][fold] - facts["missing"][fold] >= FEW
    }
    if max(unseen.values(), default=0) > UNSEEN:
        shares = " and ".join(f"{share:.1%} of the {fold} fold’s values" for fold, share in unseen.items())
        of_train = 0.0 if coverage["train"] is None else 1 - coverage["train"]
        if of_train > UNSEEN / 2:
            why = f"So are {of_train:.1%} of the train fold’s: it is too small. Lower min_count, or raise max_size."
        else:
            why = "The train fold’s values are in it, so they are too rare or change with time: grow it more often."
        yield "unseen", f"{shares} are missing from the vocabulary of {facts['vocabulary']:,}. {why}"


def _column_findings(
    columns: Sequence[str], facts: Mapping[str, Any], values: Mapping[str, int], labels: int, label: str
) -> Iterator[tuple[str, str]]:
    """Return what fields and numbers have in common."""
    missing, auc = facts["missing"]["train"], facts.get("auc")
    share = missing / values["train"] if values["train"] else 0
    if share > MISSING:
        rows = "every row" if missing == values["train"] else f"{share:.1%}"
        yield "nearly all missing" if share > NEARLY_ALL_MISSING else "missing", f"Missing in {rows} of the train fold."
    if auc is not None and auc >= POSSIBLE_LEAK and labels >= FEW_LABELS:
        seen = f"On its own it ranks the validation and test rows with an AUC of {auc:.3f}."
        yield "leak" if auc >= LEAK else "possible leak", seen
    named = [column for column in columns if names_label(column, label)]
    if named:
        alone = "" if auc is None else f" (alone it has an AUC of {auc:.3f})"
        yield "named like the label", f"Column {', '.join(named)} is named like the label, {label}{alone}."


def names_label(column: str, label: str) -> bool:
    """Check whether a column's name contains the label's, word by word, or is nearly the same.

    Case, underscores, digits and endings (click, clicked, clicks) are ignored. A label whose name says nothing
    (y, id, target) matches only an equal name.
    """
    ours, theirs = _words(column), _words(label)
    whole, of_label = "".join(ours), "".join(theirs)
    if len(of_label) < _SHORTEST:
        return False
    if whole == of_label:
        return True
    known = [word for word in theirs if word not in _HELPERS]
    if len("".join(known)) < _SHORTEST:
        return False
    stems, wanted = [_stem(word) for word in ours], [_stem(word) for word in known]
    if any(stems[i : i + len(wanted)] == wanted for i in range(len(stems))):
        return True
    return min(len(whole), len(of_label)) > 5 and SequenceMatcher(None, whole, of_label).ratio() >= 0.9


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[^\W\d_]+", apart.casefold())
    return [word for word in words if len(word) > 1] or words  # converted_7d is about converted


def _stem(word: str) -> str:
    stem = re.sub(r"(?<=...)(ings?|ed|es|s|d|e)$", "", word)
    return re.sub(r"(?<=...)(.)\1$", r"\1", stem)  # cancelled
