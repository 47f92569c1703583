"""Score a raw table with a model and publish scores/."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import Observation, SparkSession

from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract.arrays import to_text_array
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.errors import DataError, GateError
from nfm.contract.publishing.publish import check_replaceable, locked, publication_id
from nfm.contract.schema import canonical_json
from nfm.scoring.chunks import Chunk
from nfm.scoring.formats import publishing
from nfm.scoring.health.gates import crossed_gates, lift_gates
from nfm.scoring.health.health import compare_with_training, describe_keys, describe_settings
from nfm.scoring.health.page import REPORT, SCORES_MARKER, refused_folder, write_report
from nfm.scoring.health.tally import Tally
from nfm.scoring.keys import count_duplicates
from nfm.scoring.output import final_schema, finish, layout, rank_columns
from nfm.scoring.prepare import model_inputs, open_all, output_columns, renamed_keys
from nfm.scoring.tasks import Output, score_rows
from nfm.table.errors import translate_spark_errors
from nfm.table.folders import folder_values
from nfm.table.jobs.chunks import Chunks, code_digest, open_chunks, reuse_splits
from nfm.table.jobs.hosts import open_model, place
from nfm.table.scan import Scan
from nfm.table.session import TIME_ZONE, read_settings
from nfm.table.store import uri_to_path
from nfm.table.write import Writer

_RECORD = pa.schema([("record", pa.string())])

log = logging.getLogger(__name__)

_KEPT = "The output is unchanged"
# Folders in the staging folder: the model for the tasks; files being written; hashes of keys.
_MODEL, _WRITTEN, _KEYS = "_model", "_written", "_keys"


def score_table(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Score every row and publish the scores. Readers see the old scores until the new ones are complete.

    A killed run is resumed: rows that it scored are not scored again.

    Returns:
        The content of the output's _report.json.

    Raises:
        GateError: the table does not pass a gate. Its report is beside the output, which is unchanged.
    """
    artifact, scan, source = open_all(spark, config)
    settings, target = config.score, config.scores_folder
    log.info("scoring %s with the model %s…", source, artifact.fingerprint[:12])
    # Ranks need all scores. With ranks, `finish` partitions the rows after ranking them.
    partition_by = () if rank_columns(settings) else settings.partition_by
    columns = output_columns(artifact.encoding.spec, config)
    key = artifact.encoding.spec.key if settings.count_duplicate_keys else ()
    folders = tuple(name for name in key if name in settings.partition_by)
    renamed = renamed_keys(artifact.encoding.spec, config)
    output = Output(tuple(columns), partition_by, settings.encoded, settings.explain, key, folders, renamed)
    schema = output.schema(artifact, scan.schema)
    with translate_spark_errors(str(source)), locked(target):
        with publishing(settings, target, final_schema(schema, settings)) as (staging, publish):
            run = _list_dependencies(spark, artifact, scan, source, output, settings.file_mb)
            chunks = open_chunks(target, run, Chunk.from_json)
            with _keep_chunks(chunks, scan):
                done = _score(artifact, scan, output, schema, settings.file_mb << 20, chunks, staging)
                tally = _merge_tallies(done)
                _check_finite(tally, source)
                files = [file for chunk in done for file in chunk.files]
                duplicates = _count_duplicates(spark, done, scan, output, staging) if key else None
                report = _build_report(config, artifact, source, scan, tally, duplicates)
                _enforce_gates(report, config, source)
                for problem in (*describe_settings(report), *describe_keys(report)):
                    log.warning("%s: %s", source, problem)
                files = finish(spark, files, schema, settings, staging / _WRITTEN)
                written = sum(file.rows for file in files)
                if written != tally.rows:
                    raise DataError(
                        f"{tally.rows} rows of {source} were scored, but {written} were written to {staging}. {_KEPT}; "
                        "run the job again."
                    )
                report |= {"publication": publication_id(staging)}
                publish(files, report)
                shutil.rmtree(staging / _WRITTEN)  # with the files of tasks that died or ran twice
        # While still locked, so that no other run starts before the chunks are deleted.
        chunks.remove()
    return report


