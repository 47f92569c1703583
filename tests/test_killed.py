"""Score jobs whose parts are killed with -9 at random moments, on a real cluster: no row is lost, none is there twice.

NFM_KILLS says how often, one kind after the other; by default once of each of the first two.
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
ROWS, PARTS = 120_000, 24


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in many parts, a model, and the scores of yesterday, which lie otherwise than tonight's."""
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
    frame.to_parquet(folder / "raw/0.parquet", index=False, row_group_size=ROWS // PARTS, compression=None)
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
    """The score job; with so much speculation that parts are scored twice at once."""
    part = (shop / "raw/0.parquet").stat().st_size // PARTS
    settings = {
        "spark.executor.memory": "512m",
        "spark.sql.files.maxPartitionBytes": part,
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
        stderr=subprocess.STDOUT,  # the JVM puts both streams of its Python into its own stdout
        text=True,
        start_new_session=True,
    )


def ended(job: subprocess.Popen[str]) -> str:
    """What it has said, once it has ended well."""
    told, _ = job.communicate(timeout=300)
    assert job.returncode == 0, told
    return told


def published(output: Path) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Every row as it is, and the report but for what is different each time."""
    rows = []
    for path in output.rglob("*.parquet"):
        table = pq.ParquetFile(path).read()
        rows += [(path.parent.name, *row) for row in zip(*table.to_pydict().values(), strict=True)]
    report = json.loads((output / "_report.json").read_text())
    del report["created"]
    return sorted(rows), report


def processes(kind: str, job: subprocess.Popen[str], cluster_folder: Path) -> list[int]:
    """The ids of what there is of a kind. Executors and what they start run below the cluster's folder."""
    if kind.startswith("driver"):
        return [job.pid]
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if not (entry / "cwd").readlink().is_relative_to(cluster_folder):
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            forked = b"pyspark.daemon" in Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):  # no process, or one that has ended meanwhile
            continue
        what = "executor" if any(b"ExecutorBackend" in word for word in command) else ""
        if b"pyspark.daemon" in command:
            what = "python worker" if forked else "python daemon"
        if what == kind:
            found.append(int(entry.name))
    return found


def kill(
    kind: str, at: float, job: subprocess.Popen[str], cluster_folder: Path, output: Path, draw: random.Random
) -> bool:
    """Kill one of a kind some seconds after there is one; False if the job has ended before.

    A driver at work is killed once some parts are done, and others are not.
    """
    begun, least = None, draw.randint(1, PARTS // 2)
    while job.poll() is None:
        there = processes(kind, job, cluster_folder)
        done = len(list(output.parent.glob(f".{output.name}.chunks-*/done/[0-9]*.json")))
        if kind == "driver at work":
            at, there = 0, there if done >= least else []
        begun = begun or (time.monotonic() if there else None)
        if there and begun is not None and time.monotonic() >= begun + at:
            if kind.startswith("driver"):
                os.killpg(job.pid, signal.SIGKILL)
            else:
                os.kill(draw.choice(there), signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def names(folder: Path) -> frozenset[str]:
    """What is in a folder at one moment."""
    return frozenset(os.listdir(folder))  # noqa: PTH208 (one look, and no more)


@contextmanager
def watched(output: Path) -> Iterator[set[frozenset[str]]]:
    """What a reader sees who lists the folder all the while."""
    seen: set[frozenset[str]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.add(names(output))
            time.sleep(0.002)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()


def test_whatever_is_killed_every_row_is_published_once(
    shop: Path, cluster: str, cluster_folder: Path, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed"
    began = time.monotonic()
    ended(start(cluster, shop, undisturbed))
    lasted = time.monotonic() - began
    wanted = published(undisturbed)
    raw = pd.read_parquet(shop / "raw", columns=["id", "colour"])
    assert [row[1] for row in sorted(wanted[0], key=lambda row: row[1])] == raw["id"].tolist()
    assert wanted[1]["rows"] == ROWS
    assert wanted[1]["values"]["colour"]["missing"]["count"] == raw["colour"].isna().sum()
    new = names(undisturbed)

    draw = random.Random(int(os.environ.get("NFM_KILLS_SEED", "1")))
    survived, gone_on = 0, 0
    for kind in itertools.islice(itertools.cycle(KINDS), KILLS):
        output = tmp_path / "scores"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        pq.write_table(pa.table({"id": [0], "score": [0.5]}), output / "yesterday.parquet")
        (output / "_report.json").write_text("{}")
        old = names(output)
        with watched(output) as seen:
            # A driver at any moment of its life; the others within the seconds that they live.
            hit, longest = False, lasted if kind == "driver" else lasted / 3
            while not hit:
                job = start(cluster, shop, output)
                hit = kill(kind, draw.uniform(0, longest), job, cluster_folder, output, draw)
                job.communicate(timeout=300)
                longest *= 0.7
            if job.returncode == 0:  # the others did without it
                survived += 1
            else:
                assert names(output) in (old, new)
                told = ended(start(cluster, shop, output))
                gone_on += "an earlier run has already scored" in told
                assert kind != "driver at work" or "an earlier run has already scored" in told
        assert published(output) == wanted, kind
        assert seen <= {old, new}
        assert not list(tmp_path.glob(".scores.[cs]*")), "chunks or staging are left"
    print(f"{KILLS} kills: {survived} jobs went on, {gone_on} were gone on from")
    assert gone_on
    assert survived or KILLS == 1
