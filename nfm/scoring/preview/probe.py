"""Measure how fast tasks score a few rows of the table, and how much memory a worker takes.

As many tasks run at once as in the job: two tasks are seldom twice as fast as one that has the machine to itself.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.scoring.health.tally import Tally
from nfm.scoring.prepare import model_inputs
from nfm.scoring.scorer import score_batch
from nfm.table.jobs.hosts import open_model, place_read_only
from nfm.table.scan import Scan, Work
from nfm.table.splits import File, Piece

ENOUGH = 1 << 17  # rows: at most some seconds of work, and far more than a task's fixed cost
_EVERY = 0.01  # seconds between two measurements of memory
_MOST_TASKS = 16  # enough to keep an executor's cores busy
_MIN_SECONDS = 2.0  # that a task works, so that all tasks overlap although they start one after the other
_AT_ONCE = "spark.sql.limit.initialNumPartitions"
_MEASURED = pa.schema([("rows", pa.int64()), ("seconds", pa.float64()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class Probe:
    """Results of the measurement."""

    tasks: int  # that ran at once
    rows: int  # that each task scored repeatedly
    speed: float  # rows/s of one task, after it has started and compiled
    start: float  # seconds from the start of this process until then: Spark, workers, compilation
    worker_bytes: int  # peak of a worker's own memory, without the mapped model


def probe(
    artifact: Artifact,
    scan: Scan,
    first: File | None,
    encoded: bool,
    carried: Sequence[str],
    target: Path,
    concurrent_tasks: int,
) -> Probe | None:
    """Score a few rows in `concurrent_tasks` tasks and discard the scores; return None if there are no rows.

    With `scan: parquet`, every task reads rows of the file `first`, which is None if all files are empty. `carried`
    lists the columns that the job reads besides the model's inputs. Nothing is written to `target`.
    """
    spark, tasks = scan.table.sparkSession, min(concurrent_tasks, _MOST_TASKS)
    if scan.method == "parquet":
        if first is None:
            return None
        scan = replace(scan, splits=((Piece(first, 0, first.size),),) * tasks)
    read = list(dict.fromkeys([*model_inputs(artifact.encoding.spec, encoded), *carried]))
    work = _measuring_task(spark, artifact, encoded, tuple(carried), target)
    with _partitions_at_once(spark, tasks):
        results = scan.map(read, work, _MEASURED).take(tasks)
        start = _process_age() - _MIN_SECONDS
        if results and scan.method == "spark":  # Spark itself is slower the first time, too
            results = scan.map(read, work, _MEASURED).take(tasks) or results
    if not results:
        return None
    speed = sum(result.rows / result.seconds for result in results) / len(results)
    return Probe(len(results), results[0].rows, speed, max(0.0, start), max(result.bytes for result in results))


def _measuring_task(
    spark: SparkSession, artifact: Artifact, encoded: bool, carried: tuple[str, ...], target: Path
) -> Work:
    placed = place_read_only(spark, artifact, target)

    # The closure takes small values or handles of broadcasts.
    def work(batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        taken, reading = _take_rows(batches)
        if not taken:
            return
        model = open_model(placed)

        def score() -> None:
            for rows in taken:
                score_batch(model, rows, encoded, Tally())
                for name in carried:
                    rows.column(name)

        with _watch_memory() as bytes_seen:
            score()
        began, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - began < _MIN_SECONDS:
            score()
            times += 1
        seconds = reading + (time.perf_counter() - began) / times
        measured = {"rows": sum(rows.num_rows for rows in taken), "seconds": seconds, "bytes": max(bytes_seen)}
        yield pa.RecordBatch.from_pylist([measured], _MEASURED)

    return work


def _take_rows(batches: Iterator[Rows]) -> tuple[list[Rows], float]:
    """Return enough rows, and the seconds until they arrived; scoring them meanwhile would hide the time of Spark."""
    taken, count, began = list[Rows](), 0, time.perf_counter()
    for rows in batches:
        if rows.num_rows:
            taken.append(rows)
            count += rows.num_rows
        if count >= ENOUGH:
            break
    return taken, time.perf_counter() - began


@contextmanager
def _partitions_at_once(spark: SparkSession, partitions: int) -> Iterator[None]:
    """Let `take` start with this many partitions. It reads others only if these have too few rows."""
    before = spark.conf.get(_AT_ONCE)
    spark.conf.set(_AT_ONCE, str(partitions))
    try:
        yield
    finally:
        spark.conf.set(_AT_ONCE, str(before))


def _process_age() -> float:
    """Return the seconds since this process started."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # since the machine started
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _watch_memory() -> Iterator[list[int]]:
    """Collect this process's own memory in bytes, without mapped files, which are shared, until the block ends."""
    seen, done = [_own_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            seen.append(_own_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(_own_bytes())


def _own_bytes() -> int:
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
