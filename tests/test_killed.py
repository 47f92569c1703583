"""Score jobs on a real cluster whose processes are killed with -9 at random moments: no row is lost or published twice.

NFM_KILLS sets the number of kills, which cycle through KINDS; by default, each of the first two is killed once.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from nfm.config.file import load
from nfm.features.dataset import build
from tests.processes import ROOT, environment
from tests.scoring.examples import save_model

pytestmark = pytest.mark.e2e

KINDS = ("driver at work", "executor", "python worker", "driver", "python daemon")
KILLS = int(os.environ.get("NFM_KILLS", "2"))
ROWS, SPLITS = 120_000, 24


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with many splits, a model, and a configuration."""
    folder = tmp_path_factory.mktemp("shop")
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "colour": np.array(["red", "blue", "", None], object)[draw.integers(0, 4, ROWS)],
            "size": draw.integers(0, 500, ROWS),
            "price": np.where(draw.random(ROWS) < 0.1, np.nan, draw.lognormal(1, 1, ROWS)),
            "label": draw.integers(0, 2, ROWS),
            "filler": draw.random(ROWS),
        }
    )
    for name in ("trained", "raw"):
        (folder / name).mkdir()
    frame.head(5000).to_parquet(folder / "trained/0.parquet", index=False)
    frame.to_parquet(folder / "raw/0.parquet", index=False, row_group_size=ROWS // SPLITS, compression=None)
    settings = {
        "name": "shop",
        "workdir": str(folder),
        "source": {"path": str(folder / "trained")},
        "columns": {
            "key": ["id"],
            "label": "label",
            "categorical": {"colour": {}, "size": {"min_count": 11}},
            "numeric": {"price": {"as": "field"}},
        },
        "split": {"valid": 0.0, "test": 0.0},
        "train": {"early_stopping": None},
        "score": {"source": {"path": str(folder / "raw")}, "partition_by": ["colour"]},
    }
    (folder / "shop.yaml").write_text(yaml.safe_dump(settings))
    build(spark, load(folder / "shop.yaml", []))
    save_model(folder, 1)
    return folder


def start(cluster: str, shop: Path, output: Path) -> subprocess.Popen[str]:
    """Start the score job, with enough speculation that splits are scored twice at once."""
    split_bytes = (shop / "raw/0.parquet").stat().st_size // SPLITS
    settings = {
        "spark.executor.memory": "512m",
        "spark.sql.files.maxPartitionBytes": split_bytes,
        "spark.speculation": "true",
        "spark.speculation.interval": "20ms",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.multiplier": "1.01",
        "spark.speculation.minTaskRuntime": "1ms",
        "spark.task.maxFailures": "8",
    }
    options = itertools.chain.from_iterable(["--conf", f"{key}={value}"] for key, value in settings.items())
    command = ["spark-submit", "--master", cluster, *options, str(ROOT / "jobs/score.py")]
    command += ["--config", str(shop / "shop.yaml"), "--set", f"score.output={output}"]
    return subprocess.Popen(
        command,
        cwd=shop,
        env=environment({"SPARK_LOCAL_IP": "127.0.0.1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # the JVM prints both streams of its Python to its own stdout
        text=True,
        start_new_session=True,
    )


def wait_for(job: subprocess.Popen[str]) -> str:
    """Wait for the job to succeed; return its output."""
    output_text, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output_text
    return output_text


def read_output(output: Path) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Return all rows, and the report without the fields that differ each time."""
    rows = []
    for path in output.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        rows += [(path.parent.name, *row) for row in zip(*table.to_pydict().values(), strict=True)]
    report = json.loads((output / "_report.json").read_text())
    del report["created"], report["publication"]
    return sorted(rows), report


def find_processes(kind: str, job: subprocess.Popen[str], cluster_folder: Path) -> list[int]:
    """Return the ids of the processes of a kind. Executors and their children run below the cluster's folder."""
    if kind.startswith("driver"):
        return [job.pid]
    ids = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if not (entry / "cwd").readlink().is_relative_to(cluster_folder):
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            forked = b"pyspark.daemon" in Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):  # not a process, or one that has ended
            continue
        process_kind = "executor" if any(b"ExecutorBackend" in word for word in command) else ""
        if b"pyspark.daemon" in command:
            process_kind = "python worker" if forked else "python daemon"
        if process_kind == kind:
            ids.append(int(entry.name))
    return ids


def kill(
    kind: str, at: float, job: subprocess.Popen[str], cluster_folder: Path, output: Path, draw: random.Random
) -> bool:
    """Kill a process of this kind, `at` seconds after the first one started; return False if the job ends before.

    A "driver at work" is killed when some splits are done and others are not.
    """
    first_seen, least = None, draw.randint(1, SPLITS // 2)
    while job.poll() is None:
        ids = find_processes(kind, job, cluster_folder)
        done = len(list(output.parent.glob(f".{output.name}.chunks-*/done/[0-9]*.json")))
        if kind == "driver at work":
            at, ids = 0, ids if done >= least else []
        first_seen = first_seen or (time.monotonic() if ids else None)
        if ids and first_seen is not None and time.monotonic() >= first_seen + at:
            if kind.startswith("driver"):
                os.killpg(job.pid, signal.SIGKILL)
            else:
                os.kill(draw.choice(ids), signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def list_names(folder: Path) -> frozenset[str]:
    """Return the names in a folder at one moment."""
    return frozenset(os.listdir(folder))  # noqa: PTH208 (one system call)


@contextmanager
def watch_folder(output: Path) -> Iterator[set[frozenset[str]]]:
    """Collect what a reader sees who lists the folder continuously."""
    seen: set[frozenset[str]] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(list_names(output))
            time.sleep(0.002)

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        yield seen
    finally:
        done.set()
        reader.join()


def test_every_row_is_published_once_whatever_process_is_killed(
    shop: Path, cluster: str, cluster_folder: Path, tmp_path: Path
) -> None:
    uninterrupted = tmp_path / "uninterrupted"
    began = time.monotonic()
    wait_for(start(cluster, shop, uninterrupted))
    duration = time.monotonic() - began
    expected = read_output(uninterrupted)
    raw = pd.read_parquet(shop / "raw", columns=["id", "colour"])
    assert [row[1] for row in sorted(expected[0], key=lambda row: row[1])] == raw["id"].tolist()
    assert expected[1]["rows"] == ROWS
    assert expected[1]["values"]["colour"]["missing"]["count"] == raw["colour"].isna().sum()
    new = list_names(uninterrupted)

    draw = random.Random(int(os.environ.get("NFM_KILLS_SEED", "1")))
    survived, resumed = 0, 0
    for kind in itertools.islice(itertools.cycle(KINDS), KILLS):
        output = tmp_path / "scores"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        pq.write_table(pa.table({"id": [0], "score": [0.5]}), output / "yesterday.parquet")
        (output / "_report.json").write_text("{}")
        old = list_names(output)
        with watch_folder(output) as seen:
            # A driver is killed at any moment of the run; the others during the seconds that they live.
            hit, longest = False, duration if kind == "driver" else duration / 3
            while not hit:
                job = start(cluster, shop, output)
                hit = kill(kind, draw.uniform(0, longest), job, cluster_folder, output, draw)
                job.communicate(timeout=300)
                longest *= 0.7
            if job.returncode == 0:  # the job continued without the process
                survived += 1
            else:
                assert list_names(output) in (old, new)
                output_text = wait_for(start(cluster, shop, output))
                resumed += "an earlier run has already scored" in output_text
                assert kind != "driver at work" or "an earlier run has already scored" in output_text
        assert read_output(output) == expected, kind
        assert seen <= {old, new}
        assert not list(tmp_path.glob(".scores.[cs]*")), "chunks or staging are left"
    print(f"{KILLS} kills: {survived} jobs survived, {resumed} were resumed")
    assert resumed
    assert survived or KILLS == 1
