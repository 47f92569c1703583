"""report.html of an encoding: what the feature job found in the table, on one page that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, log10
from pathlib import Path
from typing import Any, NamedTuple

from nfm.contract.schema import FOLDS
from nfm.features.report.findings import KINDS, SERIOUS
from nfm.reports import page

MANY = 5  # findings of one kind: more are folded up
HISTOGRAM = (150, 34)  # width and height of a number's histogram
CLASSES = 20  # that are shown, the largest: more are folded up


def write(path: Path, statistics: Mapping[str, Any]) -> None:
    """Write the report of an encoding from its statistics: findings, folds, fields, numbers.

    Args:
        path: of the page.
        statistics: what statistics.json holds.
    """
    page.write(path, "features/report/report.html.jinja", _content(statistics))


def _content(statistics: Mapping[str, Any]) -> dict[str, Any]:
    found = statistics.get("findings") or []
    return {
        "statistics": statistics,
        "folds": FOLDS,
        "ranked": statistics["label"]["task"] == "binary",  # a field alone has an AUC
        "classes": largest(statistics["label"]),
        "CLASSES": CLASSES,
        "created": page.moment(statistics.get("created")),
        "groups": groups(found),
        "noticed": {finding["about"] for finding in found},
        "fields": by_auc(statistics["fields"]),
        "counted": counted(statistics["fields"]),
        "numbers": by_auc(statistics["numbers"]),
        "pictures": {name: histogram(facts) for name, facts in statistics["numbers"].items()},
        "label_picture": histogram(statistics["label"]),
        "has_zeros": any("zeros" in facts for facts in statistics["numbers"].values()),
        "approximate": any(not facts.get("exact", True) for facts in statistics["numbers"].values()),
        "grown": statistics.get("grown"),
        "skipped": statistics.get("skipped_files") or [],
        "left_out": statistics.get("left_out") or 0,
        "MANY": MANY,
    }


class Group(NamedTuple):
    """The findings of one kind."""

    kind: str
    meaning: str  # what they have in common
    serious: bool
    findings: Sequence[Mapping[str, str]]


def groups(found: Sequence[Mapping[str, str]]) -> list[Group]:
    """Findings by kind, the most serious kind first; a kind that is not known comes last."""
    order = {kind: i for i, kind in enumerate(KINDS)}
    ordered = sorted(found, key=lambda finding: (order.get(finding["kind"], len(order)), finding["kind"]))
    return [
        Group(kind, KINDS.get(kind, "stand out"), kind in SERIOUS, list(same))
        for kind, same in groupby(ordered, key=lambda finding: finding["kind"])
    ]


def largest(label: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The classes of a multiclass label with their `number`, the largest of the train fold first; none elsewhere."""
    numbered = [{"number": number, **one} for number, one in enumerate(label.get("classes", []))]
    return sorted(numbered, key=lambda one: -int(one["train"]))


def by_auc(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The fields that tell the most about the label first; without an AUC in their own order, at the end."""

    def order(item: tuple[str, Mapping[str, Any]]) -> float:
        auc = item[1].get("auc")
        return 0.0 if auc is None else -auc

    return dict(sorted(facts.items(), key=order))


def counted(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Of how many values of the train fold a field's most frequent ones are: of all fields that share a vocabulary."""
    owners = {name: _owner(name, facts["form"]) for name, facts in fields.items()}
    totals = dict.fromkeys(owners.values(), 0)
    for name, owner in owners.items():
        totals[owner] += fields[name]["values"]["train"]
    return {name: totals[owner] for name, owner in owners.items()}


def _owner(name: str, form: str) -> str:
    return form.removeprefix("shared:") if form.startswith("shared:") else name


@dataclass(frozen=True)
class Histogram:
    """A histogram as it is drawn."""

    bars: Sequence[page.Bar]
    low: float
    high: float
    log: bool
    width: int = HISTOGRAM[0]
    height: int = HISTOGRAM[1]


def histogram(facts: Mapping[str, Any]) -> Histogram | None:
    """Where the bars of a number's histogram stand; None where there is nothing to draw.

    A bin is as wide as what it spans: on a logarithmic axis, the ratio of its edges.
    """
    drawn = facts.get("histogram")
    if not drawn or not any(drawn["counts"]):
        return None
    edges, counts = drawn["edges"], drawn["counts"]
    low, high, most = edges[0], edges[-1], max(counts)
    width, height = HISTOGRAM
    log = bool(facts.get("log")) and low > 0
    along = [log10(edge) if log else edge for edge in edges]
    span = along[-1] - along[0]
    even = span <= 0 or not isfinite(span)
    places = [i / len(counts) if even else (at - along[0]) / span for i, at in enumerate(along)]
    bars = []
    for count, left, right, at, to in zip(counts, edges, edges[1:], places, places[1:], strict=False):
        if count:
            tall = max(1.5, height * count / most)  # what is there is seen
            gap = 0.5 if (to - at) * width > 2 else 0
            about = f"{page.compact(left)} … {page.compact(right)}: {count:,}"
            bars.append(
                page.Bar(
                    round(at * width, 2),
                    round(height - tall, 2),
                    round(max(1, (to - at) * width - gap), 2),
                    round(tall, 2),
                    about,
                )
            )
    return Histogram(bars, low, high, log)
