"""Readers of a Delta table in another process, while partitions are published: always one complete version."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deltalake")  # an extra; `make test` installs all

from tests.processes import ROOT
from tests.scoring.delta_tables import publish, scores

READ = """
import os, sys
from collections import Counter
from deltalake import DeltaTable
seen = set()
print("ready", flush=True)
while True:
    rows = DeltaTable(sys.argv[1]).to_pyarrow_table().to_pylist()
    days = {ds: Counter(row["score"] for row in rows if row["ds"] == ds) for ds in "12"}
    version, count = days["2"].popitem()
    # Version v of partition 2 has v rows with the score v; partition 1 never changes.
    assert days == {"1": {0.5: 3}, "2": {}} and count == version, (days, version, count)
    seen.add(version)
    if version == float(sys.argv[2]):
        print(len(seen))
        break
"""


def test_readers_always_see_one_version(tmp_path: Path) -> None:
    table, versions = tmp_path / "scores", 40
    publish(table / "ds=1", scores([1, 2, 3], 0.5))
    publish(table / "ds=2", scores([1], 1))
    command = [sys.executable, "-c", READ, str(table), str(versions)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for version in range(2, versions + 1):
            half = scores(range(version // 2), version), scores(range(version - version // 2), version)
            publish(table / "ds=2", *half)  # two files
        seen = reader.stdout.read()
    assert reader.returncode == 0
    assert int(seen) > 1
