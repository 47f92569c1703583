"""Fixtures of the health report's tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from nfm.scoring.health.page import REPORT, write_report
from tests.parsed import Parsed
from tests.scoring.health.made_report import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a report and return the page."""

    def written(report: dict[str, Any]) -> Parsed:
        write_report(tmp_path, report)
        assert json.loads((tmp_path / "_report.json").read_text()) == report
        return Parsed((tmp_path / REPORT).read_text(encoding="utf-8"))

    return written
