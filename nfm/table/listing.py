"""List the files of a table, with the values in the names of their folders, such as country=DE."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from nfm.contract.errors import ConfigError, DataError
from nfm.table.parquet.casts import is_text
from nfm.table.parquet.files import Files, translate_file_errors
from nfm.table.relation import Relation, file_relation
from nfm.table.spark import column, to_arrow_schema
from nfm.table.splits import File, file_at
from nfm.table.store import is_in_store, read_file_states, uri_to_path

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

_SUMMARIES = ("_metadata", "_common_metadata")  # Spark lists these files, but reads no rows from them


def list_uris(source: "Source", raw: DataFrame) -> list[str]:
    """Return the URIs of a table's files, sorted; empty where Spark reports no files.

    Raises:
        ConfigError: Spark would read a file twice, because two paths of the source contain it.
        DataError: Spark would leave out a file, because it is not in a partition folder.
    """
    relation = file_relation(raw)
    if relation is None:
        return sorted(raw.inputFiles())
    location = relation.location()
    uris = sorted(uri for uri in location.inputFiles() if uri.rpartition("/")[2] not in _SUMMARIES)
    if (twice := _find_repeated(uris)) is not None:
        raise ConfigError(
            f"source.path: several paths or links contain {twice[0]}{f', also as {twice[1]}' if twice[1] else ''}, so "
            "Spark would read its rows more than once. Remove all but one of them."
        )
    partitions = list(relation.partitionSchema().fieldNames())
    for path in map(uri_to_path, uris if partitions else ()):
        if not _has_folders(path, partitions):
            raise _stray_file(path, partitions)
    return uris


def _find_repeated(uris: Sequence[str]) -> tuple[str, str | None] | None:
    """Return a file that occurs twice among sorted URIs, also by links, and the name of its hard link if it is one."""
    paths = sorted(uri if is_in_store(uri_to_path(uri)) else os.path.realpath(uri_to_path(uri)) for uri in uris)
    if (twice := next((path for path, following in pairwise(paths) if path == following), None)) is not None:
        return twice, None
    names: dict[tuple[int, int], str] = {}
    for path in paths:
        if not is_in_store(path):
            with suppress(OSError):  # a file that is missing by now is reported when it is read
                status = os.stat(path)  # noqa: PTH116 (faster, for thousands of files)
                # Some network mounts have no inode numbers; a file with one name is not linked.
                if status.st_nlink > 1 and status.st_ino:
                    name = names.setdefault((status.st_dev, status.st_ino), path)
                    if name != path:
                        return name, path
    return None


def _has_folders(path: str, partitions: Sequence[str]) -> bool:
    """Return whether a file is in folders such as country=DE for all partition columns."""
    folders = {folder.partition("=")[0] for folder in path.split("/")[:-1] if "=" in folder}
    names = {unquote(name, encoding="latin-1").lower() for name in folders}  # Spark escapes characters, not bytes
    return names.issuperset(name.lower() for name in partitions)


def _stray_file(path: str, partitions: Sequence[str]) -> DataError:
    folders = "/".join(f"{name}=…" for name in partitions)
    return DataError(
        f"{path} is not in a folder {folders} as the table's other files are, so Spark would leave out its rows. Move "
        "it into such a folder, or delete it."
    )


def list_files(
    spark: SparkSession, source: "Source", relation: Relation, uris: Iterable[str]
) -> tuple[Files, dict[str, File]]:
    """Return the reader of the files, and by URI the files whose folders satisfy `where`."""
    types = to_arrow_schema(relation.raw)
    case_sensitive = str(spark.conf.get("spark.sql.caseSensitive")).lower() == "true"
    merges = any(option.lower() == "mergeschema" for option in source.options)
    first = None if merges or source.table or not relation.uris else uri_to_path(relation.uris[0])
    if not relation.partitions and source.where is None:  # most tables need no query
        no_partitions = pa.RecordBatch.from_arrays([], names=[])
        files = Files(str(source), types, no_partitions, case_sensitive, first)
        return files, stat_files(str(source), dict.fromkeys(sorted(uris), 0))
    partitions, row_of_folder = _read_partitions(relation, types)
    kept = set(range(len(partitions)) if source.where is None else _filter_partitions(spark, partitions, source.where))
    folders = {uri: uri_to_path(uri.rpartition("/")[0]) for uri in sorted(uris)}
    stray = next((uri for uri, folder in folders.items() if folder not in row_of_folder), None)
    if stray is not None:
        raise _stray_file(uri_to_path(stray), relation.partitions)
    rows = {uri: row_of_folder[folder] for uri, folder in folders.items()}
    files = Files(str(source), types, partitions, case_sensitive, first)
    return files, stat_files(str(source), {uri: row for uri, row in rows.items() if row in kept})


def _read_partitions(relation: Relation, types: pa.Schema) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Return the values in the folders' names as Spark converts them, and the row of each folder among them."""
    spec = relation.location.partitionSpec()
    columns: list[list[Any]] = [[] for _ in relation.partitions]
    spark_types = [field.dataType() for field in spec.partitionColumns().fields()]
    row_of_folder: dict[str, int] = {}
    partitions = spec.partitions().iterator()
    while partitions.hasNext():
        partition = partitions.next()
        row_of_folder[uri_to_path(partition.path().toUri().toString())] = len(row_of_folder)
        values = partition.values()
        for i, column_values in enumerate(columns):
            column_values.append(values.get(i, spark_types[i]))
    fields = [types.field(name) for name in relation.partitions]
    arrays = [_to_array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(relation.partitions)), row_of_folder


