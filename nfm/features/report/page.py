"""Write report.html of an encoding: statistics of the table, and findings."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from nfm.features.report.findings import KINDS, SERIOUS
from nfm.reports import page
from nfm.reports.data import data_tables


def write(path: Path, statistics: Mapping[str, Any]) -> None:
    """Write the report of an encoding from the content of its statistics.json."""
    findings = statistics.get("findings") or []
    content = {
        "statistics": statistics,
        "data": data_tables(statistics),
        "groups": group_findings(findings),
        "serious": sum(finding["kind"] in SERIOUS for finding in findings),
        "flagged": {finding["about"] for finding in findings},
        "grown": statistics.get("grown"),
        "skipped": statistics.get("skipped_files") or [],
        "left_out": statistics.get("left_out") or 0,
    }
    page.write(path, "features/report/report.html.jinja", content)


def group_findings(findings: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Group findings by kind, the most serious kind first."""
    ordered = sorted(findings, key=lambda finding: list(KINDS).index(finding["kind"]))
    return [
        {"kind": kind, "meaning": KINDS[kind].meaning, "serious": kind in SERIOUS, "findings": list(group)}
        for kind, group in groupby(ordered, key=lambda finding: finding["kind"])
    ]
