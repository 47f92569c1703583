"""Predict what the score job does, how large the table is and how long the job takes. Nothing is written."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from nfm.config.settings import Config, Source
from nfm.contract.artifact import Artifact
from nfm.contract.errors import DataError
from nfm.scoring.hosts import Placement, host_bytes, is_local, placement
from nfm.scoring.output import rank_columns
from nfm.scoring.prepare import added_columns, carried_columns, model_inputs, output_columns
from nfm.scoring.preview.probe import Probe, probe
from nfm.scoring.scorer import score_columns
from nfm.scoring.summary import few
from nfm.table.errors import translate_spark_errors
from nfm.table.parquet import UnreadableFileError
from nfm.table.relation import count_partitions
from nfm.table.scan import Scan
from nfm.table.splits import File

MOST_FOOTERS = 200  # that are read; of more files, this many at equal distances
ROOM = 0.2  # share of memory beyond what was measured
MIN_ROOM = 384 << 20  # bytes: what Spark itself leaves the JVM of a small executor outside its heap
_STEP = 64 << 20  # bytes: memory is recommended in steps of these
_PLACEMENTS: dict[Placement, str] = {
    "linked": "mapped in its folder, which every machine sees: once a host",
    "in place": "mapped in its folder: once",
    "sent": "sent by Spark, once an executor",
}


@dataclass(frozen=True)
class Size:
    """Size of the table."""

    tasks: int | None  # None: Spark decides while it shuffles
    files: int
    bytes: int | None  # of the files; None if Spark reads them
    rows: int | None  # None: not known before the table is read
    how: str  # how the rows are known, or why they are not
    largest: File | None  # parquet only: of the inspected files, the one that begins with the largest row group
    unreadable: int  # inspected files that cannot be read


@dataclass(frozen=True)
class Room:
    """Memory, in bytes, for the workers of one executor, or in local mode of this machine."""

    workers: int
    needed: int  # for the workers' own memory, the mapped model once, and some reserve
    given: int | None  # spark.executor.memoryOverhead; None in local mode
    default: bool  # the user has not set it


def plan(spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, source: Source) -> str:
    """Return the plan as text; raise a DataError if files cannot be read or rows not encoded, as the job would."""
    spec, settings = artifact.encoding.spec, config.score
    carried = [name for name in carried_columns(spec, config) if name not in settings.partition_by]
    scores, added = score_columns(artifact.network), added_columns(artifact, config)
    size, tried, why = _size_and_probe(spark, config, artifact, scan, source)
    model_bytes = host_bytes(artifact)
    where = _PLACEMENTS[placement(spark, artifact, config.scores_folder)]
    lines = [
        f"Plan of {config.name}: the model was verified and the table's columns were checked, nothing was written.",
        f"  source    {source}",
        f"  scan      {scan.method}: {scan.reason}",
        f"  splits    {_splits(size)}",
        f"  rows      {'' if size.rows is None else f'{size.rows:,} '}{size.how}",
        f"  model     {artifact.path} ({artifact.fingerprint[:12]}…)",
        f"  weights   {_mib(model_bytes)} with the vocabulary's index, {where}",
        f"  reads     {', '.join(model_inputs(spec, settings.encoded))}",
        f"  writes    {', '.join([*carried, *few(scores), *added[len(scores) :]])}",
        *(f"  folders   by {', '.join(settings.partition_by)}" for _ in settings.partition_by[:1]),
        f"  output    {config.scores_folder} ({settings.format})",
        f"  gates     {', '.join(f'{key} {limit}' for key, limit in settings.gates.limits.items()) or 'none'}",
    ]
    if tried is None:
        return "\n".join([*lines, f"  speed     not probed: {why}"])
    lines.append(f"  memory    {_memory(room(spark, tried.worker_bytes, model_bytes), tried, model_bytes)}")
    lines.append(f"  speed     {_speed(spark, size, tried, bool(rank_columns(settings)))}")
    return "\n".join(lines)


def _size_and_probe(
    spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, source: Source
) -> tuple[Size, Probe | None, str]:
    """Return the table's size, and what a probe measured: None if nothing, and the reason."""
    settings, target = config.score, config.scores_folder
    # The scan of a plan does not search for files that cannot be read, so its source does not say what to do with them.
    skip = (settings.source or config.source).on_corrupt == "skip"
    with translate_spark_errors(str(source)):
        size = measure(scan, skip)
        if size.tasks is None:
            return size, None, "Spark would have to shuffle the whole table before"
    try:
        with translate_spark_errors(str(source)):
            read, at_once = output_columns(artifact.encoding.spec, config), _tasks_at_once(spark, size)
            tried = probe(artifact, scan, size.largest, settings.encoded, read, target, at_once)
            return size, tried, "the table has no rows"
    except DataError as error:
        if not skip:
            raise
        return size, None, str(error)


