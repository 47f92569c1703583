"""Load the model and open the raw table of the score job, and check that they fit each other."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from nfm.config.columns import DATASET_COLUMNS
from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract import dataset
from nfm.contract.artifact import Artifact
from nfm.contract.columns import check_columns, check_key
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.schema import DATASET_MARKER, Spec, key_name
from nfm.contract.values import kind_of
from nfm.scoring.formats import check_installed, check_output, partition_columns, unsupported
from nfm.scoring.health.gates import check_gates
from nfm.scoring.output import rank_columns
from nfm.scoring.reasons import reason_columns
from nfm.scoring.scorer import score_columns
from nfm.table.folder_texts import check_folder_texts, check_trained_texts
from nfm.table.scan import Scan, open_scan


def open_all(spark: SparkSession, config: Config, searches: bool = True) -> tuple[Artifact, Scan, Source]:
    """Return the verified model and the table to score, after all checks; `searches` as for `open_scan`.

    Raises:
        DataError: the model is refused; a column is missing or has another type than in training; or the output's
            folder contains something else.
        ConfigError: two columns of the output would have the same name, or settings do not fit the model.
    """
    artifact, settings = Artifact.load(config.model_folder), config.score
    check_installed(settings.format)
    check_output(settings.format, config.scores_folder)
    source = settings.source or config.source
    if rank_columns(settings) and artifact.network.task == "multiclass":
        raise ConfigError(
            f"score.{'rank' if settings.rank else 'quantile'}: the model in {artifact.path} is multiclass and has a "
            "score for each class; none of them alone ranks the rows. Leave this setting out"
        )
    check_gates(settings.gates, artifact)
    columns = output_columns(artifact.encoding.spec, config)
    _check_names(columns, added_columns(artifact, config), artifact)
    _check_path(partition_columns(settings.format, config.scores_folder), [*columns, *added_columns(artifact, config)])
    if settings.encoded:
        _check_made_with(artifact.encoding.spec, source)
    reading = artifact.encoding.reading
    if reading is not None:
        reading = reading.with_texts(artifact.encoding.spec.derived, source.options)
        others = [name for name in reading.types if name.lower() in (source.where or "").lower()]
        reading = reading.for_scoring(
            artifact.encoding.spec, [*output_columns(artifact.encoding.spec, config), *others]
        )
    scan = open_scan(
        spark, source, lambda schema: _needed(artifact, config, source, schema), reading, searches=searches
    )
    if settings.encoded:
        _check_made_with(artifact.encoding.spec, source)  # again: the files may be those of a newer dataset
    else:
        spec, files = artifact.encoding.spec, scan.read_files
        fields = [field for field in spec.fields if field.edges is None]
        kinds = {column: kind for field in fields for column, kind in zip(field.columns, field.kinds, strict=True)}
        check_folder_texts(source, files, scan.schema, [*spec.key, *kinds])
        check_trained_texts(source, files, scan.schema, [name for name, kind in kinds.items() if kind == "text"])
    return artifact, scan, source


def model_inputs(spec: Spec, encoded: bool) -> tuple[str, ...]:
    """Return the columns of the table that the model reads."""
    return spec.outputs if encoded else spec.columns


def carried_columns(spec: Spec, config: Config) -> list[str]:
    """Return the columns of the key, then score.columns, without duplicates."""
    return list(dict.fromkeys([*spec.key, *config.score.columns]))


def output_columns(spec: Spec, config: Config) -> list[str]:
    """Return the table's columns that go into the output's files or into the names of its folders."""
    return list(dict.fromkeys([*carried_columns(spec, config), *config.score.partition_by]))


def renamed_keys(spec: Spec, config: Config) -> dict[str, str]:
    """Return the key columns that have another name in the table: of a dataset, those whose name a field has."""
    if not config.score.encoded:
        return {}
    taken = {name.lower() for name in (*spec.outputs, *config.dataset.partition_by, *DATASET_COLUMNS)}
    names = {name: key_name(name, taken) for name in spec.key}
    return {name: in_table for name, in_table in names.items() if in_table != name}


def added_columns(artifact: Artifact, config: Config) -> list[str]:
    """Return the columns that the job adds: scores, reasons, ranks."""
    more = [*reason_columns(config.score.explain), *rank_columns(config.score)]
    return [*score_columns(artifact.network), *(name for name, _ in more)]


def _needed(artifact: Artifact, config: Config, source: Source, table: pa.Schema) -> Iterable[str]:
    """Check the table's columns; return those that the job reads."""
    settings, spec, where = config.score, artifact.encoding.spec, str(source)
    if settings.encoded:
        dataset.check_schema(spec, table, where)
    else:
        artifact.encoding.check(table, where)
    renamed = renamed_keys(spec, config)
    key, columns = ([renamed.get(name, name) for name in names] for names in (spec.key, output_columns(spec, config)))
    why = "The model's key, score.columns and score.partition_by name the columns that go into the output."
    check_columns(columns, table, where, why)
    check_key(key, table, where)
    for name in settings.partition_by:
        type_ = table.field(renamed.get(name, name)).type
        if kind_of(type_) is None:
            raise DataError(
                f"score.partition_by: column '{name}' of {where} is {type_}, but only "
                "texts, numbers, booleans and dates can name folders. Cast it in a view, or leave it out."
            )
    for name in carried_columns(spec, config):
        type_ = table.field(renamed.get(name, name)).type
        if accepted := unsupported(settings.format, type_):
            raise DataError(
                f"Column '{name}' of {where} is {type_}, which cannot be written: {settings.format} accepts "
                f"{accepted}. Cast it in a view, or remove it from score.columns."
            )
    return [*columns, *model_inputs(spec, settings.encoded)]


