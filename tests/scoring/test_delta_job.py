"""The score job with `score.format: delta`: daily partitions, reports, killed runs, refused settings."""

import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

pytest.importorskip("deltalake")  # an extra; `make test` installs all

from deltalake import DeltaTable

from nfm.contract.errors import ConfigError, DataError, GateError
from nfm.contract.publishing.publish import BusyError, locked
from nfm.scoring.prepare import open_all
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from tests.processes import ROOT, environment
from tests.scoring.examples import ROWS, config

KILLED = """
import os, signal, sys
from pathlib import Path
from nfm.scoring.delta.publication import DeltaPublication
from nfm.scoring.score import score_table
from nfm.table.session import start_session
from tests.scoring.examples import config
DeltaPublication._commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
made, output = map(Path, sys.argv[1:])
settings = config(made, made / "raw", output=str(output), format="delta")
score_table(start_session("killed", {"spark.master": "local[2]"}), settings)
"""


def read(table: Path) -> pa.Table:
    return pa.table(DeltaTable(str(table)).to_pyarrow_table())


def test_each_night_replaces_its_partition(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    table = tmp_path / "scores"

    def score(source: Path, day: str, **settings: Any) -> str:
        output = str(table / f"ds={day}")
        nightly = config(made, source, output=output, format="delta", partition_by=("size",), **settings)
        return summary(nightly, score_table(spark, nightly))

    score(made / "raw", "2026-11-19")
    text = score(made / "raw", "2026-11-20")
    assert f"{table}/_reports/ds=2026-11-20/_report.html" in text
    spark.read.parquet(str(made / "raw")).where("size = 1").write.parquet(str(tmp_path / "few"))
    score(tmp_path / "few", "2026-11-20", columns=("price",), rank=True)
    days = Counter(read(table)["ds"].to_pylist())
    assert days == {"2026-11-19": 60, "2026-11-20": 20}
    assert set(read(table).column_names) == {"id", "score", "price", "score_rank", "size", "ds"}
    assert Counter(row["size"] for row in read(table).to_pylist() if row["ds"] == "2026-11-20") == {"1": 20}
    report = json.loads((table / "_reports/ds=2026-11-20/_report.json").read_text())
    assert (report["rows"], report["delta_version"]) == (20, 2)
    with pytest.raises(GateError):
        score(tmp_path / "few", "2026-11-21", gates={"min_rows": 100})
    with pytest.raises(BusyError), locked(table / "ds=2026-11-20"):
        score(tmp_path / "few", "2026-11-20")
    assert DeltaTable(str(table)).version() == 2
    # A folder of Parquet files never replaces the table, or a folder in it.
    for output in (table, table / "ds=2026-11-20"):
        with pytest.raises(DataError, match=r"Delta table; .* set score\.format: delta"):
            score_table(spark, config(made, made / "raw", output=str(output)))


def test_a_run_killed_before_its_commit_is_resumed(
    spark: SparkSession, made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "scores"
    settings = config(made, made / "raw", output=str(output), format="delta")
    score_table(spark, settings)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(made), str(output)], cwd=ROOT, env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert DeltaTable(str(output)).version() == 0
    placed = len(list(output.glob("*.parquet")))
    assert placed > len(DeltaTable(str(output)).file_uris())
    with caplog.at_level(logging.INFO):
        score_table(spark, settings)
    assert "an earlier run has already scored 60 rows: they are kept" in caplog.messages
    assert (DeltaTable(str(output)).version(), read(output).num_rows) == (1, 60)
    assert Counter(read(output)["id"].to_pylist()) == Counter(row[0] for row in ROWS)
    hidden = [path.name for path in tmp_path.iterdir() if "chunks" in path.name or "staging" in path.name]
    assert hidden == []


def test_settings_that_a_delta_table_cannot_have_are_refused(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    def check(source: Path, **settings: Any) -> None:
        open_all(spark, config(made, source, format="delta", **settings))

    with pytest.raises(ConfigError, match=r"^score\.output: colour=… makes 'colour' a partition column .* remove"):
        check(made / "raw", columns=("colour",), output=str(tmp_path / "scores/colour=red"))
    with pytest.raises(ConfigError, match=r"makes 'ID' a partition column .* such as ID_folder=\{ID\}"):
        check(made / "raw", output=str(tmp_path / "scores/ID=1"))
    table = spark.read.parquet(str(made / "raw")).selectExpr("*", "array(null) nothing", "null nothing_at_all")
    table.createOrReplaceTempView("with_nulls")
    for name in ("nothing", "nothing_at_all"):
        source: Any = {"table": "with_nulls"}
        with pytest.raises(
            DataError, match=rf"Column '{name}' of table with_nulls is .*null.*: delta accepts every type"
        ):
            check(source, columns=(name,), output=str(tmp_path / "scores"))
