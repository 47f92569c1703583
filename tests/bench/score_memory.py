"""What a scoring worker takes: processor time and memory of its own; and four of them with a table of a gigabyte."""

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
    """Start three of them, one after the other."""
    script, rows = Path(__file__).with_name("score_worker.py"), HOME / "thousand.parquet"
    first = pq.ParquetFile(min(table(SMALL / 1e6).glob("*.parquet")))
    pq.write_table(pa.Table.from_batches([next(first.iter_batches(1000))]), rows)
    command = [sys.executable, str(script), str(HOME / "model"), str(rows)]
    each = [json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    found = {what: statistics.median(one[what] for one in each) for what in each[0]}
    own = found["written"] + found["libraries"]
    print(f"a worker's start, first batch included           {found['seconds']:7.1f} s of a core (wanted: at most 4)")
    print(f"  memory of its own                              {own:7.0f} MB (wanted: at most 200), ", end="")
    print(
        f"{found['written']:.0f} of it written to, the rest is of libraries that no other process has mapped; ", end=""
    )
    print(f"{found['model']:.0f} MB of the model's files are mapped besides, as all workers of a host do", flush=True)


def wide() -> None:
    """One field of four million values, K 64: a table of a gigabyte, and four workers."""
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
    samples: list[list[tuple[float, float]]] = []  # at each look, of each worker
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            samples.append([_proportional(process) for process in _python_workers()])

    watching = threading.Thread(target=watch)
    watching.start()
    seconds = timed(lambda: score_table(spark, settings))
    done.set()
    watching.join()
    spark.stop()
    most = max(samples, key=lambda workers: sum(pss for pss, _ in workers))
    together, anonymous = (sum(column) for column in zip(*most, strict=True))
    wanted = size + WORKERS * 250
    print(f"{len(most)} workers, embeddings of {size:.0f} MB              {together:7.0f} MB together", end="")
    print(f" (wanted: at most {wanted:.0f}), {anonymous:.0f} of it no mapped files; {seconds:.1f} s, ", end="")
    print(f"{len(samples)} looks", flush=True)


def _python_workers() -> Iterator[int]:
    """Children of pyspark.daemon that are ours."""
    parents, daemons = dict[int, int](), set[int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if b"pyspark.daemon" in (folder / "cmdline").read_bytes():
                    daemons.add(int(folder.name))
            except OSError:  # it has ended meanwhile
                continue

    def ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return (process for process in daemons if parents.get(process) in daemons and ours(process))


def _proportional(process: int) -> tuple[float, float]:
    """Megabytes, and those of no file; a page that several processes have counts for each with its share."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    except OSError:
        return 0.0, 0.0
    pss, anonymous = (int(lines[name].split()[0]) / 1024 for name in ("Pss", "Pss_Anon"))
    return pss, anonymous