def _check_made_with(spec: Spec, source: Source) -> None:
    """Check that an encoded table is a dataset, or a fold of one, written with the model's own encoding."""
    for path in source.paths:
        folder = next((f for f in (Path(path), *Path(path).parents) if (f / DATASET_MARKER).exists()), None)
        made_with = json.loads((folder / DATASET_MARKER).read_text())["encoding_fingerprint"] if folder else None
        if made_with != spec.fingerprint:
            was = f"was written with the encoding {made_with[:12]}…" if made_with else f"has no {DATASET_MARKER}"
            raise DataError(
                f"score.encoded says that {path} contains ids of the model's encoding ({spec.fingerprint[:12]}…), but "
                f"it {was}. Name the dataset/ that the model was trained on, one of its folds, or one that "
                "nfm features made with the same encoding; or score the raw table."
            )
    if not source.paths:
        raise DataError("score.encoded needs the folder of a dataset in score.source.path, not the name of a table.")


def _check_names(columns: Sequence[str], added: Sequence[str], artifact: Artifact) -> None:
    """Check that no two columns of the output have the same name. Spark column names are case-insensitive."""
    taken: dict[str, str] = {}
    for name in added:
        if before := taken.get(name.lower()):
            raise ConfigError(
                f"score.model: the output would have the columns {before!r} and {name!r} for two classes of the model "
                f"in {artifact.path}, but Spark column names are case-insensitive. Rename one of the classes in the "
                "label column, or in a view, then run the feature job and the train job again"
            )
        taken[name.lower()] = name
    for name in columns:
        if before := taken.get(name.lower()):
            raise ConfigError(
                f"score.columns: the output has a column {before!r} already, and Spark column names are "
                f"case-insensitive; leave {name!r} out, or rename it in a view"
            )
        taken[name.lower()] = name


def _check_path(in_path: Iterable[str], columns: Iterable[str]) -> None:
    """Check that no column of a Delta table is both in its files and in score.output."""
    names = {name.lower() for name in columns}
    for name in in_path:
        if name.lower() in names:
            raise ConfigError(
                f"score.output: {name}=… makes {name!r} a partition column of the Delta table, but the output already "
                f"has a column of that name. Use another name in score.output, such as {name}_folder={{{name}}}, or "
                f"remove {name!r} from score.columns and score.partition_by"
            )
