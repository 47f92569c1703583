"""The score job's work: artifact and raw table → scores/."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import Observation, SparkSession

from nfm.config import Config, Source
from nfm.contract import dataset
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.encoder import check_columns
from nfm.contract.errors import ConfigError, DataError, GateError
from nfm.contract.publish import check_ours, publish
from nfm.contract.schema import DATASET_MARKER, Spec, canonical_json
from nfm.contract.values import kind_of
from nfm.scoring.chunks import Chunk, Chunks, open_chunks, program, splits_of
from nfm.scoring.explain import reason_columns
from nfm.scoring.health import check_gates, crossed, health
from nfm.scoring.hosts import opened, place
from nfm.scoring.output import QUANTILE, RANK, finish, layout
from nfm.scoring.report import REPORT, refused_folder, write_report
from nfm.scoring.scorer import score_columns
from nfm.scoring.tally import Tally
from nfm.scoring.tasks import Output, score_rows
from nfm.spark import told_plainly
from nfm.table.relation import versions
from nfm.table.scan import Scan, open_scan
from nfm.table.write import Writer

log = logging.getLogger(__name__)

SCORES_MARKER = "_report.json"
_KEPT = "The old scores were left as they were"
_MODEL, _WRITTEN = "_model", "_written"  # in the staging folder: what tasks read, and where they write


def open_all(spark: SparkSession, config: Config) -> tuple[Artifact, Scan, Source]:
    """The verified artifact and the table to score, once they are known to fit each other.

    Raises:
        DataError: the artifact is refused; a column is missing, or reads otherwise than in training; or the output's
            folder holds something else.
        ConfigError: two columns of the output would have one name.
    """
    artifact, settings = Artifact.load(config.model_folder), config.score
    check_ours(config.scores_folder, SCORES_MARKER)
    source = settings.source or config.source
    spec, carried = artifact.encoding.spec, carried_columns(artifact.encoding.spec, config)
    ranks = [RANK] * settings.rank + [QUANTILE] * settings.quantile
    if ranks and artifact.network.task == "multiclass":
        raise ConfigError(
            f"score.{'rank' if settings.rank else 'quantile'}: the model in {artifact.path} is multiclass, and has a "
            "score for each class: by which one rows should be ranked is not known. Leave it out"
        )
    if settings.format == "delta" and find_spec("deltalake") is None:
        raise ConfigError("score.format: 'delta' given, but there is no package deltalake: pip install deltalake")
    check_gates(settings.gates, artifact)
    columns = list(dict.fromkeys([*carried, *settings.partition_by]))
    reasons = [name for name, _ in reason_columns(settings.explain)]
    _check_names(columns, [*score_columns(artifact.network), *reasons, *ranks], artifact)
    if settings.encoded:
        _check_made_with(spec, source)

    def needed(schema: pa.Schema) -> Iterable[str]:
        if settings.encoded:
            dataset.check_schema(spec, schema, str(source))
        else:
            artifact.encoding.check(schema, str(source))
        why = "The model's key, score.columns and score.partition_by name what goes into the output."
        check_columns(columns, schema, str(source), why)
        for name in settings.partition_by:
            if kind_of(schema.field(name).type) is None:
                raise DataError(
                    f"score.partition_by: column '{name}' of {source} is {schema.field(name).type}, and folders are "
                    "named by texts, numbers, booleans or dates. Cast it in a view, or leave it out."
                )
        _check_carried(carried, schema, str(source), settings.format)
        return [*columns, *_inputs(spec, settings.encoded)]

    return artifact, open_scan(spark, source, needed), source


def _inputs(spec: Spec, encoded: bool) -> tuple[str, ...]:
    return spec.outputs if encoded else spec.columns


def _check_made_with(spec: Spec, source: Source) -> None:
    """An encoded table is a dataset, or a part of one, that the model's own encoding has written."""
    for path in source.paths:
        folder = next((f for f in (Path(path), *Path(path).parents) if (f / DATASET_MARKER).exists()), None)
        made_with = json.loads((folder / DATASET_MARKER).read_text())["encoding_fingerprint"] if folder else None
        if made_with != spec.fingerprint:
            was = f"was written with the encoding {made_with[:12]}…" if made_with else f"holds no {DATASET_MARKER}"
            raise DataError(
                f"score.encoded says that {path} holds ids of the model's encoding ({spec.fingerprint[:12]}…), but it "
                f"{was}. Name the dataset/ that the model was trained on, one of its folds, or one that "
                "jobs/features.py made with the same encoding; or score the raw table."
            )
    if not source.paths:
        raise DataError("score.encoded is for the folder of a dataset (score.source.path), not for a table's name.")


def _check_carried(carried: Sequence[str], schema: pa.Schema, where: str, format_: str) -> None:
    for name in carried:
        type_ = schema.field(name).type
        flat = not pa.types.is_nested(type_)
        if pa.types.is_duration(type_) or type_ == pa.struct([]) or (format_ == "csv" and not flat):
            allowed = "texts, numbers, dates and the like" if format_ == "csv" else "everything but intervals"
            raise DataError(
                f"Column '{name}' of {where} is {type_}, which cannot be carried into the output: {format_} takes "
                f"{allowed}. Cast it in a view, or take it out of score.columns."
            )


def carried_columns(spec: Spec, config: Config) -> list[str]:
    """The key, then the columns asked for, each once."""
    return list(dict.fromkeys([*spec.key, *config.score.columns]))


