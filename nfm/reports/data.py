"""Tables of statistics.json, which the reports of features and of training share. `data.html.jinja` draws them."""

from collections.abc import Mapping
from typing import Any

from nfm.contract.schema import FOLDS
from nfm.reports.charts import MEDIUM, SMALL, Chart, histogram

CLASSES = 50  # shown, the largest


def data_tables(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template's macros draw of a table's statistics."""
    label, numbers = statistics["label"], statistics["numbers"]
    return {
        "folds": FOLDS,
        "rows": statistics["rows"],
        "label": {"column": "label", **label},  # encodings of older versions do not name it
        "ranked": "positive" in label,  # a field alone has an AUC
        "classes": _largest(label)[:CLASSES],
        "label_chart": _histogram(label, MEDIUM),
        "fields": by_auc(statistics["fields"]),
        "top_of": values_counted(statistics["fields"], statistics["rows"]["train"]),
        "numbers": by_auc(numbers),
        "charts": {name: _histogram(facts, SMALL) for name, facts in numbers.items()},
        "approximate": any(not facts.get("exact", True) for facts in numbers.values()),
    }


def _histogram(facts: Mapping[str, Any], size: tuple[int, int]) -> Chart | None:
    counted = facts.get("histogram")
    return histogram(counted["edges"], counted["counts"], bool(facts.get("log")), size) if counted else None


def _largest(label: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The classes with their `number`, the largest of the train fold first; none unless the task is multiclass."""
    numbered = [{"number": number, **one} for number, one in enumerate(label.get("classes", []))]
    return sorted(numbered, key=lambda one: -int(one["train"]))


def by_auc(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Sort fields or numbers by AUC, the highest first; those without an AUC keep their order, at the end."""

    def order(item: tuple[str, Mapping[str, Any]]) -> float:
        auc = item[1].get("auc")
        return 0.0 if auc is None else -auc

    return dict(sorted(facts.items(), key=order))


def values_counted(fields: Mapping[str, Mapping[str, Any]], rows: int) -> dict[str, int]:
    """By field, the values of the train fold that its top values are a share of: of all fields with its vocabulary."""
    owners = {}
    for name, facts in fields.items():
        form = facts.get("form", "")
        owners[name] = form.removeprefix("shared:") if form.startswith("shared:") else name
    totals = dict.fromkeys(owners.values(), 0)
    for name, owner in owners.items():
        totals[owner] += fields[name]["values"]["train"] if "values" in fields[name] else rows
    return {name: totals[owner] for name, owner in owners.items()}
