"""Predict what the score job does, how large the table is and how long the job takes. Nothing is written."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract.artifact import Artifact
from nfm.contract.errors import DataError
from nfm.scoring.formats import describe_output
from nfm.scoring.output import rank_columns
from nfm.scoring.prepare import added_columns, carried_columns, model_inputs, output_columns, renamed_keys
from nfm.scoring.preview.probe import Probe, probe
from nfm.scoring.scorer import score_columns
from nfm.scoring.summary import shorten
from nfm.table.errors import translate_spark_errors
from nfm.table.jobs.hosts import Placement, host_bytes, is_local, placement
from nfm.table.parquet.files import UnreadableFileError
from nfm.table.relation import count_partitions
from nfm.table.scan import Scan
from nfm.table.splits import File

MOST_FOOTERS = 200  # footers that are read; of more files, this many at equal distances
RESERVE = 0.2  # share of the measured memory that is added to it
MIN_RESERVE = 384 << 20  # bytes: as much as Spark reserves outside the heap of a small executor
_STEP = 64 << 20  # bytes: recommended memory is a multiple of this
_PLACEMENTS: dict[Placement, str] = {
    "linked": "mapped from its folder, which every machine sees, once for each host",
    "in place": "mapped from its folder, once",
    "sent": "sent by Spark, once for each executor",
}


@dataclass(frozen=True)
class Size:
    """Size of the table."""

    tasks: int | None  # None: not known before Spark has shuffled the table
    files: int
    bytes: int | None  # of the files; None if Spark reads them
    rows: int | None  # None: not known before the table is read
    rows_note: str  # source of the number of rows, or why it is not known
    largest: File | None  # parquet only: the inspected file whose first row group is the largest
    unreadable: int  # inspected files that cannot be read


@dataclass(frozen=True)
class Memory:
    """Memory, in bytes, for the workers of one executor, or in local mode of this machine."""

    workers: int
    needed: int  # for the workers' own memory, the mapped model once, and a reserve
    configured: int | None  # spark.executor.memoryOverhead; None in local mode
    is_default: bool  # the user did not set it


def plan(spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, source: Source) -> str:
    """Return the plan as text. Raise a DataError, like the job, if files cannot be read or rows cannot be encoded."""
    spec, settings = artifact.encoding.spec, config.score
    carried = [name for name in carried_columns(spec, config) if name not in settings.partition_by]
    scores, added = score_columns(artifact.network), added_columns(artifact, config)
    size, measured, reason = _size_and_probe(spark, config, artifact, scan, source)
    model_bytes = host_bytes(artifact)
    where = _PLACEMENTS[placement(spark, artifact, config.scores_folder)]
    lines = [
        f"Plan of {config.name}: the model was verified and the table's columns were checked; nothing was written.",
        f"  source    {source}",
        f"  scan      {scan.method}: {scan.reason}",
        f"  splits    {_splits(size)}",
        f"  rows      {'' if size.rows is None else f'{size.rows:,} '}{size.rows_note}",
        f"  model     {artifact.path} ({artifact.fingerprint[:12]}…)",
        f"  weights   {_mib(model_bytes)} with the vocabulary's index, {where}",
        f"  reads     {', '.join(model_inputs(spec, settings.encoded))}",
        f"  writes    {', '.join([*carried, *shorten(scores), *added[len(scores) :]])}",
        *(f"  folders   by {', '.join(settings.partition_by)}" for _ in settings.partition_by[:1]),
        f"  output    {describe_output(settings.format, config.scores_folder)}",
        f"  gates     {', '.join(f'{key} {limit}' for key, limit in settings.gates.limits.items()) or 'none'}",
    ]
    if measured is None:
        return "\n".join([*lines, f"  speed     not probed: {reason}"])
    memory = executor_memory(spark, measured.worker_bytes, model_bytes)
    lines.append(f"  memory    {_memory(memory, measured, model_bytes)}")
    lines.append(f"  speed     {_speed(spark, size, measured, bool(rank_columns(settings)))}")
    return "\n".join(lines)


def _size_and_probe(
    spark: SparkSession, config: Config, artifact: Artifact, scan: Scan, source: Source
) -> tuple[Size, Probe | None, str]:
    """Return the table's size, the result of a probe or None, and the reason if there is none."""
    settings, target = config.score, config.scores_folder
    skip = source.on_corrupt == "skip"  # the scan of a plan did not search for files that cannot be read
    with translate_spark_errors(str(source)):
        size = measure(scan, skip)
        if size.tasks is None:
            return size, None, "Spark would have to shuffle the whole table first"
    try:
        with translate_spark_errors(str(source)):
            spec, renamed = artifact.encoding.spec, renamed_keys(artifact.encoding.spec, config)
            columns = [renamed.get(name, name) for name in output_columns(spec, config)]
            concurrent_tasks = _count_concurrent_tasks(spark, size)
            measured = probe(artifact, scan, size.largest, settings.encoded, columns, target, concurrent_tasks)
            return size, measured, "the table has no rows"
    except DataError as error:
        if not skip:
            raise
        return size, None, str(error)