def _check_names(carried: Sequence[str], scores: Sequence[str], artifact: Artifact) -> None:
    """No two columns of the output have one name. (Spark does not tell capital from small letters.)"""
    taken: dict[str, str] = {}
    for name in scores:
        if before := taken.get(name.lower()):
            raise ConfigError(
                f"score.model: the output would have the columns {before!r} and {name!r} for two classes of the model "
                f"in {artifact.path}, and Spark does not tell capital from small letters. Write one of the classes "
                "otherwise in the label's column, or in a view, and make the features and the model again"
            )
        taken[name.lower()] = name
    for name in carried:
        if before := taken.get(name.lower()):
            raise ConfigError(
                f"score.columns: the output has a column {before!r} already, and Spark does not tell capital from "
                f"small letters; leave {name!r} out, or rename it in a view"
            )
        taken[name.lower()] = name


def score_table(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Score every row and publish; readers see the old scores until the new ones are complete.

    A run that was killed is gone on from: what it has finished is not scored again.

    Returns:
        What stands in the output's _report.json.

    Raises:
        GateError: the table does not pass a gate. Its report lies beside the output, which is left as it was.
    """
    artifact, scan, source = open_all(spark, config)
    settings = config.score
    log.info("scoring %s with the model %s…", source, artifact.fingerprint[:12])
    with told_plainly(str(source)), publish(config.scores_folder, SCORES_MARKER) as staging:
        # Partition columns go into folders' names at the end, if rows are put into another order before.
        at_once = () if settings.rank or settings.quantile else settings.partition_by
        columns = dict.fromkeys([*carried_columns(artifact.encoding.spec, config), *settings.partition_by])
        output = Output(tuple(columns), at_once, settings.encoded, settings.explain)
        schema = output.schema(artifact, scan.schema)
        chunks = open_chunks(config.scores_folder, _run(spark, artifact, scan, source, output, settings.file_mb))
        with _kept(chunks, scan):
            done = _score(spark, artifact, scan, output, schema, settings.file_mb << 20, chunks, staging)
            tally = Tally()
            for chunk in done:
                tally.merge(chunk.tally)
            if tally.not_finite:
                raise DataError(
                    f"{tally.not_finite} of {tally.rows} rows of {source} have a score that is not a number or is "
                    "infinite: one of their numbers is too large for the model. Look for extreme values, or give that "
                    f"column a clip and train again. {_KEPT}."
                )
            report = _report(config, artifact, source, scan, tally)
            files = [file for chunk in done for file in chunk.files]
            files = finish(spark, files, schema, settings, staging / _WRITTEN, staging)
            written = sum(file.rows for file in files)
            if written != tally.rows:
                raise DataError(
                    f"{tally.rows} rows of {source} were scored, but {written} were written to {staging}. {_KEPT}; run "
                    "the job again."
                )
            write_report(staging, report)
    chunks.remove()
    return report


def _run(
    spark: SparkSession, artifact: Artifact, scan: Scan, source: Source, output: Output, file_mb: int
) -> dict[str, Any]:
    """What the chunks follow from, as `open_chunks` takes it."""
    files = sorted(versions(spark, scan.uris)) if scan.parts_known_again() else uuid.uuid4().hex
    return {
        "model": artifact.fingerprint,
        "table": hashlib.sha256(canonical_json([files, scan.skipped, scan.method]).encode()).hexdigest(),
        "cut": scan.cut_by,
        "settings": {"source": source.model_dump(mode="json"), "output": vars(output), "file_mb": file_mb},
        "program": program(),
    }


@contextmanager
def _kept(chunks: Chunks, scan: Scan) -> Iterator[None]:
    """Whatever ends the run: what is done stays, if another one can go on from it."""
    try:
        yield
    except BaseException:
        if not scan.parts_known_again():
            chunks.remove()
        elif done := chunks.done():
            rows = sum(chunk.tally.rows for chunk in done)
            log.info("%d rows that are scored are kept: the same command goes on from there", rows)
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
        log.info("a run before this one has scored %d rows of them already: they are taken as they are", rows)
    (staging / _MODEL).mkdir()
    placed = place(spark, artifact, staging / _MODEL)

    # The closure takes small values, or the handles of broadcasts.
    def work(number: int, rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        writer = Writer(chunks.files, layout(schema), file_bytes)
        chunk = score_rows(number, rows, opened(placed), output, schema, writer)
        chunks.keep(chunk)
        yield pa.RecordBatch.from_pydict({"record": [chunk.to_json()]})

    read = dict.fromkeys([*output.columns, *_inputs(artifact.encoding.spec, output.encoded)])
    handed_over = Observation()
    before = [chunk.number for chunk in done]
    records = scan.map_parts(read, work, "record string", before, handed_over).collect()
    new = [Chunk.from_json(row.record) for row in records]
    shutil.rmtree(staging / _MODEL)
    done = sorted([*done, *new], key=lambda chunk: chunk.number)
    if scan.method == "parquet":
        tally = Tally()
        for chunk in done:
            tally.merge(Tally(read=chunk.tally.read))
        scan.check_complete(tally.read)
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
        "limits": {key: limit for key, limit in gates.model_dump().items() if limit is not None},
        "crossed": crossed(gates, report),
    }
    refused = refused_folder(config.scores_folder)
    if not report["gates"]["crossed"]:
        shutil.rmtree(refused, ignore_errors=True)  # of a night before
        return report
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
                "If the table is as it should be, let it pass with another limit, as in --set "
                f"score.gates.{found[0]['gate']}=null: rows that are scored already are not scored again.",
            ]
        )
    )
