"""Make the list of every user with a ranking model, and publish recommendations/."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.arrays import to_text_array
from nfm.contract.columns import Rows
from nfm.contract.errors import DataError, GateError
from nfm.contract.publishing.publish import check_replaceable, locked, publication_id, staged
from nfm.contract.schema import canonical_json
from nfm.ranking.health import (
    compare_with_last,
    count_lists,
    describe_lists,
    describe_users,
    find_crossed,
    lift_gates,
)
from nfm.ranking.inputs import PREPARED, prepare_inputs
from nfm.ranking.page import MARKER, REPORT, refused_folder, write_report
from nfm.ranking.prepare import Opened, open_all
from nfm.ranking.stored import Items
from nfm.ranking.tasks import Chunk, Tally, Work, make_lists
from nfm.ranking.users import open_users
from nfm.table.errors import translate_spark_errors
from nfm.table.jobs.chunks import Chunks, code_digest, open_chunks
from nfm.table.jobs.hosts import Placed, place
from nfm.table.session import read_settings
from nfm.table.write import Layout, Writer, WrittenFile, move_into_place

_RECORD = pa.schema([("record", pa.string())])
_KEPT = "The output is unchanged"
_MODEL = "_model"  # folder in the staging folder: the model for the tasks

log = logging.getLogger(__name__)


def recommend(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Make and publish the list of every user. Readers see the old lists until the new ones are complete.

    A killed run is resumed: lists that it made are not made again.

    Returns:
        The content of the output's _report.json.

    Raises:
        GateError: the lists do not pass a gate. Their report is beside the output, which is unchanged.
    """
    opened = open_all(spark, config)
    settings, target, source = config.recommend, config.recommendations_folder, str(config.source)
    log.info("making lists of %d items with the model %s…", settings.k, opened.artifact.fingerprint[:12])
    with translate_spark_errors(source), locked(target), staged(target, MARKER) as staging:
        chunks = open_chunks(target, _list_dependencies(spark, config, opened), Chunk.from_json)
        with _keep_chunks(chunks, opened):
            (staging / _MODEL).mkdir()
            placed = place(spark, opened.artifact, staging / _MODEL)
            facts = prepare_inputs(spark, opened, settings.k, placed, chunks.folder)
            done = _make_lists(spark, config, opened, placed, chunks)
            shutil.rmtree(staging / _MODEL)
            tally = _merge(done)
            _check(tally, facts["users"], source)
            files = [file for chunk in done for file in chunk.files]
            report = _build_report(config, opened, facts, done, chunks.folder / PREPARED)
            keys = opened.order.user, opened.order.item
            report["overlap"] = compare_with_last(spark, [file.path for file in files], target.resolve(), keys)
            gates = settings.gates
            report["gates"] = {"limits": gates.limits, "crossed": find_crossed(gates, report)}
            _enforce_gates(report, target)
            for line in describe_users(report):
                log.warning("%s", line)
            report["publication"] = publication_id(staging)
            _publish(files, report, staging, _make_schema(opened))
    chunks.remove()
    return report


def _publish(files: Sequence[WrittenFile], report: Mapping[str, Any], staging: Path, schema: pa.Schema) -> None:
    if not files:  # readers need a file with the columns
        pq.write_table(schema.empty_table(), staging / f"part-00000-{publication_id(staging)}.parquet")
    move_into_place(files, staging, publication_id(staging))
    write_report(staging, report, describe_users(report), "")


def _merge(chunks: Sequence[Chunk]) -> Tally:
    tally = Tally()
    for chunk in chunks:
        tally.merge(chunk.tally)
    return tally


def _list_dependencies(spark: SparkSession, config: Config, opened: Opened) -> dict[str, Any]:
    """Return everything that the lists depend on, for `open_chunks`."""
    files: Any = uuid.uuid4().hex  # unique: without a file list, a change cannot be detected
    if _is_resumable(opened):
        files = [[name, scan.method, sorted(scan.read_files), scan.skipped] for name, scan in opened.scans.items()]
    assert config.ranking is not None
    sides = {name: table for name in ("users", "items") if (table := getattr(config.ranking, name)) is not None}
    return {
        "model": opened.artifact.fingerprint,
        "table": hashlib.sha256(canonical_json(files).encode()).hexdigest(),
        "reader": read_settings(spark),
        "settings": {
            "source": config.source.model_dump(mode="json"),
            "sides": {name: table.model_dump(mode="json", by_alias=True) for name, table in sides.items()},
            "recommend": config.recommend.model_dump(mode="json", exclude={"gates", "output"}),
        },
        "program": code_digest(),
    }


def _is_resumable(opened: Opened) -> bool:
    return all(scan.is_resumable for scan in opened.scans.values())


@contextmanager
def _keep_chunks(chunks: Chunks[Chunk], opened: Opened) -> Iterator[None]:
    """Keep the finished chunks of a failed run if another run can resume it; else delete them."""
    try:
        yield
    except BaseException:
        done = chunks.done() if _is_resumable(opened) else []
        if done:
            log.info(
                "the lists of %s users are kept in %s: a run with the same tables, model and settings resumes from "
                "there; delete that folder if you need the space",
                f"{sum(chunk.tally.users for chunk in done):,}",
                chunks.folder,
            )
        else:
            chunks.remove()
        raise


