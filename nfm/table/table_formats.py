"""Refuse tables of table formats (Delta, Iceberg, Hudi) and outputs of streams that would be read as plain files."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from nfm.contract.errors import DataError
from nfm.contract.publishing.table_formats import (
    FORMATS,
    STREAM,
    FoundTable,
    ancestors,
    find_table,
    is_ignored,
    look,
    look_on_disk,
)
from nfm.table.relation import analyzed_plan, class_name
from nfm.table.store import is_in_store, uri_to_path

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

_PATTERN = set("*?[{")
_LISTED = ("InMemoryFileIndex", "CatalogFileIndex")  # Spark lists the files; other classes read a log
_FILE_TABLES = ("ParquetTable", "OrcTable", "CSVTable", "JsonTable", "TextTable", "AvroTable")  # in Spark's other plan
_IGNORE_STREAMS = "spark.sql.streaming.fileStreamSink.metadata.ignored"
_NO_TABLE = ("UNABLE_TO_INFER_SCHEMA", "CONFLICTING_DIRECTORY_STRUCTURES")  # a folder of tables gives these errors
_MOST_INSIDE = 1000  # folders in a folder that are looked at
_MOST_IN_STORE = 50  # folders in a store that are looked at, those nearest to its root first
_THREADS = 8  # wait for the store


@contextmanager
def refusing_paths(spark: SparkSession, source: "Source") -> Iterator[None]:
    """Raise DataError if a path is in a table of a table format, or if the block cannot read a folder of such tables.

    The block opens the files: its error would not say that they belong to a table.
    """
    paths = [] if _reads_log(source) else [_fixed_part(path) for path in source.paths]
    _refuse(source, _find(spark, paths, FORMATS))
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if any(condition in str(error) for condition in _NO_TABLE):
            inside = (folder for path in paths if not is_in_store(path) for folder in _walk(path))
            _refuse(source, _find(spark, list(islice(inside, _MOST_INSIDE)), FORMATS))
        raise


def _walk(path: str) -> Iterator[str]:
    for folder, inside, _ in os.walk(path):
        inside[:] = [name for name in inside if not is_ignored(name)]
        yield folder


def refuse_files(spark: SparkSession, source: "Source", raw: DataFrame, uris: Sequence[str]) -> None:
    """Raise DataError if Spark reads files of a table format as plain files; `uris` are all files that it reads."""
    if _reads_log(source):
        return
    plan: Any = analyzed_plan(raw)
    leaves = plan.collectLeaves()
    indexes = [_find_index(leaves.apply(i)) for i in range(leaves.size())]
    if None in indexes:  # a view of several tables, or a stream's log
        uris = [uri for index in indexes if index is not None for uri in index.inputFiles()]
    # Spark reads the log of a stream if it reads its whole folder, and only then.
    ignores_streams = str(spark.conf.get(_IGNORE_STREAMS, "false")).lower() == "true"
    folders = [_to_path(folder) for folder in {uri.rpartition("/")[0] for uri in uris}]
    _refuse(source, _find(spark, folders, FORMATS if ignores_streams else (*FORMATS, STREAM)))


def _reads_log(source: "Source") -> bool:
    return source.table is None and any(name in source.format.lower() for name in FORMATS)


def _refuse(source: "Source", found: FoundTable | None) -> None:
    if found is not None:
        raise DataError(
            f"{source} is read as {'plain' if source.table else source.format} files, but they belong to {found}: "
            "files that are not part of it now, such as those of older versions, would be read, too. "
            f"{'Leave out source.table. ' if source.table else ''}{found.how_to_read}"
        )


def _fixed_part(path: str) -> str:
    """Return the folder of a path as far as it is not a pattern."""
    while _PATTERN & set(path):
        path = path.rpartition("/")[0]
    if is_in_store(path) and not path.startswith("file:"):
        return path.rstrip("/")
    return os.path.abspath(_to_path(path))  # noqa: PTH100 (keeps symbolic links, but no ..)


def _to_path(uri: str) -> str:
    return unquote(uri) if is_in_store(uri) and not uri.startswith("file:") else uri_to_path(uri)


def _find_index(leaf: Any) -> Any | None:
    """Return the index of files of a relation in Spark's plan, if Spark lists the files itself; else None."""
    index = None
    if class_name(leaf) == "LogicalRelation" and class_name(leaf.relation()) == "HadoopFsRelation":
        index = leaf.relation().location()
    elif class_name(leaf) == "DataSourceV2Relation" and class_name(leaf.table()) in _FILE_TABLES:
        index = leaf.table().fileIndex()
    return index if index is not None and class_name(index) in _LISTED else None


def _find(spark: SparkSession, folders: Sequence[str], formats: Sequence[str]) -> FoundTable | None:
    remote = [folder for folder in folders if is_in_store(folder)]
    local = {folder for folder in folders if not is_in_store(folder)}
    local |= {os.path.realpath(folder) for folder in local}
    found = find_table(local, look_on_disk, formats)
    if found or not remote:
        return found
    above = {folder for start in remote for folder, _ in ancestors(start)}
    nearest = sorted(above, key=lambda folder: (folder.count("/"), folder))[:_MOST_IN_STORE]
    with ThreadPoolExecutor(_THREADS) as pool:
        found_in = dict(zip(nearest, pool.map(_look_in_store(spark), nearest), strict=True))
    return find_table(remote, found_in.get, formats)


def _look_in_store(spark: SparkSession) -> Callable[[str], str | None]:
    context: Any = spark.sparkContext
    new_path, hadoop = context._jvm.org.apache.hadoop.fs.Path, context._jsc.hadoopConfiguration()

    def exists(path: str) -> bool:
        try:
            return bool(new_path(path).getFileSystem(hadoop).exists(new_path(path)))
        except Py4JJavaError:  # not allowed, for example above the table
            return False

    def list_names(path: str) -> list[str]:
        try:
            return [str(f.getPath().getName()) for f in new_path(path).getFileSystem(hadoop).listStatus(new_path(path))]
        except Py4JJavaError:
            return []

    return lambda folder: look(folder, exists, list_names)
