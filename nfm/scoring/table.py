"""The score job's work: artifact and raw table → scores/."""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publish import check_ours, publish
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.contract.values import kind_of
from nfm.scoring.explain import reason_columns
from nfm.scoring.hosts import opened, place
from nfm.scoring.output import QUANTILE, RANK, finish, layout
from nfm.scoring.scorer import VALUES, count_names, score_columns
from nfm.scoring.tasks import TOLD_DDL, Output, Tally, score_rows
from nfm.spark import told_plainly
from nfm.table.scan import Scan, open_scan
from nfm.table.write import File, Writer

log = logging.getLogger(__name__)

SCORES_MARKER = "_report.json"
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

    Returns:
        What stands in the output's _report.json.
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
        tally, files = _score(spark, artifact, scan, output, schema, settings.file_mb << 20, staging)
        kept = "The old scores were left as they were"
        if tally.not_finite:
            raise DataError(
                f"{tally.not_finite} of {tally.rows} rows of {source} have a score that is not a number or is "
                "infinite: one of their numbers is too large for the model. Look for extreme values, or give that "
                f"column a clip and train again. {kept}."
            )
        files = finish(spark, files, schema, settings, staging / _WRITTEN, staging)
        written = sum(file.rows for file in files)
        if written != tally.rows:
            raise DataError(
                f"{tally.rows} rows of {source} were scored, but {written} were written to {staging}. {kept}; run the "
                "job again."
            )
        report = _report(artifact, source, scan, settings.encoded, tally)
        (staging / SCORES_MARKER).write_text(json.dumps(report, indent=1))
    return report


def _score(
    spark: SparkSession,
    artifact: Artifact,
    scan: Scan,
    output: Output,
    schema: pa.Schema,
    file_bytes: int,
    staging: Path,
) -> tuple[Tally, list[File]]:
    """Let the tasks score, and write below `staging`."""
    written = staging / _WRITTEN
    for folder in (_MODEL, _WRITTEN):
        (staging / folder).mkdir()
    placed = place(spark, artifact, staging / _MODEL)

    # The closure takes small values, or the handles of broadcasts.
    def work(rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        return score_rows(rows, opened(placed), output, schema, Writer(written, layout(schema), file_bytes))

    read = dict.fromkeys([*output.columns, *_inputs(artifact.encoding.spec, output.encoded)])
    tally, files = Tally(), list[File]()
    handed_over = Observation()
    for row in scan.map(read, work, TOLD_DDL, handed_over).collect():
        if row.tally is not None:
            tally.merge(Tally(**json.loads(row.tally)))
        else:
            files.append(File(row.folder, row.path, row.rows, row.bytes))
    shutil.rmtree(staging / _MODEL)
    if scan.method == "parquet":
        scan.check_complete(tally.read)
    elif handed_over.get["rows"] != tally.rows:
        raise DataError(
            f"Spark handed over {handed_over.get['rows']} rows, but {tally.rows} were scored. Run it again."
        )
    return tally, files


def _report(artifact: Artifact, source: Source, scan: Scan, encoded: bool, tally: Tally) -> dict[str, Any]:
    """Ranges of the scores; and counts of tonight's table beside those of the train fold."""
    nothing: dict[str, float | None] = {"min": None, "mean": None, "max": None}
    names = score_columns(artifact.network)
    ranges = dict.fromkeys(names, nothing)
    if tally.rows:
        ranges = {
            name: {"min": low, "mean": total / tally.rows, "max": high}
            for name, low, total, high in zip(names, tally.low, tally.total, tally.high, strict=True)
        }
    return {
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
        **({"scores": ranges} if artifact.network.task == "multiclass" else ranges),
        "values": _values(artifact, encoded, tally),
    }


def _values(artifact: Artifact, encoded: bool, tally: Tally) -> dict[str, dict[str, Any]]:
    """For each field and number: how many `values` the table has, and of these the missing and the unseen ones."""
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    values: dict[str, dict[str, Any]] = {}
    names = count_names(artifact.encoding.spec, encoded)
    for (what, name), count in zip(names, tally.counts or [0] * len(names), strict=True):
        if what == VALUES:
            values[name] = {VALUES: count}
            continue
        of_name = values.setdefault(name, {VALUES: tally.rows})
        facts = statistics["fields"].get(name) or statistics["numbers"][name]
        trained_on = facts.get(VALUES, statistics["rows"])[FOLDS[0]]
        of_name[what] = {
            "count": count,
            "rate": count / of_name[VALUES] if of_name[VALUES] else None,
            "rate_in_training": facts[what][FOLDS[0]] / trained_on if what in facts and trained_on else 0.0,
        }
    return values