def _make_schema(opened: Opened) -> pa.Schema:
    """Return the schema of the files; its metadata identifies the model."""
    fingerprints = {
        "model_fingerprint": opened.artifact.fingerprint,
        "encoding_fingerprint": opened.artifact.encoding.spec.fingerprint,
    }
    keys = zip((opened.order.user, opened.order.item), opened.key_types, strict=True)
    return pa.schema([*keys, ("rank", pa.int32()), ("score", pa.float32())], {"nfm": json.dumps(fingerprints)})


def _layout(schema: pa.Schema) -> Layout:
    return Layout(tuple(schema.names[:3]), tuple(schema.names[:3]))


def _make_lists(
    spark: SparkSession, config: Config, opened: Opened, placed: Placed, chunks: Chunks[Chunk]
) -> list[Chunk]:
    """Make the lists of the splits that are not done yet; return all chunks, ordered by number."""
    order, schema, folder = opened.order, _make_schema(opened), chunks.folder / PREPARED
    segment = opened.segment.kind if opened.segment is not None else None
    decay = order.decay if order.history is not None else None
    columns = tuple(dict.fromkeys([order.user, *opened.user_columns]))
    names = (order.user, order.item)
    work = Work(placed, folder, *names, columns, opened.missing, decay, segment, config.recommend.k, schema)
    scan, done = open_users(spark, folder / "users"), chunks.done()
    if done:
        log.info("an earlier run has already made the lists of %s users: they are kept", f"{_merge(done).users:,}")
    form, file_bytes = _layout(schema), config.recommend.file_mb << 20

    # Capture only small values and broadcast handles; capturing settings would import nfm.config in workers.
    def make(number: int, rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        chunk = make_lists(number, rows, work, Writer(chunks.files, form, file_bytes))
        yield pa.RecordBatch.from_arrays([to_text_array([chunks.keep(chunk)]).cast(pa.string())], schema=_RECORD)

    numbers = [chunk.number for chunk in done]
    with chunks.log_progress(len(scan.splits), spark.sparkContext.defaultParallelism, "parts of the users done"):
        records = scan.map_splits(scan.schema.names, make, _RECORD, numbers).collect()
    done = [*done, *(Chunk.from_json(row.record) for row in records)]
    for one in opened.scans.values():
        one.check_unchanged()
    return sorted(done, key=lambda chunk: chunk.number)


def _check(tally: Tally, users: int, source: str) -> None:
    if tally.not_finite:
        raise DataError(
            f"{tally.not_finite:,} pairs of users and candidates have a NaN or infinite score: a numeric value is too "
            f"large for the model. Correct extreme values, or set clip for the number and train again. {_KEPT}."
        )
    if tally.users != users:
        raise DataError(
            f"{source} has {users:,} users, but lists of {tally.users:,} were made. {_KEPT}; run the job again."
        )


def _build_report(
    config: Config, opened: Opened, facts: Mapping[str, Any], done: Sequence[Chunk], folder: Path
) -> dict[str, Any]:
    """Return the content of _report.json, without overlap and gates."""
    tally, items = _merge(done), Items.load(folder / "items")
    lists_I = count_lists([file.path for chunk in done for file in chunk.counts], len(items.raw))
    return {
        "name": config.name,
        "task": "ranking",
        "model_fingerprint": opened.artifact.fingerprint,
        "encoding_fingerprint": opened.artifact.encoding.spec.fingerprint,
        "model": str(opened.artifact.path),
        "source": str(config.source),
        "scan": opened.scans["source"].method,
        "skipped_files": sorted({path for scan in opened.scans.values() for path in scan.skipped}),
        "bad_rows": sum(scan.bad_rows for scan in opened.scans.values()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "k": config.recommend.k,
        "users": tally.users,
        "lists": tally.lists,
        "rows": tally.rows,
        "mean_length": tally.rows / tally.lists if tally.lists else None,
        "new_users": tally.new,
        "new_items": facts["new_items"],
        "popular_users": tally.popular,
        "short": tally.short,
        "empty": tally.empty,
        "without_candidates": tally.without_candidates,
        "missing_columns": list(opened.missing),
        **describe_lists(lists_I, np.asarray(items.counts_I), items.raw),
    }


def _enforce_gates(report: Mapping[str, Any], target: Path) -> None:
    """Raise GateError and write the refusal report if a gate is exceeded; else delete that of an earlier refusal."""
    refused, crossed = refused_folder(target), report["gates"]["crossed"]
    if not crossed:
        for name in (REPORT, MARKER):
            (refused / name).unlink(missing_ok=True)
        with suppress(OSError):  # it does not exist, or contains other files
            refused.rmdir()
        return
    check_replaceable(refused, MARKER)
    refused.mkdir(exist_ok=True)
    write_report(refused, report, describe_users(report), lift_gates(crossed))
    lines = [
        "The lists do not pass the gates and are not published:",
        *(f"{gate['reason']}; recommend.gates.{gate['gate']} is {gate['limit']}" for gate in crossed),
        f"{_KEPT}. The report is {refused / REPORT}.",
        f"If the lists are correct, run the job again with --set {lift_gates(crossed)}: finished lists are not made "
        "again.",
    ]
    raise GateError("\n  ".join(lines))
