"""Failures of the score job: a full disk, two runs at once, the lock of a dead run, folders with other files."""

import base64
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import DataError, NfmError
from nfm.contract.publishing.publish import BusyError
from nfm.scoring.score import score_table
from tests.processes import ROOT
from tests.scoring.examples import ROWS, SCHEMA, config, scores

LOCK_AND_WAIT = """
import sys
from pathlib import Path
from nfm.contract.publishing.publish import publish
with publish(Path(sys.argv[1]), "_report.json") as staging:
    (staging / "half.parquet").write_text("half")
    print("locked", flush=True)
    sys.stdin.read()
"""


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("scan", ["parquet", "csv", "view"])
def test_a_full_disk_keeps_the_old_scores_and_the_next_run_resumes(
    spark: SparkSession, made: Path, tmp_path: Path, small_disk: Path, scan: str
) -> None:
    output = small_disk / "scores"
    score_table(spark, config(made, made / "raw", output=str(output)))
    before = read_files(output)
    # A carried column needs more space than there is.
    rows = [(*row, base64.b64encode(random.Random(i).randbytes(6000)).decode()) for i, row in enumerate(ROWS)]
    wide = spark.createDataFrame(rows, f"{SCHEMA}, text string").repartition(3)
    format_ = "parquet" if scan == "view" else scan
    source: dict[str, Any] = {"path": str(tmp_path / "wide"), "format": format_}
    if scan == "csv":
        source["options"] = {"header": True, "inferSchema": True}
    wide.write.options(header=True).format(format_).save(str(tmp_path / "wide"))
    if scan == "view":  # a view is not resumed
        spark.read.parquet(str(tmp_path / "wide")).createOrReplaceTempView("wide")
        source = {"table": "wide", "scan": "spark"}
    (small_disk / "others").write_bytes(bytes(700_000))
    settings = config(made, source, output=str(output), columns=("text",))
    with pytest.raises(
        NfmError, match=r"^A disk is full: there is no space left for .*disk/scores, .*Free some space and run"
    ):
        score_table(spark, settings)
    assert read_files(output) == before
    assert not (scan == "view" and list(small_disk.glob(".scores.chunks-*")))
    (small_disk / "others").unlink()
    score_table(spark, settings)
    assert len(scores(output)) == 60
    assert [path.name for path in small_disk.iterdir() if "chunks" in path.name or "staging" in path.name] == []


def test_a_second_run_reports_the_process_of_the_first(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    command = [sys.executable, "-c", LOCK_AND_WAIT, str(output)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(BusyError, match=rf"^Another run is writing .*scores: process {first.pid} on "):
            score_table(spark, config(made, made / "raw", output=str(output)))
        assert not output.exists()
        first.send_signal(signal.SIGKILL)
    # The lock file remains, with the process id; the lock itself ended with the process.
    assert str(first.pid) in (tmp_path / ".scores.lock").read_text()
    assert list(tmp_path.glob(".scores.staging-*"))
    assert score_table(spark, config(made, made / "raw", output=str(output)))["rows"] == 60
    assert not list(tmp_path.glob(".scores.staging-*"))
    assert len(scores(output)) == 60


def test_a_folder_of_other_files_is_never_changed(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    mine = tmp_path / "scores"
    mine.mkdir()
    (mine / "thesis.parquet").write_text("mine")
    with pytest.raises(DataError, match="was not written by this job"):
        score_table(spark, config(made, made / "raw", output=str(mine)))
    assert read_files(mine) == {"thesis.parquet": b"mine"}
    assert os.listdir(tmp_path) == ["scores"]  # noqa: PTH208 (hidden ones, too)
    # The same for the folder of a refused run's report.
    shutil.rmtree(mine)
    (tmp_path / "_refused_scores").mkdir()
    (tmp_path / "_refused_scores/thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="_refused_scores already exists and was not written by this job"):
        score_table(spark, config(made, made / "raw", output=str(mine), gates={"min_rows": 100}))
    score_table(spark, config(made, made / "raw", output=str(mine)))
    assert read_files(tmp_path / "_refused_scores") == {"thesis.txt": b"mine"}
