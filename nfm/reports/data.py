"""Tables of statistics.json in the reports of features and of training; data.html.jinja shows them."""

from collections.abc import Mapping
from typing import Any

from nfm.contract.schema import FOLDS
from nfm.reports.charts import MEDIUM, SMALL, Chart, histogram

CLASSES = 50  # largest classes, which are shown


def data_tables(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the template's macros for a table's statistics."""
    label, numbers = statistics["label"], statistics["numbers"]
    return {
        "folds": FOLDS,
        "rows": statistics["rows"],
        "times": statistics.get("times"),
        "label": {"column": "label", **label},  # encodings of older versions lack the name
        "ranked": "positive" in label,  # fields and numbers have an AUC
        "classes": _largest(label)[:CLASSES],
        "label_chart": _histogram(label, MEDIUM),
        "fields": by_auc(statistics["fields"]),
        "top_of": count_values(statistics["fields"], statistics["rows"]["train"]),
        "numbers": by_auc(numbers),
        "charts": {name: _histogram(facts, SMALL) for name, facts in numbers.items()},
        "approximate": any(not facts.get("exact", True) for facts in numbers.values()),
    }


def _histogram(facts: Mapping[str, Any], size: tuple[int, int]) -> Chart | None:
    counted = facts.get("histogram")
    return histogram(counted["edges"], counted["counts"], bool(facts.get("log")), size) if counted else None


def _largest(label: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the classes with their `number`, the largest of the train fold first; empty unless multiclass."""
    numbered = [{"number": number, **counts} for number, counts in enumerate(label.get("classes", []))]
    return sorted(numbered, key=lambda counts: -int(counts["train"]))


def by_auc(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Sort fields or numbers by AUC, the highest first; those without an AUC keep their order, at the end."""

    def order(item: tuple[str, Mapping[str, Any]]) -> float:
        auc = item[1].get("auc")
        return 0.0 if auc is None else -auc

    return dict(sorted(facts.items(), key=order))


def count_values(fields: Mapping[str, Mapping[str, Any]], rows: int) -> dict[str, int]:
    """Return, by field, the number of values in the train fold, summed over the fields that share its vocabulary."""
    owners = {}
    for name, facts in fields.items():
        form = facts.get("form", "")
        owners[name] = form.removeprefix("shared:") if form.startswith("shared:") else name
    totals = dict.fromkeys(owners.values(), 0)
    for name, owner in owners.items():
        totals[owner] += fields[name]["values"]["train"] if "values" in fields[name] else rows
    return {name: totals[owner] for name, owner in owners.items()}
