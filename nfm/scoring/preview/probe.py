"""A trial before the job: how fast tasks score a few rows of the table, and how much memory a worker takes.

As many work at once as will in the job: two of them are seldom twice as fast as one that has a machine to itself.
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
from nfm.scoring.hosts import open_model, place_read_only
from nfm.scoring.scorer import score_batch
from nfm.table.scan import Scan
from nfm.table.splits import File, Piece

ENOUGH = 1 << 17  # rows: seconds at most, and far more than what a task costs by itself
_EVERY = 0.01  # seconds between two looks at the memory
_MOST_TASKS = 16  # enough to keep an executor's cores busy
_LONG = 2.0  # seconds that a task works, so that all do at once, though they begin one after the other
_AT_ONCE = "spark.sql.limit.initialNumPartitions"
_MEASURED = pa.schema([("rows", pa.int64()), ("seconds", pa.float64()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class Probe:
    """What was measured."""

    tasks: int  # that worked at once
    rows: int  # of the table, that they scored again and again
    speed: float  # rows/s of one of them, once it has started and compiled
    start: float  # seconds from the start of this process until then: of Spark, the workers and the compiled loops
    worker_bytes: int  # a worker's own memory at most; the mapped model is not in it


def probe(
    spark: SparkSession,
    artifact: Artifact,
    scan: Scan,
    first: File | None,
    encoded: bool,
    inputs: Sequence[str],
    carried: Sequence[str],
    target: Path,
    at_once: int,
) -> Probe | None:
    """Score a few rows in tasks on executors, and keep nothing; None if there are no rows.

    Args:
        spark: the session.
        artifact: the model.
        scan: of the table.
        first: of parquet: the file that every task begins, at least one row group of it; None if all are empty.
        encoded: the table is a dataset.
        inputs: the columns that the model reads.
        carried: those that the job reads besides.
        target: where the job would write; nothing is written there.
        at_once: how many tasks the job runs at a time.

    Raises:
        DataError: later, as the job would: the rows cannot be read or encoded.
    """
    if scan.method == "parquet":
        if first is None:
            return None
        scan = replace(scan, splits=((Piece(first, 0, first.size),),) * min(at_once, _MOST_TASKS))
    placed, names = place_read_only(spark, artifact, target), tuple(carried)

    # The closure takes small values, or the handles of broadcasts.
    def work(rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        taken, reading = _taken(rows)
        if taken:
            model = open_model(placed)
            with _peak() as peak:
                _score(model, taken, encoded, names)
            began, times = time.perf_counter(), 0
            while times == 0 or time.perf_counter() - began < _LONG:
                _score(model, taken, encoded, names)
                times += 1
            seconds = reading + (time.perf_counter() - began) / times
            told = {"rows": [sum(some.num_rows for some in taken)], "seconds": [seconds], "bytes": [max(peak)]}
            yield pa.RecordBatch.from_pydict(told, _MEASURED)

    read = list(dict.fromkeys([*inputs, *carried]))
    tasks = min(at_once, _MOST_TASKS)
    with _first(spark, tasks):
        found = scan.map(read, work, _MEASURED).take(tasks)
        start = _age() - _LONG
        if found and scan.method == "spark":  # its own part of the work, too, is slower the first time
            found = scan.map(read, work, _MEASURED).take(tasks) or found
    if not found:
        return None
    speeds = [told.rows / told.seconds for told in found]
    most = max(told.bytes for told in found)
    return Probe(len(found), found[0].rows, sum(speeds) / len(speeds), max(0.0, start), most)


def _taken(batches: Iterator[Rows]) -> tuple[list[Rows], float]:
    """Enough rows, and the seconds until they were there. They are not scored meanwhile.

    Where Spark hands them over, it works on the next ones while a worker scores. When all cores are busy, nobody gains
    from that.
    """
    taken, count, began = list[Rows](), 0, time.perf_counter()
    for rows in batches:
        if rows.num_rows:
            taken.append(rows)
            count += rows.num_rows
        if count >= ENOUGH:
            break
    return taken, time.perf_counter() - began


def _score(model: Artifact, taken: Sequence[Rows], encoded: bool, carried: Sequence[str]) -> None:
    for rows in taken:
        score_batch(model, rows, encoded, Tally())
        for name in carried:
            rows.column(name)


@contextmanager
def _first(spark: SparkSession, partitions: int) -> Iterator[None]:
    """`take` begins with so many partitions at once; it goes on to others only if these have too few rows."""
    before = spark.conf.get(_AT_ONCE)
    spark.conf.set(_AT_ONCE, str(partitions))
    try:
        yield
    finally:
        spark.conf.set(_AT_ONCE, str(before))


def _age() -> float:
    """Seconds since this process began."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # since the machine's start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Watch this process's own memory (bytes); the mapped files, which are shared, are left out."""
    seen, done = [_own_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            seen.append(_own_bytes())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()
        seen.append(_own_bytes())


def _own_bytes() -> int:
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
