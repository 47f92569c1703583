"""The score job's report: _report.json for programs, _report.html for people."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nfm.reports import page
from nfm.reports.charts import Axis, Bars, Chart, chart, steps
from nfm.scoring.health.gates import lift_gates
from nfm.scoring.health.health import LARGE, describe_keys, describe_settings, has_drifted, score_reports

SCORES_MARKER = "_report.json"  # every folder of scores has one
REPORT = "_report.html"  # readers of the scores ignore names with this prefix
STABLE = 0.1  # a PSI below this is usually read as stable
PLOTS = 6  # classes with a chart, and columns with a table of their bins

Facts = Mapping[str, Any]  # about a score column, a field or a number, from `compare_with_training`


def refused_folder(target: Path) -> Path:
    """Return the folder for a refused run's report: beside the output, with a name that readers of tables ignore."""
    target = target.resolve()
    return target.parent / f"_refused_{target.name.replace('=', '-')}"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write _report.json and _report.html."""
    (folder / SCORES_MARKER).write_text(json.dumps(report, indent=1))
    filters = {"describe_psi": describe_psi, "level": level}
    page.write(folder / REPORT, "scoring/health/report.html.jinja", _content(report), **filters)


def _content(report: Mapping[str, Any]) -> dict[str, Any]:
    scores, columns = by_psi(score_reports(report)), by_psi(report["values"])
    crossed = report["gates"]["crossed"]
    unseen = [(name, facts) for name, facts in columns if facts.get("out_of_vocabulary", {}).get("count")]
    unseen.sort(key=lambda column: column[1]["out_of_vocabulary"]["rate"], reverse=True)
    return {
        "report": report,
        "crossed": crossed,
        "lifted": lift_gates(crossed),
        "several": "scores" in report,
        "fold": next((facts["reference"]["fold"] for _, facts in scores if "reference" in facts), None),
        "profiled": any("reference" in facts or "bins" in facts for _, facts in [*scores, *columns]),
        "scores": scores,
        "plotted": [(name, facts, score_chart(facts)) for name, facts in scores[:PLOTS]],
        "columns": columns,
        "drifted_scores": [name for name, facts in scores if has_drifted(facts)],
        "drifted_columns": [name for name, facts in columns if has_drifted(facts)],
        "most_unseen": unseen[0] if unseen else None,
        "binned": [
            (name, facts, bin_shares(facts))
            for name, facts in columns[:PLOTS]
            if facts["psi"] is not None and any(facts["bins"]["counts"])
        ],
        "new": [(name, facts) for name, facts in unseen if facts.get("new_values")],
        "skipped": report["skipped_files"],
        "bad_rows": report["bad_rows"],
        "keys": describe_keys(report),
        "settings": describe_settings(report),
        "LARGE": LARGE,
        "STABLE": STABLE,
        "PLOTS": PLOTS,
    }


def describe_psi(facts: Facts) -> str:
    """Describe a PSI in the usual words."""
    psi = facts["psi"]
    if psi is None:
        return "not known"
    if psi <= facts["psi_by_chance"]:
        return "within chance"
    return "stable" if psi < STABLE else "moderate drift" if psi <= LARGE else "large drift"


def level(facts: Facts) -> str:
    """Return the CSS class for a PSI, by how serious it is."""
    psi = facts["psi"]
    if psi is None or psi < STABLE or psi <= facts["psi_by_chance"]:
        return "calm"
    return "large" if psi > LARGE else "moderate"


def by_psi(columns: Mapping[str, Facts]) -> list[tuple[str, Facts]]:
    """Sort columns by PSI, the largest first; those without a PSI keep their order, at the end."""
    return sorted(columns.items(), key=lambda item: -1.0 if item[1]["psi"] is None else item[1]["psi"], reverse=True)


def score_chart(facts: Facts) -> Chart | None:
    """Draw tonight's scores as bars and the reference as a line; return None if there are no scores."""
    reference = facts.get("reference") or {}
    tonight, before = facts.get("histogram"), reference.get("histogram")
    known = tonight or before
    if known is None:
        return None
    edges = known["edges"]
    shares = _shares(tonight["counts"]) if tonight else [0.0] * (len(edges) - 1)
    expected = _shares(before["counts"]) if before else []
    top = max(*shares, *expected, 0.0)
    if not top:
        return None
    titles = []
    for (low, high), share, reference_share in zip(pairwise(edges), shares, expected or shares, strict=True):
        added = f", {reference['fold']} fold {page.percent(reference_share)}" if expected else ""
        titles.append(f"{page.compact(low)} … {page.compact(high)}: tonight {page.percent(share)}{added}")
    along = edges if edges[0] < edges[-1] else [edges[0] - 0.5, edges[0] + 0.5]
    marks: list[Any] = [Bars(along, shares, "test", "tonight", titles)]
    if expected:
        marks.append(steps(along, expected, "valid", f"{reference['fold']} fold"))
    return chart(marks, Axis(along[0], along[-1], "score"), Axis(0, top, "share of the rows", percent=True))


def bin_shares(facts: Facts) -> list[tuple[str, float, float]]:
    """Return the name of each bin of a column, its share tonight, and its share in the train fold."""
    bins = facts["bins"]
    return list(zip(bins["names"], _shares(bins["counts"]), _shares(bins["training"]), strict=True))


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
