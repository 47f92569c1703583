"""Measure a scoring worker's start and memory, and four workers that share one gigabyte of embeddings."""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nfm.config.settings import Config
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from tests.bench.features import FOLDER, timed
from tests.bench.score_model import DIM, HOME, SMALL, quiet_session, save_random, table
from tests.bench.table import write_wide_vocabulary

WORKERS, VALUES = 4, 4_000_000
_EVERY = 0.25  # seconds


def worker() -> None:
    """Start three workers one after the other, and print the medians."""
    script, rows = Path(__file__).with_name("score_worker.py"), HOME / "thousand.parquet"
    first = pq.ParquetFile(min(table(SMALL / 1e6).glob("*.parquet")))
    pq.write_table(pa.Table.from_batches([next(first.iter_batches(1000))]), rows)
    command = [sys.executable, str(script), str(HOME / "model"), str(rows)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    private = medians["written"] + medians["libraries"]
    print(
        f"start of a worker, with its first batch          {medians['seconds']:7.1f} core-seconds (target: at most 4)"
    )
    print(f"  private memory                                 {private:7.0f} MB (target: at most 200), ", end="")
    print(f"{medians['written']:.0f} MB of it written to, the rest mapped from libraries by no other process; ", end="")
    print(f"besides, {medians['model']:.0f} MB of the model's files, which all workers of a host share", flush=True)


def wide() -> None:
    """Score with four workers and one field of four million values, K 64: a gigabyte of embeddings."""
    spark = quiet_session(WORKERS)
    source = write_wide_vocabulary(FOLDER / "raw-wide", VALUES)
    columns = {"key": ("id",), "label": "label", "categorical": {"user": {}}}
    content = {"name": "wide", "workdir": str(HOME / "wide"), "source": {"path": str(source)}, "columns": columns}
    content |= {"split": {"valid": 0.0, "test": 0.0}, "train": {"early_stopping": None}}
    settings = Config.model_validate(content)
    if not settings.encoding_folder.exists():
        build(spark, settings)
    spec = save_random(settings)
    size = spec.rows * DIM * 4 / 2**20
    samples: list[list[tuple[float, float]]] = []  # per sample, per worker: (PSS, anonymous) in MB
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            samples.append([_read_memory(process) for process in _python_workers()])

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = timed(lambda: score_table(spark, settings))
    done.set()
    watcher.join()
    spark.stop()
    peak = max(samples, key=lambda workers: sum(pss for pss, _ in workers))
    total, anonymous = (sum(column) for column in zip(*peak, strict=True))
    target = size + WORKERS * 250
    print(f"{len(peak)} workers, embeddings of {size:.0f} MB              {total:7.0f} MB in total", end="")
    print(f" (target: at most {target:.0f}), {anonymous:.0f} MB of it anonymous; {seconds:.1f} s, ", end="")
    print(f"{len(samples)} samples", flush=True)


def _python_workers() -> Iterator[int]:
    """Return the Python workers among the descendants of this process."""
    parents, daemons = dict[int, int](), set[int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if b"pyspark.daemon" in (folder / "cmdline").read_bytes():
                    daemons.add(int(folder.name))
            except OSError:  # the process has ended
                continue

    def is_descendant(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return (process for process in daemons if parents.get(process) in daemons and is_descendant(process))


def _read_memory(process: int) -> tuple[float, float]:
    """Return a process's megabytes, with shared pages divided among processes (PSS), and the anonymous ones."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    except OSError:
        return 0.0, 0.0
    pss, anonymous = (int(lines[name].split()[0]) / 1024 for name in ("Pss", "Pss_Anon"))
    return pss, anonymous