def measure(scan: Scan, skip: bool = False) -> Size:
    """Measure the table by its files' footers, without reading rows; `skip` ignores files that cannot be read."""
    if scan.files is None:
        unknown = "not known before the table is read"
        return Size(count_partitions(scan.table), len(scan.read_files), None, None, unknown, None, 0)
    files = scan.read_files
    count = min(len(files), MOST_FOOTERS)
    inspected = [files[i * len(files) // count] for i in range(count)]
    with ThreadPoolExecutor(16) as pool:  # threads wait for the disk or the network
        counts = dict(zip(inspected, pool.map(lambda file: _counts(scan, file, skip), inspected), strict=True))
    readable = {file: groups for file, groups in counts.items() if groups is not None}
    rows, note = sum(map(sum, readable.values())), "(counted in the files' footers)"
    if count < len(files):
        share = sum(file.size for file in readable) / sum(file.size for file in files)
        rows = round(rows / share) if share else 0
        note = f"(estimated from the footers of {count} of {len(files):,} files)"
    first_rows = {file: next((n for n in groups if n), 0) for file, groups in readable.items()}
    largest = max(first_rows, key=lambda file: first_rows[file], default=None)
    if largest is not None and not first_rows[largest]:
        largest = None
    tasks, total = len(scan.splits), sum(file.size for file in files)
    return Size(tasks, len(files), total, rows, note, largest, count - len(readable))


def _counts(scan: Scan, file: File, skip: bool) -> list[int] | None:
    assert scan.files is not None
    try:
        return scan.files.row_group_sizes(file.path)
    except UnreadableFileError:
        if not skip:
            raise
        return None


def executor_memory(spark: SparkSession, worker_bytes: int, model_bytes: int) -> Memory:
    """Return the memory that an executor's workers need outside its JVM's heap, and the memory configured for them."""
    context: Any = spark.sparkContext
    settings = context.getConf()
    cores, configured, is_default = context.defaultParallelism, None, False
    if not is_local(spark):
        executors = max(1, context._jsc.sc().getExecutorMemoryStatus().size() - 1)  # without the driver
        default_cores = "1" if str(context.master).startswith(("yarn", "k8s")) else str(-(-cores // executors))
        cores = int(settings.get("spark.executor.cores", default_cores))
        jvm_settings = context._jsc.sc().conf()
        heap = jvm_settings.getSizeAsMb("spark.executor.memory", "1g")
        share = float(settings.get("spark.executor.memoryOverheadFactor", "0.1"))
        is_default = not settings.contains("spark.executor.memoryOverhead")
        default = f"{max(384, int(share * heap))}m"
        configured = jvm_settings.getSizeAsMb("spark.executor.memoryOverhead", default) << 20
    workers = max(1, cores // _task_cores(spark))
    return Memory(workers, needed_bytes(workers, worker_bytes, model_bytes), configured, is_default)


def needed_bytes(workers: int, worker_bytes: int, model_bytes: int) -> int:
    """Return the bytes for the workers, the model that they map, and a reserve, rounded up to a multiple of `_STEP`."""
    used = workers * worker_bytes + model_bytes
    return math.ceil((used + max(RESERVE * used, MIN_RESERVE)) / _STEP) * _STEP


def seconds_for(rows: int, measured: Probe, concurrent_tasks: int) -> float:
    """Return the seconds for a table with `concurrent_tasks` tasks running at a time, including the start."""
    return measured.start + rows / measured.speed / concurrent_tasks


def _count_concurrent_tasks(spark: SparkSession, size: Size) -> int:
    return max(1, min(spark.sparkContext.defaultParallelism // _task_cores(spark), size.tasks or 1))


def _task_cores(spark: SparkSession) -> int:
    return int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or 1)


def _splits(size: Size) -> str:
    if size.tasks is None:
        return "number of tasks not known before Spark has shuffled the table"
    files = f", of {_count(size.files, 'file')}" if size.files or size.bytes is not None else ""
    total = "" if size.bytes is None else f", {_mib(size.bytes)}"
    broken = f"; {_count(size.unreadable, 'file')} cannot be read and will be skipped" if size.unreadable else ""
    return f"{_count(size.tasks, 'task')}{files}{total}{broken}"


def _memory(memory: Memory, measured: Probe, model_bytes: int) -> str:
    workers = f"{_count(memory.workers, 'worker')} of {_mib(measured.worker_bytes)}"
    model = f"and the model once ({_mib(model_bytes)})"
    if memory.configured is None:
        return f"{workers} {model}: the machine needs {_mib(memory.needed)} for them, besides the driver's JVM"
    setting = f"{memory.configured >> 20}m now" + " (Spark's default)" * memory.is_default
    verdict = "which is enough" if memory.configured >= memory.needed else "TOO LITTLE: executors may be killed"
    return (
        f"for each executor, {workers} {model}: spark.executor.memoryOverhead should be {memory.needed >> 20}m; "
        f"it is {setting}, {verdict}"
    )


def _speed(spark: SparkSession, size: Size, measured: Probe, has_ranks: bool) -> str:
    cores, task_cores = spark.sparkContext.defaultParallelism, _task_cores(spark)
    unit = "for each core" if task_cores == 1 else f"for each task of {task_cores} cores"
    concurrent_tasks = _count_concurrent_tasks(spark, size)
    per_task, total = (
        f"{float(f'{speed:.3g}'):,.0f} rows/s" for speed in (measured.speed, measured.speed * concurrent_tasks)
    )
    probed = (
        f"with {_count(cores, 'core')} (probed in {_count(measured.tasks, 'task')} at a time: {per_task} {unit} on "
        f"{_count(measured.rows, 'row')})"
    )
    if size.rows is None:
        return f"about {total} {probed}"
    return (
        f"about {_time(seconds_for(size.rows, measured, concurrent_tasks))} {probed}"
        + "; ranks take extra time" * has_ranks
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 100 << 20 else f"{size / 2**20:,.0f} MiB"


def _time(seconds: float) -> str:
    for most, unit, name in ((99, 1, "s"), (99 * 60, 60, "min")):
        if seconds < most:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{seconds / 3600:,.1f} h"
