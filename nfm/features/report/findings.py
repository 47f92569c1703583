"""What stands out in the statistics of an encoding: what is seen, why it matters, and what to do."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from nfm.features.report.label_findings import of_classes, only_label, other_labels

# Each kind and what it means for several fields at once; the most serious first. Findings come in this order.
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

FEW = 50  # of so few values, a share says little
UNIQUE = 0.95
MISSING, NEARLY_ALL_MISSING = 0.5, 0.95
LEAK, POSSIBLE_LEAK = 0.99, 0.95
FEW_LABELS = 5  # rows of either label: below, a high AUC is easily an accident
UNSEEN = 0.2

_SHORTEST = 3  # letters of a label whose name tells anything: not y, not id
# Words that a label's name has without saying what it is about.
_HELPERS = {"is", "has", "was", "did", "will", "the", "label", "target", "outcome", "class", "flag", "y"}


def findings(statistics: Mapping[str, Any], columns_key: Sequence[str], label: str) -> list[dict[str, str]]:
    """What a person should look at before training, the most serious first.

    Args:
        statistics: of the encoding, as in statistics.json.
        columns_key: the key columns of the table.
        label: the label's column.

    Returns:
        For each finding what it is about, its kind (one of `KINDS`) and a text.
    """
    found = list(_of_folds(statistics))
    labels = _judged_labels(statistics)
    for name, facts in statistics["fields"].items():
        columns = facts.get("columns") or [name]
        rows = facts["values"]
        found += [(name, *what) for what in _of_field(facts, set(columns) <= set(columns_key))]
        found += [(name, *what) for what in _of_column(columns, facts, rows, labels, label, number=False)]
    for name, facts in statistics["numbers"].items():
        columns = facts.get("columns") or [name]
        found += [(name, *what) for what in _of_number(facts, statistics["rows"]["train"])]
        found += [(name, *what) for what in _of_column(columns, facts, statistics["rows"], labels, label, number=True)]
    order = list(KINDS)
    found.sort(key=lambda finding: order.index(finding[1]))
    return [{"about": about, "kind": kind, "text": text} for about, kind, text in found]


def _of_folds(statistics: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    rows = statistics["rows"]
    for fold in ("train", "valid", "test"):
        about = f"{fold} fold"
        if not rows[fold]:
            lost = {
                "train": "there is nothing to learn from",
                "valid": "training cannot stop early or be compared on rows it has not seen",
                "test": "nothing tells how good the finished model is on new rows",
            }[fold]
            yield about, "no rows", f"No rows: {lost}. Check the shares or dates in split."
            continue
        only = only_label(statistics, fold)
        if only is not None:
            task = statistics["label"]["task"]
            lost = "the AUC is not defined on it" if task == "binary" else "it tells one label from no other"
            lost = "a model learns nothing from it" if fold == "train" else lost
            yield (
                about,
                "one label",
                f"All {rows[fold]:,} labels are {only}: {lost}. Check the label's column, and how split parts rows.",
            )
        elif fold != "train" and rows["train"]:
            for kind, seen in other_labels(statistics, fold):
                yield (
                    about,
                    kind,
                    f"{seen}, and metrics of the two folds cannot be compared. Check whether the split takes rows of "
                    "another kind, or whether labels of the latest rows are still to come.",
                )
    yield from of_classes(statistics["label"])
    skipped = statistics.get("skipped_files", [])
    if skipped:
        several = len(skipped) > 1
        files = f"{len(skipped):,} files" if several else f"One file ({skipped[0]})"
        yield (
            "source",
            "skipped files",
            f"{files} could not be read and {'are' if several else 'is'} left out: no count here has "
            f"{'their' if several else 'its'} rows. Restore {'them' if several else 'it'} and run the feature job "
            "again.",
        )


def _judged_labels(statistics: Mapping[str, Any]) -> int:
    """Rows of the rarer label among those that the AUC of a field is measured on; none where there is no AUC."""
    if statistics["label"]["task"] != "binary":
        return 0
    rows, positive = statistics["rows"], statistics["label"]["positive"]
    ones = positive["valid"] + positive["test"]
    return int(min(ones, rows["valid"] + rows["test"] - ones))


def _of_field(facts: Mapping[str, Any], of_key: bool) -> Iterator[tuple[str, str]]:
    distinct = (facts["distinct"] or {}).get("train")
    missing = facts["missing"]["train"]
    present = facts["values"]["train"] - missing
    if distinct == 1 and not missing and present > 1:
        yield "constant", _constant("value")
    if distinct is not None and present >= FEW and distinct >= UNIQUE * present:
        key = "It is part of columns.key, the name of a row. " if of_key else ""
        yield (
            "unique",
            f"{distinct:,} different values among {present:,} of the train fold: hardly any comes again, so what is "
            f"learned of one says nothing of new rows. {key}Leave it out, or use a coarser column in its place.",
        )
        return  # that other folds have other values follows from it
    coverage = facts["coverage"] or {}
    unseen = {
        fold: 1 - coverage[fold]
        for fold in ("valid", "test")
        if coverage.get(fold) is not None and facts["values"][fold] - facts["missing"][fold] >= FEW
    }
    if max(unseen.values(), default=0) > UNSEEN:
        shares = " and ".join(f"{share:.1%} of the {fold} fold’s values" for fold, share in unseen.items())
        of_train = 0.0 if coverage["train"] is None else 1 - coverage["train"]
        yield (
            "unseen",
            f"{shares} are not in the vocabulary of {facts['vocabulary']:,}, so the model cannot tell them apart. "
            + (
                f"Nor are {of_train:.1%} of the train fold’s: the vocabulary is too small. Lower min_count, raise "
                "max_size, or use hash_buckets."
                if of_train > UNSEEN / 2
                else "The vocabulary has the train fold’s values, so they are too rare or change with time. Use a "
                "coarser column or hash_buckets; if it is time, make the encoding anew or let it grow more often."
            ),
        )


def _of_number(facts: Mapping[str, Any], rows: int) -> Iterator[tuple[str, str]]:
    if rows > 1 and not facts["missing"]["train"] and "min" in facts and facts["min"] == facts["max"]:
        yield "constant", _constant("number")


def _constant(what: str) -> str:
    return (
        f"Every row of the train fold has the same {what}: nothing can be learned from it. Leave it out, or check "
        "whether the column is filled as it should be."
    )


def _of_column(
    columns: Sequence[str], facts: Mapping[str, Any], rows: Mapping[str, int], labels: int, label: str, number: bool
) -> Iterator[tuple[str, str]]:
    """What fields and numbers have in common."""
    missing = facts["missing"]["train"]
    share = missing / rows["train"] if rows["train"] else 0
    if share > NEARLY_ALL_MISSING:
        every = missing == rows["train"]
        yield (
            "nearly all missing",
            f"Missing in {'every row' if every else f'{share:.1%}'} of the train fold: it can say next to nothing, and "
            "usually the column is not filled at all, or misread. Leave it out unless that is meant.",
        )
    elif share > MISSING:
        flag = "; missing_flag tells the model where" if number else ""
        yield (
            "missing",
            f"Missing in {share:.1%} of the train fold: there it says only that. Check how the column is filled, and "
            f"keep it if a missing value means something{flag}.",
        )
    auc = facts.get("auc")
    if auc is not None and auc >= POSSIBLE_LEAK and labels >= FEW_LABELS:
        seen = f"On its own it ranks the validation and test rows with an AUC of {auc:.3f}: "
        if auc >= LEAK:
            yield (
                "leak",
                f"{seen}it all but repeats the label, as a column does that is filled only once the label is known. "
                "Leave it out unless it is known when a row is scored.",
            )
        else:
            yield (
                "possible leak",
                f"{seen}look at it, few columns are so good. Leave it out if it is filled only once the label is "
                "known.",
            )
    named = [column for column in columns if names_label(column, label)]
    if named:
        alone = "" if auc is None else f" (alone it has an AUC of {auc:.3f})"
        yield (
            "named like the label",
            f"Column {', '.join(named)} is named like the label, {label}{alone}: it may be known no sooner than the "
            "label is. Leave it out unless it is known when a row is scored.",
        )


def names_label(column: str, label: str) -> bool:
    """Whether a column's name holds the label's, word by word, or is nearly the same.

    Case, underscores, digits and endings (click, clicked, clicks) do not count. A label whose name says nothing
    (y, id, target) is found only in a name that is the same.
    """
    ours, theirs = _words(column), _words(label)
    whole, of_label = "".join(ours), "".join(theirs)
    if len(of_label) < _SHORTEST:
        return False
    if whole == of_label:
        return True
    told = [word for word in theirs if word not in _HELPERS]
    if len("".join(told)) < _SHORTEST:
        return False
    stems, wanted = [_stem(word) for word in ours], [_stem(word) for word in told]
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
