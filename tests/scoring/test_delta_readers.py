"""Several processes at one Delta table: readers see one complete version, and writers of partitions all succeed."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("deltalake")  # an extra; `make test` installs all

from deltalake import DeltaTable

from tests.processes import ROOT
from tests.scoring.delta_tables import publish, read, scores

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
        print(len(seen), flush=True)
        os._exit(0)  # without the threads of pyarrow, which may abort
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


WRITE = """
import sys
from pathlib import Path
from tests.scoring.delta_tables import publish, scores
sys.stdin.readline()
for night in range(1, 11):
    publish(Path(sys.argv[1]), scores([1], night))
"""


def test_runs_for_several_partitions_write_at_the_same_time(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    commands = [[sys.executable, "-c", WRITE, str(table / f"ds={i}")] for i in range(3)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) for command in commands]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert read(table) == Counter([(str(i), 1, 10.0) for i in range(3)])
    assert DeltaTable(str(table)).version() == 29
