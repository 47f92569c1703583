"""The score job's work: artifact and raw table → scores/."""

import json
import logging
import math
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
from pyspark.sql.pandas.types import from_arrow_type

from nfm.config import Config, Source
from nfm.contract.artifact import SCORER_FILES, Artifact, Network
from nfm.contract.encoder import check_columns
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publish import publish
from nfm.contract.schema import FOLDS, Spec
from nfm.scoring.scorer import VALUES, count_names, score_batches, scored_type
from nfm.spark import column, distribute, on_worker, told_plainly
from nfm.table.scan import Scan, open_scan

log = logging.getLogger(__name__)

SCORES_MARKER = "_report.json"
_SCORED = "_nfm_scored"  # holds scores and counts until they are taken apart; no column of a user's is called so


def open_all(spark: SparkSession, config: Config) -> tuple[Artifact, Scan, Source]:
    """The verified artifact and the table to score, once they are known to fit each other.

    Raises:
        DataError: the artifact is refused; a column is missing, or reads otherwise than in training.
        ConfigError: two columns of the output would have one name.
    """
    artifact = Artifact.load(config.model_folder)
    source = config.score.source or config.source
    spec, carried = artifact.encoding.spec, carried_columns(artifact.encoding.spec, config)
    _check_names(carried, score_columns(artifact.network), artifact)

    def needed(schema: pa.Schema) -> Iterable[str]:
        artifact.encoding.check(schema, str(source))
        check_columns(carried, schema, str(source), "The model's key and score.columns name what is carried along.")
        return [*carried, *spec.columns]

    return artifact, open_scan(spark, source, needed), source


def carried_columns(spec: Spec, config: Config) -> list[str]:
    """The key, then the columns asked for, each once."""
    return list(dict.fromkeys([*spec.key, *config.score.columns]))


def score_columns(network: Network) -> list[str]:
    """`score`; of the multiclass task, one column for each class."""
    return [f"score_{name}" for name in network.classes] if network.task == "multiclass" else ["score"]


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
        if observed["not_finite"]:
            raise DataError(
                f"{observed['not_finite']} of {observed['rows']} rows of {source} have a score that is not a number "
                "or is infinite: one of their numbers is too large for the model. Look for extreme values, or give "
                "that column a clip and train again. The old scores were left as they are."
            )
        report = _report(artifact, source, scan.skipped, observed)
        (staging / SCORES_MARKER).write_text(json.dumps(report, indent=1))
    return report


def _write(
    spark: SparkSession, artifact: Artifact, table: DataFrame, carried: list[str], target: Path
) -> Mapping[str, Any]:
    """Write the scores; returns the number of rows, the ranges of the scores and the sums of the counts."""
    spec, names = artifact.encoding.spec, score_columns(artifact.network)
    raw = F.struct(*(column(name) for name in spec.columns))
    to_score = scoring_function(
        distribute(spark, artifact.path, SCORER_FILES), artifact.fingerprint, artifact.network.outputs
    )
    scored = table.select(*(column(name) for name in carried), to_score(raw).alias(_SCORED))
    scores = [F.col(f"{_SCORED}.score_{i}") for i in range(len(names))]
    sums = [F.sum(F.col(f"{_SCORED}.counts")[i]).alias(f"count_{i}") for i in range(len(count_names(spec)))]
    ranges = [
        f(score).alias(f"{what}_{i}")
        for i, score in enumerate(scores)
        for what, f in (("min", F.min), ("mean", F.avg), ("max", F.max))
    ]
    not_finite = F.isnan(scores[0]) | (F.abs(scores[0]) == math.inf)  # of several classes, all are or none
    observation = Observation()
    watched = scored.observe(
        observation, F.count(F.lit(1)).alias("rows"), F.count_if(not_finite).alias("not_finite"), *ranges, *sums
    )
    facts = {"nfm": {"model_fingerprint": artifact.fingerprint, "encoding_fingerprint": spec.fingerprint}}
    output = [score.alias(name, metadata=facts) for name, score in zip(names, scores, strict=True)]
    watched.select(*(column(name) for name in carried), *output).write.mode("append").parquet(str(target))
    return observation.get


def scoring_function(files: "Broadcast[dict[str, bytes]]", fingerprint: str, outputs: int) -> Any:
    """The user-defined function: a struct of raw columns → a struct like `scored_type`.

    An iterator function, so that a worker opens the model before its first batch; over Arrow rather than pandas, which
    would turn an integer column with nulls into floats and lose the digits of large keys.
    """

    open_unverified = partial(Artifact.load, verify=False)  # the driver has verified it

    # The closure takes the broadcast's handle, a text and a function.
    @arrow_udf(from_arrow_type(scored_type(outputs)))  # type: ignore[call-overload,untyped-decorator]
    def scored(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        return score_batches(batches, on_worker(files, fingerprint, open_unverified))

    return scored


def _report(artifact: Artifact, source: Source, skipped: Sequence[str], observed: Mapping[str, Any]) -> dict[str, Any]:
    """Ranges of the scores; and counts of tonight's table beside those of the train fold."""
    ranges = {
        name: {what: observed[f"{what}_{i}"] for what in ("min", "mean", "max")}
        for i, name in enumerate(score_columns(artifact.network))
    }
    return {
        "name": artifact.metadata["name"],
        "task": artifact.network.task,
        "model_fingerprint": artifact.fingerprint,
        "encoding_fingerprint": artifact.encoding.spec.fingerprint,
        "model": str(artifact.path),
        "source": str(source),
        "skipped_files": list(skipped),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": observed["rows"],
        **({"scores": ranges} if artifact.network.task == "multiclass" else ranges),
        "values": _values(artifact, observed),
    }


def _values(artifact: Artifact, observed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each field and number: how many `values` the table has, and of these the missing and the unseen ones."""
    statistics = json.loads((artifact.path / "encoding" / "statistics.json").read_text())
    values: dict[str, dict[str, Any]] = {}
    for i, (what, name) in enumerate(count_names(artifact.encoding.spec)):
        count = observed[f"count_{i}"] or 0
        if what == VALUES:
            values[name] = {VALUES: count}
            continue
        of_name = values.setdefault(name, {VALUES: observed["rows"]})
        facts = statistics["fields"].get(name) or statistics["numbers"][name]
        trained_on = facts.get(VALUES, statistics["rows"])[FOLDS[0]]
        of_name[what] = {
            "count": count,
            "rate": count / of_name[VALUES] if of_name[VALUES] else None,
            "rate_in_training": facts[what][FOLDS[0]] / trained_on if what in facts and trained_on else 0.0,
        }
    return values
