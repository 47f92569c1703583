"""The recommend job's report: _report.json for programs, _report.html for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfm.reports import page
from nfm.reports.charts import Axis, Bars, Chart, chart, steps

MARKER = "_report.json"  # every folder of lists has one
REPORT = "_report.html"  # readers of the lists ignore names with this prefix


def refused_folder(target: Path) -> Path:
    """Return the folder for a refused run's report: beside the output, with a name that readers of tables ignore."""
    target = target.resolve()
    return target.parent / f"_refused_{target.name.replace('=', '-')}"


def write_report(folder: Path, report: Mapping[str, Any], notes: list[str], lifted: str) -> None:
    """Write _report.json and _report.html; `notes` are lines about users, `lifted` disables the crossed gates."""
    (folder / MARKER).write_text(json.dumps(report, indent=1))
    content = {
        "report": report,
        "crossed": report["gates"]["crossed"],
        "lifted": lifted,
        "notes": notes,
        "drawn": _draw(report),
        "MARKER": MARKER,
    }
    page.write(folder / REPORT, "ranking/report.html.jinja", content)


def _draw(report: Mapping[str, Any]) -> Chart | None:
    """Draw the share of the lists' items, and of the interactions, by popularity of the candidate."""
    groups = report["groups"]
    lists, interactions = ([group[kind] for group in groups] for kind in ("lists", "interactions"))
    top = max(*lists, *interactions, 0.0)
    if not top:
        return None
    edges = [100 * i / len(groups) for i in range(len(groups) + 1)]
    titles = [
        f"{page.percent(a)} of the recommended items, {page.percent(b)} of the interactions"
        for a, b in zip(lists, interactions, strict=True)
    ]
    marks: list[Any] = [Bars(edges, lists, "test", "recommended items", titles)]
    marks.append(steps(edges, interactions, "valid", "interactions"))
    return chart(marks, Axis(0, 100, "candidates, the most popular first (%)"), Axis(0, top, "share", percent=True))
