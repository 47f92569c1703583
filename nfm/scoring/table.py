"""The score job's work: artifact and raw table → scores/."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nfm.config import Config, Source
from nfm.contract.artifact import SCORER_FILES, Artifact
from nfm.contract.encoder import check_columns
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publish import publish
from nfm.contract.schema import FOLDS, Spec
from nfm.scoring.scorer import count_names, score_batches
from nfm.spark import column, distribute, on_worker, told_plainly
from nfm.table.scan import Scan, open_scan

log = logging.getLogger(__name__)

SCORES_MARKER = "_report.json"
SCORE = "score"
_SCORED = "_nfm_scored"  # holds score and counts until both are taken apart; no column of a user's is called so


def open_all(spark: SparkSession, config: Config) -> tuple[Artifact, Scan, Source]:
    """The verified artifact and the table to score, once they are known to fit each other.

    Raises:
        DataError: the artifact is refused; a column is missing, or reads otherwise than in training.
        ConfigError: an output column would be there twice.
    """
    artifact = Artifact.load(config.model_folder)
    source = config.score.source or config.source
    spec, carried = artifact.encoding.spec, carried_columns(artifact.encoding.spec, config)
    if SCORE in (name.lower() for name in carried):
        raise ConfigError(
            f"score.columns: the output has a column {SCORE!r} already; leave it out, or rename it in a view"
        )

    def needed(schema: pa.Schema) -> Iterable[str]:
        artifact.encoding.check(schema, str(source))
        check_columns(carried, schema, str(source), "The model's key and score.columns name what is carried along.")
        return [*carried, *spec.columns]

    return artifact, open_scan(spark, source, needed), source


def carried_columns(spec: Spec, config: Config) -> list[str]:
    """The key, then the columns asked for, each once."""
    return list(dict.fromkeys([*spec.key, *config.score.columns]))


def score_table(spark: SparkSession, config: Config) -> Mapping[str, Any]:
    """Score every row and publish; readers see the old scores until the new ones are complete.

    Returns:
        What stands in the output's _report.json.
    """
    artifact, scan, source = open_all(spark, config)
    spec = artifact.encoding.spec
    log.info("scoring %s with the model %s…", source, artifact.fingerprint[:12])
    with told_plainly(str(source)), publish(config.scores_folder, SCORES_MARKER) as staging:
        observed = _write(spark, artifact, scan.table, carried_columns(spec, config), staging)
        written = sum(pq.ParquetFile(path).metadata.num_rows for path in staging.glob("*.parquet"))
        if written != observed["rows"]:
            raise DataError(
                f"{observed['rows']} rows of {source} were scored, but {written} were written to {staging}. The old "
                "scores were left as they are; run the job again."
            )
        if observed["nan"]:
            raise DataError(
                f"{observed['nan']} of {observed['rows']} rows of {source} have a score that is not a number: one of "
                "their numbers is too large for the model. Look for extreme values, or give that column a clip and "
                "train again. The old scores were left as they are."
            )
        report = _report(artifact, source, scan.skipped, observed)
        (staging / SCORES_MARKER).write_text(json.dumps(report, indent=1))
    return report


def _write(
    spark: SparkSession, artifact: Artifact, table: DataFrame, carried: list[str], target: Path
) -> Mapping[str, Any]:
    """Write the scores; returns the number of rows, the range of the scores and the sums of the counts."""
    spec = artifact.encoding.spec
    raw = F.struct(*(column(name) for name in spec.columns))
    score = score_column(distribute(spark, artifact.path, SCORER_FILES), artifact.fingerprint)(raw)
    scored = table.select(*(column(name) for name in carried), score.alias(_SCORED))
    sums = [F.sum(F.col(f"{_SCORED}.counts")[i]).alias(f"count_{i}") for i in range(len(count_names(spec)))]
    range_ = [f(f"{_SCORED}.score").alias(name) for f, name in ((F.min, "min"), (F.avg, "mean"), (F.max, "max"))]
    observation = Observation()
    nan = F.count_if(F.isnan(f"{_SCORED}.score")).alias("nan")
    watched = scored.observe(observation, F.count(F.lit(1)).alias("rows"), nan, *range_, *sums)
    facts = {"nfm": {"model_fingerprint": artifact.fingerprint, "encoding_fingerprint": spec.fingerprint}}
    output = watched.select(*(column(name) for name in carried), F.col(f"{_SCORED}.score").alias(SCORE, metadata=facts))
    output.write.mode("append").parquet(str(target))
    return observation.get


def score_column(files: "Broadcast[dict[str, bytes]]", fingerprint: str) -> Any:
    """The user-defined function: a struct of raw columns → a struct of score and counts.

    An iterator function, so that a worker opens the model before its first batch; over Arrow rather than pandas, which
    would turn an integer column with nulls into floats and lose the digits of large keys.
    """

    open_unverified = partial(Artifact.load, verify=False)  # the driver has verified it

    # The closure takes the broadcast's handle, a text and a function.
    @arrow_udf("score float, counts array<bigint>")  # type: ignore[call-overload,untyped-decorator]
    def scored(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        return score_batches(batches, on_worker(files, fingerprint, open_unverified))

    return scored


def _report(artifact: Artifact, source: Source, skipped: Sequence[str], observed: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of tonight's table beside those of the train fold."""
    spec, rows = artifact.encoding.spec, observed["rows"]
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    trained_on = statistics["rows"][FOLDS[0]]
    values: dict[str, dict[str, Any]] = {}
    for i, (what, name) in enumerate(count_names(spec)):
        facts = statistics["fields"].get(name) or statistics["numbers"][name]
        in_training = facts[what][FOLDS[0]] / trained_on if what in facts else 0.0
        values.setdefault(name, {})[what] = {"count": observed[f"count_{i}"] or 0, "rate_in_training": in_training}
    return {
        "name": artifact.metadata["name"],
        "model_fingerprint": artifact.fingerprint,
        "encoding_fingerprint": spec.fingerprint,
        "model": str(artifact.path),
        "source": str(source),
        "skipped_files": list(skipped),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "score": {name: observed[name] for name in ("min", "mean", "max")},
        "values": values,
    }
