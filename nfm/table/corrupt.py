"""Find files that cannot be read before the work begins, and leave them out if the settings say so."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession

from nfm.contract.errors import ConfigError, DataError
from nfm.table.relation import Relation, path_of
from nfm.table.spark import column, load
from nfm.table.splits import file_at

if TYPE_CHECKING:  # workers import what imports this, and need no settings
    from nfm.config.settings import Source

# Spark reports these as FAILED_READ_FILE, too. The file is not damaged then, and never skipped.
_NOT_CORRUPT = ("FAILED_READ_FILE.FILE_NOT_EXIST", "FileNotFoundException", "Permission denied", "OutOfMemoryError")


def load_readable(spark: SparkSession, source: "Source") -> tuple[DataFrame, dict[str, str]]:
    """Return the raw table, and the files left out, by URI with the reason, if Spark cannot infer columns from all."""
    try:
        return load(spark, source), {}
    except (PySparkException, Py4JJavaError) as error:
        if source.on_corrupt != "skip" or source.table is not None or not _is_corrupt(error):
            raise
    uris = sorted(load(spark, source, "unknown string").inputFiles())  # with a schema given, no file is opened
    # The names of files are not patterns, and options that select files have been applied.
    reader = spark.read.format(source.format).options(**source.options).option("__globPaths__", "false")
    broken = [uri for uri in uris if _fails(lambda uri=uri: reader.load(unquote(uri)))]  # type: ignore[misc]
    good = [unquote(uri) for uri in uris if uri not in broken]
    check_any(source, uris, broken)
    return load(spark, source, reader.load(good).schema), dict.fromkeys(broken, "its columns cannot be read")


def empty_files(source: "Source", relation: Relation | None) -> dict[str, str]:
    """Return Parquet files of 0 bytes, which Spark would skip silently; with `on_corrupt: refuse` raise a DataError."""
    if relation is None or not all(uri.startswith("file:") for uri in relation.uris):  # Spark reads a store's files
        return {}
    empty = [uri for uri in relation.uris if not file_at(path_of(uri)).size]
    if empty and source.on_corrupt == "refuse":
        raise DataError(
            f"{source} has a file that cannot be read: {path_of(empty[0])} (it is empty, and that is not Parquet). "
            "Repair or delete it, or leave such files out with on_corrupt: skip beside its path, and run the job again."
        )
    return dict.fromkeys(empty, "it is empty")


def unreadable_by_spark(source: "Source", raw: DataFrame, names: Iterable[str], uris: Sequence[str]) -> dict[str, str]:
    """Return the files of which Spark cannot read these columns. Halves of the files are read until each is found."""
    if not uris:
        return {}
    chosen = raw.where(file_path(source, raw).isin([_as_in_metadata(uri) for uri in uris]))
    chosen = chosen if source.where is None else chosen.where(source.where)
    needed = chosen.select(*(column(name) for name in names))
    if not _fails(lambda: needed.write.format("noop").mode("overwrite").save()):
        return {}
    if len(uris) == 1:
        return {uris[0]: "Spark cannot read it"}
    halves = uris[: len(uris) // 2], uris[len(uris) // 2 :]
    return {uri: why for half in halves for uri, why in unreadable_by_spark(source, raw, names, half).items()}


def without(source: "Source", raw: DataFrame, broken: Iterable[str]) -> DataFrame:
    """Return the table without the rows of these files. Spark does not open them then."""
    paths = [_as_in_metadata(uri) for uri in broken]
    return raw.where(~file_path(source, raw).isin(paths)) if paths else raw


def file_path(source: "Source", raw: DataFrame) -> Column:
    """Return the hidden column with the file of each row; raise a ConfigError if the table has none."""
    try:
        hidden = raw.metadataColumn("_metadata")["file_path"]
        raw.select(hidden).schema  # noqa: B018 (asks Spark whether there is such a column)
    except AnalysisException as error:
        raise ConfigError(
            f"source.on_corrupt: 'skip' given, but {source} does not consist of files that could be left out. Set "
            "refuse."
        ) from error
    return hidden


def check_any(source: "Source", considered: Iterable[str], broken: Iterable[str]) -> None:
    """Raise a DataError if none of the files can be read."""
    files, gone = set(considered), set(broken)
    if files and files <= gone:
        raise DataError(
            f"None of the {len(files)} files of {source} can be read, for example {path_of(min(files))}. Repair them, "
            "or correct source.path or source.format."
        )


def _as_in_metadata(uri: str) -> str:
    return uri.replace("file:///", "file:/", 1)


def _fails(action: Callable[[], Any]) -> bool:
    """Return whether Spark finds a file that it cannot read. Any other failure is raised."""
    try:
        action()
    except (PySparkException, Py4JJavaError) as error:
        if not _is_corrupt(error):
            raise
        return True
    return False


def _is_corrupt(error: Exception) -> bool:
    text = str(error)
    return "FAILED_READ_FILE" in text and not any(reason in text for reason in _NOT_CORRUPT)
