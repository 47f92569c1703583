"""Findings in the statistics of an encoding: what was found, why it matters, and what to do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from nfm.features.report.label_findings import class_findings, fold_findings

# Each kind, and its meaning for several fields at once; findings are sorted in this order.
KINDS = {
    "one label": "have rows of one label only",
    "leak": "rank the labels almost perfectly",
    "unique": "differ in nearly every row",
    "skipped files": "lost files",
    "named like the label": "are named like the label",
    "possible leak": "rank the labels suspiciously well",
    "no rows": "have no rows",
    "label rate": "have another label rate than the train fold",
    "label mean": "have another mean label than the train fold",
    "rare classes": "have hardly any rows",
    "unseen": "have many values that the vocabulary lacks",
    "nearly all missing": "are missing in nearly every row",
    "constant": "are the same in every row",
    "missing": "are missing in most rows",
}
SERIOUS = ("one label", "leak", "unique", "skipped files")

FEW = 50  # below this number of values, a share says little
UNIQUE = 0.95
MISSING, NEARLY_ALL_MISSING = 0.5, 0.95
LEAK, POSSIBLE_LEAK = 0.99, 0.95
FEW_LABELS = 5  # rows of either label: below, a high AUC is easily an accident
UNSEEN = 0.2

CONSTANT = (
    "Every row of the train fold has the same value, so nothing can be learned from it. Leave it out, or check how "
    "the column is filled."
)

_SHORTEST = 3  # letters of a label whose name says anything: not y, not id
# Words in the name of a label that do not say what it is about.
_HELPERS = {"is", "has", "was", "did", "will", "the", "label", "target", "outcome", "class", "flag", "y"}


def findings(statistics: Mapping[str, Any], columns_key: Sequence[str], label: str) -> list[dict[str, str]]:
    """Return what a person should look at before training, the most serious first.

    Args:
        statistics: content of statistics.json.
        columns_key: the key columns of the table.
        label: the label's column.

    Returns:
        For each finding `about` (a field, number or fold), `kind` (one of `KINDS`) and `text`.
    """
    rows, judged = statistics["rows"], _judged_labels(statistics)
    found = [*fold_findings(statistics), *class_findings(statistics["label"]), *_source_findings(statistics)]
    for of_numbers, columns_of_table in ((False, statistics["fields"]), (True, statistics["numbers"])):
        for name, facts in columns_of_table.items():
            columns = facts.get("columns") or [name]
            if of_numbers:
                what = list(_number_findings(facts, rows["train"]))
            else:
                what = list(_field_findings(facts, set(columns) <= set(columns_key)))
            what += _missing_findings(facts, facts.get("values", rows)["train"], of_numbers)
            what += _leak_findings(columns, facts.get("auc"), judged, label)
            found += [(name, kind, text) for kind, text in what]
    found.sort(key=lambda finding: list(KINDS).index(finding[1]))
    return [{"about": about, "kind": kind, "text": text} for about, kind, text in found]


def _source_findings(statistics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    skipped = statistics.get("skipped_files", [])
    if skipped:
        files = f"{len(skipped):,} files" if len(skipped) > 1 else f"One file ({skipped[0]})"
        yield (
            "source",
            "skipped files",
            f"{files} could not be read: the rows are missing here. Restore the data and run the feature job again.",
        )


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
        yield "constant", CONSTANT
    if distinct is not None and present >= FEW and distinct >= UNIQUE * present:
        key = "It is part of columns.key, which identifies a row. " if of_key else ""
        yield (
            "unique",
            f"{distinct:,} different values among {present:,} of the train fold: hardly any value occurs again, so "
            f"nothing learned from one applies to new rows. {key}Leave it out, or use a coarser column instead.",
        )
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
            why = (
                f"So are {of_train:.1%} of the train fold’s values: the vocabulary is too small. Lower min_count, "
                "raise max_size, or use hash_buckets."
            )
        else:
            why = (
                "The vocabulary has the train fold’s values, so they are too rare or change with time. Use a coarser "
                "column or hash_buckets; if they change with time, rebuild or grow the encoding more often."
            )
        yield (
            "unseen",
            f"{shares} are missing from the vocabulary of {facts['vocabulary']:,}, so the model cannot distinguish "
            f"them. {why}",
        )


def _number_findings(facts: Mapping[str, Any], rows: int) -> Iterator[tuple[str, str]]:
    if rows > 1 and not facts["missing"]["train"] and "min" in facts and facts["min"] == facts["max"]:
        yield "constant", CONSTANT


def _missing_findings(facts: Mapping[str, Any], values: int, number: bool) -> Iterator[tuple[str, str]]:
    missing = facts["missing"]["train"]
    share = missing / values if values else 0
    if share > NEARLY_ALL_MISSING:
        yield (
            "nearly all missing",
            f"Missing in {'every row' if missing == values else f'{share:.1%}'} of the train fold: usually such a "
            "column is not filled, or is misread. Leave it out unless this is intended.",
        )
    elif share > MISSING:
        flag = "; missing_flag shows the model where" if number else ""
        yield (
            "missing",
            f"Missing in {share:.1%} of the train fold. Check how the column is filled, and keep it if a missing "
            f"value means something{flag}.",
        )


def _leak_findings(columns: Sequence[str], auc: float | None, labels: int, label: str) -> Iterator[tuple[str, str]]:
    if auc is not None and auc >= POSSIBLE_LEAK and labels >= FEW_LABELS:
        seen = f"On its own it ranks the validation and test rows with an AUC of {auc:.3f}"
        if auc >= LEAK:
            yield (
                "leak",
                f"{seen}: it nearly repeats the label, like a column that is filled only once the label is known. "
                "Leave it out unless it is known when a row is scored.",
            )
        else:
            yield "possible leak", f"{seen}, which is rare. Leave it out if it is filled only once the label is known."
    named = [column for column in columns if names_label(column, label)]
    if named:
        alone = "" if auc is None else f" (alone it has an AUC of {auc:.3f})"
        yield (
            "named like the label",
            f"Column {', '.join(named)} is named like the label, {label}{alone}: it may be known only once the label "
            "is. Leave it out unless it is known when a row is scored.",
        )


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