def _count_rows(chunks: Iterable[Chunk]) -> int:
    return sum(chunk.tally.rows for chunk in chunks)


def _merge_tallies(chunks: Iterable[Chunk]) -> Tally:
    tally = Tally()
    for chunk in chunks:
        tally.merge(chunk.tally)
    return tally


def _list_dependencies(
    spark: SparkSession, artifact: Artifact, scan: Scan, source: Source, output: Output, file_mb: int
) -> dict[str, Any]:
    """Return everything that the chunks depend on, for `open_chunks`."""
    files: Any = uuid.uuid4().hex  # unique: without a file list, a change cannot be detected
    if scan.is_resumable:
        files = sorted(scan.read_files)
    return {
        "model": artifact.fingerprint,
        "table": hashlib.sha256(canonical_json([files, scan.skipped, scan.method]).encode()).hexdigest(),
        "cut": scan.partitioning,
        "reader": read_settings(spark),
        "settings": {"source": source.model_dump(mode="json"), "output": vars(output), "file_mb": file_mb},
        "program": code_digest(),
    }


@contextmanager
def _keep_chunks(chunks: Chunks[Chunk], scan: Scan) -> Iterator[None]:
    """Keep the finished chunks of a failed run if another run can resume it; else delete them."""
    try:
        yield
    except BaseException:
        rows = _count_rows(chunks.done()) if scan.is_resumable else 0
        if rows:
            log.info(
                "%s scored rows are kept in %s: a run with the same table, model and settings resumes from there; "
                "delete that folder if you need the space",
                f"{rows:,}",
                chunks.folder,
            )
        else:
            chunks.remove()
        raise


