"""Group the text files of a table by their columns, after tasks have read their bytes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from nfm.contract.errors import DataError
from nfm.kernels.quotes import ENDS_ONLY, QUOTED
from nfm.table.listing import stat_files
from nfm.table.spark import load
from nfm.table.splits import File, Piece, Split, make_splits
from nfm.table.store import find_access_problem, uri_to_path
from nfm.table.tasks import run_tasks
from nfm.table.text.files import (
    FACTS,
    Facts,
    check_facts,
    examine,
    from_row,
    has_long_rows,
    has_plain_bytes,
    is_read_whole,
    line_ends,
    to_row,
)
from nfm.table.text.json_keys import infer_objects
from nfm.table.text.options import BAD_ROW, checked_encoding, dialect_of, layout_of

if TYPE_CHECKING:
    from nfm.config.source import Source


Options = tuple[tuple[str, str], ...]
_PATTERN = set("*?[]{}\\")  # special characters in Hadoop's patterns of names


class Group(NamedTuple):
    """Files with the same header, byte for byte: where Spark infers types, it reads any other header as a row."""

    columns: tuple[str, ...]
    options: Mapping[str, str]  # of these files: multiline if line breaks may be inside quotes, and linesep
    uris: tuple[str, ...]
    types: Mapping[str, str] = MappingProxyType(
        {}
    )  # of JSON and XML, whose columns Spark infers together with the types


def select_files(spark: SparkSession, source: "Source", files: Sequence[str], folders: Iterable[str]) -> list[str]:
    """Return the files in folders that can satisfy `where`, as Spark plans to read them."""
    if source.where is None or not any(folders) or source.format != "csv":
        return list(files)
    try:
        table = load(spark, source.model_copy(update={"options": {**source.options, "inferschema": "false"}}))
        plan: Any = table.where(source.where)
        scan = _find_scan(plan._jdf.queryExecution().sparkPlan())
    except AnalysisException:  # the first file lacks a column of `where`; reported later
        return list(files)
    if scan is None:  # Spark has seen that no row can satisfy the condition
        return []
    found = scan.relation().location().listFiles(scan.partitionFilters(), scan.dataFilters())
    kept = set()
    for i in range(found.size()):
        statuses = found.apply(i).files()
        kept |= {str(statuses.apply(j).getPath().toUri().toString()) for j in range(statuses.size())}
    return [uri for uri in files if uri in kept]


def _find_scan(plan: Any) -> Any:
    """Return the node of a physical plan that reads files; None if there is none."""
    if plan.getClass().getSimpleName() == "FileSourceScanExec":
        return plan
    children = (plan.children().apply(i) for i in range(plan.children().size()))
    return next((scan for scan in map(_find_scan, children) if scan is not None), None)


def group_files(spark: SparkSession, source: "Source", uris: Sequence[str]) -> tuple[list[Group], dict[str, str]]:
    """Read every byte of the files in tasks, and return the groups, and the files that cannot be read: URI → reason.

    Raises DataError for text that is not valid, and unless `on_corrupt` is skip, for a file that cannot be read.
    """
    if find_access_problem([uri for uri in uris if not uri.startswith("file:")]) is not None:
        return [_unexamined_group(spark, source, uris)], {}
    files = stat_files(str(source), dict.fromkeys(uris, 0))
    facts = _examine_files(spark, source, [file for file in files.values() if file.size])
    skipped, by_form = dict[str, str](), defaultdict[tuple[bytes | str, Options], list[str]](list)
    for uri, file in files.items():
        pieces = facts.get(file.path)
        if pieces is None:
            if source.format == "csv":
                skipped[uri] = "it is empty, not even a header"
            continue
        if unreadable := next((piece.unreadable for piece in pieces if piece.unreadable), None):
            skipped[uri] = unreadable
            continue
        header = pieces[0].header if source.options.get("header") == "true" else b""
        by_form[uri if header is None else header, _find_options(source, pieces)].append(uri)
    if skipped and source.on_corrupt == "refuse":
        uri, reason = next(iter(skipped.items()))
        raise DataError(
            f"{source} has a file that cannot be read: {uri_to_path(uri)} ({reason}). Repair or delete it, or set "
            "source.on_corrupt: skip (or score.source.on_corrupt) to leave such files out. Then run the job again."
        )
    if source.format != "csv":
        uris = [uri for some in by_form.values() for uri in some]
        types = _infer_types(spark, source, [files[uri] for uri in uris], uris)
        if not types and source.format == "json":
            raise DataError(
                f"{source} has no line that is an object of JSON. If a file is one array, or one object on several "
                "lines, set source.options.multiLine: true; else repair it. Then run the job again."
            )
        return [Group(tuple(types), {}, tuple(uris), types)], skipped
    return _read_columns(spark, source, by_form), skipped


def _infer_types(spark: SparkSession, source: "Source", files: Sequence[File], uris: Sequence[str]) -> dict[str, str]:
    """Return the columns of files that are not CSV, with the types that Spark infers, in its SQL."""

    def infer() -> StructType:
        return load_files(spark, source, uris, {}, infers=True).schema

    objects = infer_objects(spark, source, files, infer) if source.format == "json" else infer()
    return {field.name: field.dataType.simpleString() for field in objects}


def _find_options(source: "Source", pieces: Sequence[Facts]) -> Options:
    """Return the options for a CSV file whose bytes have been read, sorted."""
    is_followed = pieces[0].header is not None and dialect_of(source.options) is not None
    is_plain = is_followed and has_plain_bytes(source.options.get("encoding", "utf-8"))
    default = "false" if is_plain and not has_long_rows(pieces) else "true"
    multi_line, ends = source.options.get("multiline", default), line_ends(pieces)
    # Otherwise Spark takes the first line break, which may be inside quotes, for the end of all lines.
    return (*((("linesep", ends[0]),) if multi_line == "true" and ends else ()), ("multiline", multi_line))


def _unexamined_group(spark: SparkSession, source: "Source", uris: Sequence[str]) -> Group:
    """Return the group of files that only Spark can read. Spark then checks that they have the same header."""
    if source.format != "csv":
        types = _infer_types(spark, source, [], uris)
        return Group(tuple(types), {}, tuple(uris), types)
    columns = tuple(field.name for field in load(spark, source).schema)
    return Group(columns, {"multiline": "true", "enforceschema": "false", **source.options}, tuple(uris))


def _examine_files(spark: SparkSession, source: "Source", files: Sequence[File]) -> dict[str, list[Facts]]:
    """Return what the bytes of each file show, by path, its pieces in order."""
    if not files:
        return {}
    options, dialect = source.options, dialect_of(source.options) if source.format == "csv" else None
    multi_line = options.get("multiline") == "true"
    if source.format == "csv" and dialect is None and "linesep" not in options:  # only the lines' ends are known
        dialect, multi_line = ENDS_ONLY, options.get("multiline") != "false"
    encoding, layout = checked_encoding(source.options), layout_of(source)
    session: Any = spark
    size = int(session._jsparkSession.sessionState().conf().filesMaxPartitionBytes())
    splits = make_splits(files, spark.sparkContext.defaultParallelism, size)

    def work(split: Split) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([to_row(examine(piece, dialect, encoding, layout)) for piece in split], FACTS)

    found = defaultdict(list)
    for row in run_tasks(spark, splits, work, FACTS).collect():
        found[row.path].append(from_row(row.asDict()))
    # A piece that begins inside quotes was read as if it did not. Such a file is read again, as one piece.
    again = []
    for file in files:
        found[file.path].sort(key=lambda piece: piece.start)
        if is_read_whole(file, encoding, layout):
            del found[file.path][1:]  # the first piece was the whole file
        if any(piece.quotes.state == QUOTED for piece in found[file.path][:-1]):
            again.append(file)
    if again:
        whole = [(Piece(file, 0, file.size),) for file in again]
        found |= {row.path: [from_row(row.asDict())] for row in run_tasks(spark, whole, work, FACTS).collect()}
    for pieces in found.values():
        check_facts(pieces, multi_line)
    return dict(found)


def _read_columns(
    spark: SparkSession, source: "Source", by_form: Mapping[tuple[bytes | str, Options], list[str]]
) -> list[Group]:
    """Return the groups; Spark reads the columns of CSV from one file of each header."""
    groups, spellings = [], dict[str, str]()
    for (_, options), uris in by_form.items():
        names = load_files(spark, source, uris[:1], dict(options), infers=False).columns
        # Spark's names of columns are case-insensitive.
        ignores_case = spark.conf.get("spark.sql.caseSensitive") != "true"
        names = [spellings.setdefault(name.lower() if ignores_case else name, name) for name in names]
        groups.append(Group(tuple(names), dict(options), tuple(uris)))
    return groups


def load_files(
    spark: SparkSession, source: "Source", uris: Sequence[str], options: Mapping[str, str], infers: bool
) -> DataFrame:
    """Load these files of a table, without the columns of its folders, in types that Spark infers, or as text."""
    given = {**source.options, **options, "__globPaths__": False, "columnnameofcorruptrecord": BAD_ROW}
    if source.format == "csv":
        given["inferschema"] = infers
    if given.get("multiline", "true" if source.format == "xml" else "false") == "true":
        _refuse_patterns(uris)
    table = spark.read.format(source.format).options(**given).load([unquote(uri) for uri in uris])
    return table.drop(BAD_ROW)


def _refuse_patterns(uris: Iterable[str]) -> None:
    """Raise DataError for a name that Spark takes for a pattern, and would read the header of another file.

    It does so only where it infers columns from rows that may have several lines.
    """
    for path in map(uri_to_path, uris):
        if _PATTERN & set(path):
            raise DataError(
                f"{path} may have rows of several lines, and one of the characters {' '.join(sorted(_PATTERN))} in its "
                "name, which Spark would take for a pattern of names. Rename it, or its folder. Then run the job again."
            )