def _to_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Convert Spark's internal values, in which a date is a number of days, and a text a Java object."""
    if is_text(type_):
        return pa.array([None if value is None else value.toString() for value in values], type_)
    if pa.types.is_decimal(type_):
        return pa.array([None if value is None else Decimal(value.toString()) for value in values], type_)
    if pa.types.is_temporal(type_):
        return pa.array(values, pa.int32() if type_.bit_width == 32 else pa.int64()).cast(type_)
    return pa.array(values, type_)


def _filter_partitions(spark: SparkSession, partitions: pa.RecordBatch, where: str) -> list[int]:
    """Return the rows of the partitions that satisfy a condition."""
    number = "_".join(["row", *partitions.schema.names])  # longer than each of these names
    numbered = pa.Table.from_batches([partitions]).append_column(number, pa.array(range(len(partitions))))
    kept = spark.createDataFrame(numbered).where(where).select(column(number))
    return [row[0] for row in kept.collect()]


def stat_files(where: str, partitions: Mapping[str, int]) -> dict[str, File]:
    """Return the files with size and time of change, from their URIs or paths and their rows in the partitions.

    `where`: description of the table, for messages.
    """
    remote = [uri for uri in partitions if is_in_store(uri_to_path(uri))]
    if not remote:
        return {uri: file_at(uri_to_path(uri), partition) for uri, partition in partitions.items()}
    with translate_file_errors(where, remote[0]):
        states = read_file_states(remote)
    return {uri: File(uri, size, partitions[uri], changed) for uri, (size, changed) in zip(remote, states, strict=True)}


def stat_by_spark(spark: SparkSession, uris: Iterable[str]) -> list[File]:
    """Return the files with size and time of change; Spark reads those of files that are not on disks."""
    context: Any = spark.sparkContext
    files = []
    for uri in sorted(uris):
        if is_in_store(uri_to_path(uri)):
            path = context._jvm.org.apache.hadoop.fs.Path(context._jvm.java.net.URI(uri))  # decodes %20
            status = path.getFileSystem(context._jsc.hadoopConfiguration()).getFileStatus(path)
            files.append(File(uri, int(status.getLen()), 0, int(status.getModificationTime())))
        else:
            files.append(file_at(uri_to_path(uri)))
    return files


def find_changed(spark: SparkSession, files: Iterable[File], by_spark: bool) -> str | None:
    """Return a file whose size or time of change is another one now; None if there is none.

    A deleted file is not reported: tasks cannot have read anything else in its place. `by_spark`: `stat_by_spark`
    returned the files.
    """
    opened = {file.path: file for file in files if is_in_store(file.path) or Path(file.path).exists()}
    if by_spark:
        now: Iterable[File] = stat_by_spark(spark, opened)
    else:
        now = stat_files("The table", {file.path: file.partition for file in opened.values()}).values()
    return next((file.path for file in now if file != opened[file.path]), None)