def _score(
    artifact: Artifact,
    scan: Scan,
    output: Output,
    schema: pa.Schema,
    file_bytes: int,
    chunks: Chunks[Chunk],
    staging: Path,
) -> list[Chunk]:
    """Score the splits that are not done yet; return all chunks, ordered by number."""
    spark = scan.table.sparkSession
    if scan.method == "parquet":
        scan = replace(scan, splits=reuse_splits(chunks, scan.splits))
    done = chunks.done()
    if done:
        log.info("an earlier run has already scored %s rows: they are kept", f"{_count_rows(done):,}")
    (staging / _MODEL).mkdir()
    placed = place(spark, artifact, staging / _MODEL)
    form = layout(schema)

    # Capture only small values and broadcast handles; capturing settings would import nfm.config in workers.
    def work(number: int, rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        writer = Writer(chunks.files, form, file_bytes)
        chunk = score_rows(number, rows, open_model(placed), output, schema, writer)
        yield pa.RecordBatch.from_arrays([to_text_array([chunks.keep(chunk)]).cast(pa.string())], schema=_RECORD)

    read = dict.fromkeys([*map(output.in_table, output.columns), *model_inputs(artifact.encoding.spec, output.encoded)])
    delivered = Observation()
    numbers = [chunk.number for chunk in done]
    splits = len(scan.splits) if scan.method == "parquet" else None
    with chunks.log_progress(splits, spark.sparkContext.defaultParallelism):
        records = scan.map_splits(read, work, _RECORD, numbers, delivered).collect()
    shutil.rmtree(staging / _MODEL)
    new = [Chunk.from_json(row.record) for row in records]
    done = sorted([*done, *new], key=lambda chunk: chunk.number)
    if scan.method == "parquet":
        scan.check_complete(_merge_tallies(done).read)
    elif delivered.get["rows"] != _count_rows(new):
        rows = delivered.get["rows"]
        raise DataError(f"Spark delivered {rows} rows, but {_count_rows(new)} were scored. Run the job again.")
    scan.check_unchanged()
    return done


def _count_duplicates(
    spark: SparkSession, done: Sequence[Chunk], scan: Scan, output: Output, staging: Path
) -> dict[str, Any]:
    """Return the content of `duplicate_keys` in _report.json."""
    files = [file for chunk in done for file in chunk.files]
    runs = [run for chunk in done for run in chunk.keys]
    key = pa.schema([(name, scan.schema.field(output.in_table(name)).type) for name in output.key])
    paths = [uri_to_path(file.path) for file in scan.read_files]
    in_null_folder = [name for name in output.key if any(folder_values(path, [name]) == (None,) for path in paths)]
    return count_duplicates(spark, runs, files, key, staging / _KEYS, output.folders) | {
        "null_rows": _merge_tallies(done).null_keys,
        "empty_is_null": list(dict.fromkeys([*output.folders, *in_null_folder])),
    }


def _check_finite(tally: Tally, source: Source) -> None:
    if tally.not_finite:
        raise DataError(
            f"{tally.not_finite} of {tally.rows} rows of {source} have a NaN or infinite score: "
            "a numeric value is too large for the model. Correct extreme values, or set "
            f"columns.numeric.COLUMN.clip and train again. {_KEPT}."
        )


def _build_report(
    config: Config, artifact: Artifact, source: Source, scan: Scan, tally: Tally, duplicates: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the content of _report.json."""
    report = {
        "name": artifact.metadata["name"],
        "task": artifact.network.task,
        "model_fingerprint": artifact.fingerprint,
        "encoding_fingerprint": artifact.encoding.spec.fingerprint,
        "model": str(artifact.path),
        "source": str(source),
        "scan": scan.method,
        "read_settings": read_settings(scan.table.sparkSession),
        "changed_settings": _changed_settings(artifact, scan, source, config.score.encoded),
        "skipped_files": list(scan.skipped),
        "bad_rows": scan.bad_rows,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": tally.rows,
        "duplicate_keys": duplicates,
        **compare_with_training(artifact, tally, config.score.encoded),
    }
    gates = config.score.gates
    return report | {"gates": {"limits": gates.limits, "crossed": crossed_gates(gates, report)}}


def _changed_settings(artifact: Artifact, scan: Scan, source: Source, encoded: bool) -> dict[str, list[str]]:
    """Return the settings with which Spark reads another table than in training: the value then, and now."""
    if encoded or (scan.method == "parquet" and source.where is None):  # tasks read the files themselves
        return {}
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    trained = statistics.get("read_settings", {TIME_ZONE: "UTC"})  # older versions always used UTC
    now = read_settings(scan.table.sparkSession)
    return {key: [was, now[key]] for key, was in trained.items() if now.get(key, was).lower() != was.lower()}


def _enforce_gates(report: Mapping[str, Any], config: Config, source: Source) -> None:
    """Raise GateError and write the refusal report if a gate is exceeded.

    Otherwise delete the report of an earlier refusal.
    """
    refused, crossed = refused_folder(config.scores_folder), report["gates"]["crossed"]
    if not crossed:
        for name in (REPORT, SCORES_MARKER):
            (refused / name).unlink(missing_ok=True)
        with suppress(OSError):  # it does not exist, or contains other files
            refused.rmdir()
        if not report["rows"]:
            log.warning("%s has no rows; set score.gates.min_rows to 1 to refuse such a table", source)
        return
    check_replaceable(refused, SCORES_MARKER)
    refused.mkdir(exist_ok=True)
    write_report(refused, report)
    lines = [
        f"{source} does not pass the gates, and its scores are not published:",
        *(f"{gate['told']}; score.gates.{gate['gate']} is {gate['limit']}" for gate in crossed),
        f"{_KEPT}. The report is {refused / REPORT}.",
        f"If the table is correct, run the job again with --set {lift_gates(crossed)}: scored rows are not scored "
        "again.",
    ]
    raise GateError("\n  ".join(lines))
