"""The score job's work: artifact and raw table → scores/."""

import hashlib
import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import Observation, SparkSession

from nfm.config.settings import Config, Source
from nfm.contract.arrays import few_texts
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.errors import DataError, GateError
from nfm.contract.publish import check_replaceable, locked, staged
from nfm.contract.schema import canonical_json
from nfm.scoring.chunks import Chunk, Chunks, open_chunks, program, splits_of
from nfm.scoring.health.health import crossed, health, lifted
from nfm.scoring.health.page import REPORT, SCORES_MARKER, refused_folder, write_report
from nfm.scoring.health.tally import Tally
from nfm.scoring.hosts import open_model, place
from nfm.scoring.output import finish, layout
from nfm.scoring.prepare import carried_columns, model_inputs, open_all
from nfm.scoring.tasks import Output, score_rows
from nfm.table.errors import translate_spark_errors
from nfm.table.relation import versions
from nfm.table.scan import Scan
from nfm.table.write import Writer

_RECORD = pa.schema([("record", pa.string())])

log = logging.getLogger(__name__)

_KEPT = "The output was left as it was"
_MODEL, _WRITTEN = "_model", "_written"  # in the staging folder: what tasks read, and where they write


def score_table(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Score every row and publish; readers see the old scores until the new ones are complete.

    A run that was killed is gone on from: what it has finished is not scored again.

    Returns:
        What stands in the output's _report.json.

    Raises:
        GateError: the table does not pass a gate. Its report lies beside the output, which is left as it was.
    """
    artifact, scan, source = open_all(spark, config)
    settings, target = config.score, config.scores_folder
    log.info("scoring %s with the model %s…", source, artifact.fingerprint[:12])
    # Partition columns go into folders' names at the end, if rows are put into another order before.
    at_once = () if settings.rank or settings.quantile else settings.partition_by
    columns = dict.fromkeys([*carried_columns(artifact.encoding.spec, config), *settings.partition_by])
    output = Output(tuple(columns), at_once, settings.encoded, settings.explain)
    schema = output.schema(artifact, scan.schema)
    with translate_spark_errors(str(source)), locked(target):
        with staged(target, SCORES_MARKER) as staging:
            chunks = open_chunks(target, _run(spark, artifact, scan, source, output, settings.file_mb))
            with _kept(chunks, scan):
                done = _score(spark, artifact, scan, output, schema, settings.file_mb << 20, chunks, staging)
                tally = _sum(done)
                if tally.not_finite:
                    raise DataError(
                        f"{tally.not_finite} of {tally.rows} rows of {source} have a score that is not a number or is "
                        "infinite: one of their numbers is too large for the model. Look for extreme values, or give "
                        f"that column a clip and train again. {_KEPT}."
                    )
                report = _report(config, artifact, source, scan, tally)
                files = [file for chunk in done for file in chunk.files]
                files = finish(spark, files, schema, settings, staging / _WRITTEN, staging)
                written = sum(file.rows for file in files)
                if written != tally.rows:
                    raise DataError(
                        f"{tally.rows} rows of {source} were scored, but {written} were written to {staging}. {_KEPT}; "
                        "run the job again."
                    )
                write_report(staging, report)
        chunks.remove()  # while nobody else may begin
    return report


def _sum(chunks: Iterable[Chunk]) -> Tally:
    tally = Tally()
    for chunk in chunks:
        tally.merge(chunk.tally)
    return tally


def _run(
    spark: SparkSession, artifact: Artifact, scan: Scan, source: Source, output: Output, file_mb: int
) -> dict[str, Any]:
    """What the chunks follow from, as `open_chunks` takes it."""
    files: Any = uuid.uuid4().hex  # of what is more than files nobody can tell whether it has changed
    if scan.is_resumable:
        files = sorted(scan.read_files or versions(spark, scan.uris))
    return {
        "model": artifact.fingerprint,
        "table": hashlib.sha256(canonical_json([files, scan.skipped, scan.method]).encode()).hexdigest(),
        "cut": scan.partitioning,
        "settings": {"source": source.model_dump(mode="json"), "output": vars(output), "file_mb": file_mb},
        "program": program(),
    }


@contextmanager
def _kept(chunks: Chunks, scan: Scan) -> Iterator[None]:
    """Whatever ends the run: what is done stays, if another one can go on from it."""
    try:
        yield
    except BaseException:
        rows = sum(chunk.tally.rows for chunk in chunks.done()) if scan.is_resumable else 0
        if rows:
            log.info(
                "%s rows that are scored are kept in %s: a run of the same table, model and settings goes on from "
                "there; whoever needs that room may delete it",
                f"{rows:,}",
                chunks.folder,
            )
        else:
            chunks.remove()
        raise


def _score(
    spark: SparkSession,
    artifact: Artifact,
    scan: Scan,
    output: Output,
    schema: pa.Schema,
    file_bytes: int,
    chunks: Chunks,
    staging: Path,
) -> list[Chunk]:
    """Let the tasks score what is not done yet; all the table's chunks, in the order of their numbers."""
    if scan.method == "parquet":
        scan = replace(scan, splits=splits_of(chunks, scan.splits))
    done = chunks.done()
    if done:
        rows = sum(chunk.tally.rows for chunk in done)
        log.info("a run before this one has scored %s rows already: they are taken as they are", f"{rows:,}")
    (staging / _MODEL).mkdir()
    placed = place(spark, artifact, staging / _MODEL)

    form = layout(schema)

    # The closure takes small values, or the handles of broadcasts; what it calls, a worker imports: no settings.
    def work(number: int, rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        writer = Writer(chunks.files, form, file_bytes)
        chunk = score_rows(number, rows, open_model(placed), output, schema, writer)
        yield pa.RecordBatch.from_arrays([few_texts([chunks.keep(chunk)]).cast(pa.string())], schema=_RECORD)

    read = dict.fromkeys([*output.columns, *model_inputs(artifact.encoding.spec, output.encoded)])
    handed_over = Observation()
    before = [chunk.number for chunk in done]
    parts = len(scan.splits) if scan.method == "parquet" else None
    with chunks.progress(parts, spark.sparkContext.defaultParallelism):
        records = scan.map_parts(read, work, _RECORD, before, handed_over).collect()
    new = [Chunk.from_json(row.record) for row in records]
    shutil.rmtree(staging / _MODEL)
    done = sorted([*done, *new], key=lambda chunk: chunk.number)
    if scan.method == "parquet":
        scan.check_complete(_sum(done).read)
    else:
        scored = sum(chunk.tally.rows for chunk in new)
        if handed_over.get["rows"] != scored:
            raise DataError(
                f"Spark handed over {handed_over.get['rows']} rows, but {scored} were scored. Run it again."
            )
    return done


def _report(config: Config, artifact: Artifact, source: Source, scan: Scan, tally: Tally) -> dict[str, Any]:
    """The content of _report.json, once the table has passed the gates.

    Raises:
        GateError: it has not.
    """
    report = {
        "name": artifact.metadata["name"],
        "task": artifact.network.task,
        "model_fingerprint": artifact.fingerprint,
        "encoding_fingerprint": artifact.encoding.spec.fingerprint,
        "model": str(artifact.path),
        "source": str(source),
        "scan": scan.method,
        "skipped_files": list(scan.skipped),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": tally.rows,
        **health(artifact, tally, config.score.encoded),
    }
    gates = config.score.gates
    report["gates"] = {
        "limits": gates.limits,
        "crossed": crossed(gates, report),
    }
    refused = refused_folder(config.scores_folder)
    if not report["gates"]["crossed"]:
        for name in (REPORT, SCORES_MARKER):  # of a night before
            (refused / name).unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or somebody has put more into it
            refused.rmdir()
        if not tally.rows:
            log.warning("%s has no rows, and so have the scores; score.gates.min_rows: 1 would refuse that", source)
        return report
    check_replaceable(refused, SCORES_MARKER)
    refused.mkdir(exist_ok=True)
    write_report(refused, report)
    found: list[dict[str, Any]] = report["gates"]["crossed"]
    limits = [f"{one['told']}; score.gates.{one['gate']} is {one['limit']}" for one in found]
    raise GateError(
        "\n  ".join(
            [
                f"{source} does not pass the gates, and its scores are not published:",
                *limits,
                f"{_KEPT}. What was found: {refused / REPORT}.",
                f"If the table is as it should be, it passes with --set {lifted(found)}: rows that are scored already "
                "are not scored again.",
            ]
        )
    )
