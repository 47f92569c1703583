"""What the score job takes: the artifact and the raw table, once they are known to fit each other."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from nfm.config.settings import Config, Source
from nfm.contract import dataset
from nfm.contract.artifact import Artifact
from nfm.contract.columns import check_columns
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publish import check_replaceable
from nfm.contract.schema import DATASET_MARKER, Spec
from nfm.contract.values import kind_of
from nfm.scoring.formats import check_installed, unsupported
from nfm.scoring.health.health import check_gates
from nfm.scoring.health.page import SCORES_MARKER
from nfm.scoring.output import rank_columns
from nfm.scoring.reasons import reason_columns
from nfm.scoring.scorer import score_columns
from nfm.table.scan import Scan, open_scan


def open_all(spark: SparkSession, config: Config) -> tuple[Artifact, Scan, Source]:
    """The verified artifact and the table to score, once they are known to fit each other.

    Raises:
        DataError: the artifact is refused; a column is missing, or reads otherwise than in training; or the output's
            folder holds something else.
        ConfigError: two columns of the output would have one name.
    """
    artifact, settings = Artifact.load(config.model_folder), config.score
    check_replaceable(config.scores_folder, SCORES_MARKER)
    source = settings.source or config.source
    spec, carried = artifact.encoding.spec, carried_columns(artifact.encoding.spec, config)
    ranks = [name for name, _ in rank_columns(settings)]
    if ranks and artifact.network.task == "multiclass":
        raise ConfigError(
            f"score.{'rank' if settings.rank else 'quantile'}: the model in {artifact.path} is multiclass, and has a "
            "score for each class: by which one rows should be ranked is not known. Leave it out"
        )
    check_installed(settings.format)
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
        return [*columns, *model_inputs(spec, settings.encoded)]

    return artifact, open_scan(spark, source, needed), source


def model_inputs(spec: Spec, encoded: bool) -> tuple[str, ...]:
    """Columns of the table that the model reads."""
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
        if allowed := unsupported(format_, type_):
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
