"""Find files that cannot be read before the work starts, and leave them out with `on_corrupt: skip`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession

from nfm.contract.errors import ConfigError, DataError
from nfm.table.listing import list_uris
from nfm.table.parquet.files import Files
from nfm.table.relation import Relation
from nfm.table.spark import column, load
from nfm.table.splits import File, Split, file_at, make_splits
from nfm.table.store import uri_to_path
from nfm.table.tasks import run_tasks

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

_UNREADABLE = pa.schema([("path", pa.string()), ("reason", pa.string())])
# Spark reports these as FAILED_READ_FILE too, but the file is not damaged: it is never skipped.
_NOT_CORRUPT = (
    "FAILED_READ_FILE.FILE_NOT_EXIST",
    "FileNotFoundException",
    "Permission denied",
    "OutOfMemoryError",
    "COLUMN_DATA_TYPE_MISMATCH",
)


def load_readable(spark: SparkSession, source: "Source") -> tuple[DataFrame, dict[str, str]]:
    """Return the raw table, and the files left out because Spark cannot infer columns from them: URI → reason."""
    try:
        return load(spark, source), {}
    except (PySparkException, Py4JJavaError) as error:
        if source.on_corrupt != "skip" or source.table is not None or not _is_corrupt(error):
            raise
    uris = list_uris(source, load(spark, source, "unknown string"))  # with a schema, Spark opens no file
    # The names of files are not patterns, and Spark has already applied the options that select files.
    reader = spark.read.format(source.format).options(**source.options).option("__globPaths__", "false")
    corrupt = [uri for uri in uris if _meets_corrupt(lambda uri=uri: reader.load(unquote(uri)))]  # type: ignore[misc]
    readable = [unquote(uri) for uri in uris if uri not in corrupt]
    check_any_readable(source, uris, corrupt)
    return load(spark, source, reader.load(readable).schema), dict.fromkeys(corrupt, "its columns cannot be read")


def find_empty_files(source: "Source", relation: Relation | None) -> dict[str, str]:
    """Return the Parquet files of 0 bytes, which Spark would skip silently; with `on_corrupt: refuse`, raise DataError.

    The result maps URIs to reasons. Files in a store are not checked.
    """
    if relation is None or not all(uri.startswith("file:") for uri in relation.uris):
        return {}
    empty = [uri for uri in relation.uris if not file_at(uri_to_path(uri)).size]
    if empty and source.on_corrupt == "refuse":
        raise DataError(
            f"{source} has a file that cannot be read: {uri_to_path(empty[0])} (an empty file is not Parquet). Repair "
            "or delete it, or set source.on_corrupt: skip (or score.source.on_corrupt) to leave such files out. Then "
            "run the job again."
        )
    return dict.fromkeys(empty, "it is empty")


def find_unreadable_by_spark(
    source: "Source", raw: DataFrame, names: Iterable[str], uris: Sequence[str]
) -> dict[str, str]:
    """Return the files of which Spark cannot read these columns: URI → reason. Found by bisection."""
    if not uris:
        return {}
    rows = raw.where(file_path_column(source, raw).isin([to_metadata_path(uri) for uri in uris]))
    rows = rows if source.where is None else rows.where(source.where)
    needed = rows.select(*(column(name) for name in names))
    if not _meets_corrupt(lambda: needed.write.format("noop").mode("overwrite").save()):
        return {}
    if len(uris) == 1:
        return {uris[0]: "Spark cannot read it"}
    halves = uris[: len(uris) // 2], uris[len(uris) // 2 :]
    return {uri: why for half in halves for uri, why in find_unreadable_by_spark(source, raw, names, half).items()}


def split_files(
    spark: SparkSession, files: Files, listed: Mapping[str, File], split_bytes: int | None, searches: bool
) -> tuple[tuple[Split, ...], dict[str, str]]:
    """Return the splits of the files, and if it `searches` the files that cannot be read: URI → reason."""
    session: Any = spark  # only the JVM converts a size such as 64m to a number
    max_bytes = split_bytes or int(session._jsparkSession.sessionState().conf().filesMaxPartitionBytes())
    cores = spark.sparkContext.defaultParallelism
    splits = make_splits(list(listed.values()), cores, max_bytes)
    unreadable = _find_unreadable_in_tasks(spark, files, splits, listed) if searches else {}
    if unreadable:
        splits = make_splits([file for uri, file in listed.items() if uri not in unreadable], cores, max_bytes)
    return splits, unreadable


def _find_unreadable_in_tasks(
    spark: SparkSession, files: Files, splits: Sequence[Split], listed: Mapping[str, File]
) -> dict[str, str]:
    """Return the Parquet files of which tasks cannot read a column: URI → reason. `listed`: all files, by their URI."""

    def check(split: Split) -> Iterator[pa.RecordBatch]:
        unreadable = [{"path": path, "reason": reason} for path, reason in files.find_unreadable(split)]
        yield pa.RecordBatch.from_pylist(unreadable, _UNREADABLE)

    reasons = {row.path: row.reason for row in run_tasks(spark, splits, check, _UNREADABLE).collect()}
    return {uri: reasons[file.path] for uri, file in listed.items() if file.path in reasons}


def exclude_files(source: "Source", raw: DataFrame, uris: Iterable[str]) -> DataFrame:
    """Return the table without the rows of these files; Spark does not open them."""
    paths = [to_metadata_path(uri) for uri in uris]
    return raw.where(~file_path_column(source, raw).isin(paths)) if paths else raw


def file_path_column(source: "Source", raw: DataFrame) -> Column:
    """Return the hidden column that contains the file of each row; ConfigError if the table has no such column."""
    try:
        hidden = raw.metadataColumn("_metadata")["file_path"]
        raw.select(hidden).schema  # noqa: B018 (checks that the column exists)
    except AnalysisException as error:
        raise ConfigError(
            f"source.on_corrupt: 'skip' given, but {source} is not file-based, so no files can be skipped. Set "
            "source.on_corrupt: refuse."
        ) from error
    return hidden


def check_any_readable(source: "Source", uris: Iterable[str], corrupt: Iterable[str]) -> None:
    """Raise a DataError if there are files and none of them can be read."""
    files = set(uris)
    if files and files <= set(corrupt):
        raise DataError(
            f"None of the {len(files)} files of {source} can be read, for example {uri_to_path(min(files))}. Repair "
            "them, or correct source.path or source.format."
        )


def to_metadata_path(uri: str) -> str:
    """Return a file's URI as in the hidden column."""
    return uri.replace("file:///", "file:/", 1)


def _meets_corrupt(action: Callable[[], Any]) -> bool:
    """Return whether the action fails because of a corrupt file. Any other failure is raised."""
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
