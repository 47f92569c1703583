"""The score job's report: for programs, and for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPORT = "_report.html"  # a name that readers of the scores pass over


def refused_folder(target: Path) -> Path:
    """Where the report of a refused run lies: beside the output, under a name that readers of tables pass over."""
    target = target.resolve()
    return target.parent / f"_refused_{target.name.replace('=', '-')}"


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write _report.json and _report.html."""
    (folder / "_report.json").write_text(json.dumps(report, indent=1))