def measure(scan: Scan, skip: bool = False) -> Size:
    """Measure the table from the footers of its files at most; `skip` leaves out files that cannot be read."""
    if scan.files is None:
        unknown = "not known before the table is read"
        return Size(count_partitions(scan.table), len(scan.table.inputFiles()), None, None, unknown, None, 0)
    files = scan.read_files
    count = min(len(files), MOST_FOOTERS)
    inspected = [files[i * len(files) // count] for i in range(count)]
    with ThreadPoolExecutor(16) as pool:  # they wait for the disk or the network
        counts = dict(zip(inspected, pool.map(lambda file: _counts(scan, file, skip), inspected), strict=True))
    readable = {file: groups for file, groups in counts.items() if groups is not None}
    rows, how = sum(map(sum, readable.values())), "(counted in the files' footers)"
    if count < len(files):
        share = sum(file.size for file in readable) / sum(file.size for file in files)
        rows, how = round(rows / share) if share else 0, f"or so (from the footers of {count} of {len(files):,} files)"
    begins_with = {file: next((n for n in groups if n), 0) for file, groups in readable.items()}
    largest = max(begins_with, key=lambda file: begins_with[file], default=None)
    if largest is not None and not begins_with[largest]:
        largest = None
    tasks, total = len(scan.splits), sum(file.size for file in files)
    return Size(tasks, len(files), total, rows, how, largest, count - len(readable))


def _counts(scan: Scan, file: File, skip: bool) -> list[int] | None:
    assert scan.files is not None
    try:
        return scan.files.row_group_sizes(file.path)
    except UnreadableFileError:
        if not skip:
            raise
        return None


def room(spark: SparkSession, worker_bytes: int, model_bytes: int) -> Room:
    """Return the memory that an executor's workers need beside its JVM's heap, and what is set for them."""
    context: Any = spark.sparkContext
    settings = context.getConf()
    cores, given, default = context.defaultParallelism, None, False
    if not is_local(spark):
        executors = max(1, context._jsc.sc().getExecutorMemoryStatus().size() - 1)  # the driver is one of them
        alone = "1" if str(context.master).startswith(("yarn", "k8s")) else str(-(-cores // executors))
        cores = int(settings.get("spark.executor.cores", alone))
        jvm_settings = context._jsc.sc().conf()
        heap = jvm_settings.getSizeAsMb("spark.executor.memory", "1g")
        share = float(settings.get("spark.executor.memoryOverheadFactor", "0.1"))
        default = not settings.contains("spark.executor.memoryOverhead")
        usual = f"{max(384, int(share * heap))}m"
        given = jvm_settings.getSizeAsMb("spark.executor.memoryOverhead", usual) << 20
    workers = max(1, cores // _task_cores(spark))
    return Room(workers, needed_bytes(workers, worker_bytes, model_bytes), given, default)


def needed_bytes(workers: int, worker_bytes: int, model_bytes: int) -> int:
    """Return the memory for the workers, the model that they map, and a reserve; in whole steps."""
    taken = workers * worker_bytes + model_bytes
    return math.ceil((taken + max(ROOM * taken, MIN_ROOM)) / _STEP) * _STEP


def seconds_for(rows: int, tried: Probe, at_once: int) -> float:
    """Return how long a table takes with this many tasks at a time, including the start."""
    return tried.start + rows / tried.speed / at_once


def _tasks_at_once(spark: SparkSession, size: Size) -> int:
    return max(1, min(spark.sparkContext.defaultParallelism // _task_cores(spark), size.tasks or 1))


def _task_cores(spark: SparkSession) -> int:
    return int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or 1)


def _splits(size: Size) -> str:
    if size.tasks is None:
        return "as many tasks as Spark makes when it has shuffled the table"
    files = f", of {_count(size.files, 'file')}" if size.files or size.bytes is not None else ""
    total = "" if size.bytes is None else f", {_mib(size.bytes)}"
    broken = f"; {_count(size.unreadable, 'file')} cannot be read and will be left out" if size.unreadable else ""
    return f"{_count(size.tasks, 'task')}{files}{total}{broken}"


def _memory(found: Room, tried: Probe, model_bytes: int) -> str:
    workers = f"{_count(found.workers, 'worker')} of {_mib(tried.worker_bytes)}"
    model = f"and the model once ({_mib(model_bytes)})"
    if found.given is None:
        return f"{workers} {model}: the machine must have {_mib(found.needed)} for them, beside the driver's JVM"
    is_now = f"{found.given >> 20}m now" + " (Spark's default)" * found.default
    enough = "which is enough" if found.given >= found.needed else "TOO LITTLE: executors may be killed"
    return (
        f"on an executor {workers} {model}: spark.executor.memoryOverhead should be {found.needed >> 20}m; it is "
        f"{is_now}, {enough}"
    )


def _speed(spark: SparkSession, size: Size, tried: Probe, ranked: bool) -> str:
    cores, task_cores = spark.sparkContext.defaultParallelism, _task_cores(spark)
    unit = "a core" if task_cores == 1 else f"a task of {task_cores} cores"
    at_once = _tasks_at_once(spark, size)
    one, all_ = (f"{float(f'{speed:.3g}'):,.0f} rows/s" for speed in (tried.speed, tried.speed * at_once))
    probed = (
        f"with {_count(cores, 'core')} (probed in {_count(tried.tasks, 'task')} at a time: {one} {unit} on "
        f"{_count(tried.rows, 'row')})"
    )
    if size.rows is None:
        return f"about {all_} {probed}"
    return f"about {_time(seconds_for(size.rows, tried, at_once))} {probed}" + "; ranks come on top" * ranked


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 100 << 20 else f"{size / 2**20:,.0f} MiB"


def _time(seconds: float) -> str:
    for most, unit, name in ((99, 1, "s"), (99 * 60, 60, "min")):
        if seconds < most:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{seconds / 3600:,.1f} h"
