"""Open a table of text files (CSV, JSON, XML) so that each row has its values in the right columns, or is refused.

Spark parses the files. Before it does, tasks read their bytes (`files`). Each file is read by its own header, and
rows that do not fit the number and the types of the columns are counted.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nfm.contract.errors import ConfigError, DataError
from nfm.contract.messages import listed, quoted
from nfm.contract.reading import Reading
from nfm.table.corrupt import check_any_readable
from nfm.table.listing import list_uris, stat_by_spark
from nfm.table.spark import load, to_arrow_schema
from nfm.table.splits import File
from nfm.table.store import uri_to_path
from nfm.table.table_formats import refuse_files
from nfm.table.text.convert import GroupedDouble, Numeral, Rounded, parse_types, text_type
from nfm.table.text.groups import Group, group_files, select_files
from nfm.table.text.json_nested import refuse_nested
from nfm.table.text.options import resolve_options, value_options
from nfm.table.text.rows import Raw, check_rows, find_doubtful, infer_types, read_groups, refuse_bad_rows

if TYPE_CHECKING:
    from nfm.config.source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextTable:
    """A table of text files whose rows have been checked."""

    table: DataFrame  # without `where`
    files: tuple[File, ...]  # that are read, as they were before
    skipped: Mapping[str, str]  # files that cannot be read: URI → reason
    bad_rows: int  # rows that are left out
    has_long_rows: bool  # line breaks are inside quotes, so that each file is read in one task
    reading: Reading


def open_text_table(
    spark: SparkSession, source: "Source", needed: Callable[[pa.Schema], Iterable[str]], reading: Reading | None
) -> TextTable:
    """Find the files, their columns and types, and check every byte and every row.

    Args:
        spark: The session.
        source: The table.
        needed: Returns the columns that will be read, given the table's schema. May raise DataError.
        reading: Options and types of the training, see `resolve_options`. Types that are not given are inferred.

    Raises:
        DataError: a file lacks a column, is not valid text or cannot be read, or rows cannot be parsed.
        ConfigError: an option or a type is not possible.
    """
    source = source.model_copy(update={"options": resolve_options(spark, source, reading)})
    if "encoding" in source.options:
        spark.conf.set("spark.sql.legacy.javaCharsets", "true")  # Spark 4 does not accept windows-1252 without
    listing = load(spark, source, "unknown string")  # with a schema, Spark opens no file
    known = {**(reading.types if reading is not None else {}), **source.types}
    # Columns whose values are in the folders' names.
    folders = {field.name: known.get(field.name, field.dataType.simpleString()) for field in listing.schema.fields[1:]}
    refuse_files(spark, source, listing, listing.inputFiles())
    files = list_uris(source, listing) or list_uris(source, load(spark, source))  # explains why there are none
    selected = select_files(spark, source, files, folders)
    before = stat_by_spark(spark, selected)
    groups, skipped = group_files(spark, source, selected or files[:1])
    check_any_readable(source, selected, skipped)
    names = list(dict.fromkeys(name for group in groups for name in group.columns))
    _check_folders(groups, folders)
    _check_types(spark, source, [*folders, *names])
    infers = source.options.get("inferschema") == "true" or source.format != "csv"
    used = _find_used(source, groups, needed, names, folders)
    inferred = infer_types(spark, source, groups, reading) if infers and not {*used} <= {*known, *folders} else {}
    # Spark finds the values of JSON by their names, so the schema needs no other columns.
    read = names if source.format == "csv" else [name for name in used if name not in folders]
    types = parse_types({name: known.get(name) or inferred.get(name, "string") for name in read})
    types, strict = _apply_training(source, reading or Reading(), types)
    doubtful = find_doubtful(source, {name: inferred[name] for name in used if name in inferred and name not in known})
    # A model of an older version was trained with Spark's conversions.
    raw = Raw(source, groups, types, parse_types(folders), strict, is_exact=reading is not None)
    checked = check_rows(spark, raw, used, doubtful)
    refuse_bad_rows(source, checked)
    refuse_nested(spark, source, before, checked.nested)
    why = _describe_texts(source, checked.texts) if checked.texts else ""
    if why:
        types = {name: text_type(type_) if name in checked.texts else type_ for name, type_ in types.items()}
        log.info("%s", why)
    table = read_groups(spark, raw._replace(types=types), used if checked.bad else ())
    # Scoring may need other columns; it infers their types, as this run has not checked them against the texts.
    read_as = {name: types[name].simpleString() for name in types if name in used or name in known}
    _check_again(needed, table, why)
    return TextTable(
        table,
        tuple(file for file in before if file.path not in set(map(uri_to_path, skipped))),
        skipped,
        checked.bad,
        source.format == "csv" and any(group.options["multiline"] == "true" for group in groups),
        Reading(source.format, value_options(source.options), folders | read_as),
    )


def _apply_training(
    source: "Source", reading: Reading, types: Mapping[str, T.DataType]
) -> tuple[dict[str, T.DataType], Mapping[str, str]]:
    """Return types that accept all texts that the encoder reads alike, and the columns with patterns of bad texts."""
    learned = [name for name in reading.types if name in types and name not in source.types]
    found = dict(types)
    for name in learned:
        if name in reading.grouped:
            found[name] = Numeral() if isinstance(types[name], T.StringType) else GroupedDouble()
        elif name in reading.rounded:
            found[name] = Rounded()
    return found, find_doubtful(source, {name: reading.types[name] for name in learned if name in reading.kept})


def _check_again(needed: Callable[[pa.Schema], Iterable[str]], table: DataFrame, why: str) -> None:
    """Call `needed` with the types, which are known now; `why` ends the message of its error."""
    try:
        needed(to_arrow_schema(table))
    except DataError as error:
        raise DataError(f"{error} {why}." if why else str(error)) from error


def _describe_texts(source: "Source", texts: Mapping[str, str]) -> str:
    """Explain why columns are read as text; `texts`: values that their inferred types would change."""
    return (
        f"{listed(texts)} of {source}: read as text, because the inferred type would change values such as "
        f"{listed(map(quoted, texts.values()))} (source.types sets another type)"
    )


def _find_used(
    source: "Source",
    groups: Iterable[Group],
    needed: Callable[[pa.Schema], Iterable[str]],
    names: Iterable[str],
    folders: Iterable[str],
) -> list[str]:
    """Return the columns that will be read, also for `where`; DataError if a file lacks one of them."""
    names = list(names)
    columns = [*names, *folders]
    used = dict.fromkeys(needed(pa.schema([(name, pa.string()) for name in columns])))
    if source.where is not None:
        used |= dict.fromkeys(name for name in columns if name.lower() in source.where.lower())
    for group in groups:
        lacking = [name for name in used if name in names and name not in group.columns]
        if lacking:
            raise DataError(
                f"Column '{lacking[0]}' is missing from {uri_to_path(group.uris[0])}, but other files of {source} have "
                f"it; this file has {', '.join(group.columns)}. Add the column, or remove the file from source.path."
            )
    return [name for name in used if name in columns]


def _check_folders(groups: Iterable[Group], folders: Iterable[str]) -> None:
    """Raise DataError if a column is in the files and in the names of their folders, where values may differ."""
    in_folders = {name.lower(): name for name in folders}
    for group in groups:
        for name in group.columns:
            if folder := in_folders.get(name.lower()):
                raise DataError(
                    f"Column '{name}' is in {uri_to_path(group.uris[0])} and in the name of its folder ({folder}=…), "
                    "so it is ambiguous. Remove it from the files, or set source.options.recursiveFileLookup: true to "
                    "read it from the files, and no column from the folders' names."
                )


def _check_types(spark: SparkSession, source: "Source", columns: Iterable[str]) -> None:
    names = list(dict.fromkeys(columns))
    for name, type_ in source.types.items():
        if name not in names:
            raise ConfigError(f"source.types: {name!r} is not a column of {source}, which has {', '.join(names)}")
        try:
            spark.range(0).select(F.lit(None).cast(type_))
        except PySparkException as error:
            raise ConfigError(
                f"source.types.{name}: {type_!r} given, which is not a type of Spark's SQL, such as string, int, "
                "double, decimal(18,2), boolean, date or timestamp"
            ) from error
