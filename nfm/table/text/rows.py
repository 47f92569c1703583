"""Read the rows of grouped text files, and count those that do not fit their columns."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.reading import MORE_THAN_A_DOUBLE, MORE_THAN_A_NUMBER, Reading
from nfm.table.corrupt import file_path_column, to_metadata_path
from nfm.table.spark import column, load
from nfm.table.store import uri_to_path
from nfm.table.text.convert import FORMATS, convert, is_changed, rule, text_type
from nfm.table.text.groups import Group, load_files
from nfm.table.text.json_nested import looks_nested
from nfm.table.text.options import BAD_ROW

if TYPE_CHECKING:
    from nfm.config.source import Source

_FILE = "_nfm_file"  # column with the file of a row; not the name of a user's column
_WIDENING = ("int", "bigint", "decimal(38,0)", "double")  # inferred types that include those before


class Raw(NamedTuple):
    """Grouped files of a table, and the types of its columns."""

    source: "Source"
    groups: Sequence[Group]
    types: Mapping[str, T.DataType]  # of the files' columns; of CSV, of all columns
    folders: Mapping[str, T.DataType]  # of the columns whose values are in the folders' names
    strict: Mapping[str, str]  # columns with patterns of texts that are bad although the type accepts them
    is_exact: bool  # values keep their texts; False: Spark converts them, as for a model of an older version

    def read_type(self, type_: T.DataType) -> T.DataType:
        """Return the type with which Spark reads a column of this type."""
        return text_type(type_) if self.is_exact else type_

    def type_of(self, name: str) -> T.DataType:
        """Return the type of a column."""
        return self.folders[name] if name in self.folders else self.types[name]

    def is_plain_text(self, name: str) -> bool:
        """Return whether a column of the files has texts, without the user having set this type."""
        return name not in self.folders and name not in self.source.types and self.types[name] == T.StringType()

    def convert(self, name: str) -> Column:
        """Return a column in its type; null where that would change a value."""
        return convert(column(name), self.type_of(name), self._source_of(name)) if self.is_exact else column(name)

    def is_changed(self, name: str) -> Column:
        """Return whether the type of a column changes a value."""
        changed = is_changed(column(name), self.type_of(name), self._source_of(name))
        pattern = self.strict.get(name)
        return changed | F.coalesce(column(name).rlike(pattern), F.lit(False)) if pattern else changed

    def _source_of(self, name: str) -> "Source":
        """Return the source with the options for a column: formats are for the texts in files, not for folders."""
        if name not in self.folders:
            return self.source
        options = {key: value for key, value in self.source.options.items() if key == "timezone"}
        return self.source.model_copy(update={"options": options})


class Checked(NamedTuple):
    """Result of a pass over all rows."""

    rows: int
    bad: int  # rows that do not fit the number or the types of the columns
    example: str  # one of them, and what to do about it, as the start of a sentence
    texts: Mapping[str, str]  # columns whose inferred type would change a text: with an example
    nested: Sequence[str]  # columns of texts that may contain arrays or objects of JSON


def infer_types(
    spark: SparkSession, source: "Source", groups: Iterable[Group], reading: Reading | None
) -> dict[str, str]:
    """Return the types of the columns that Spark infers from all rows of all files, in Spark's SQL.

    Columns that the reading calls `untimed` are texts if Spark infers timestamps.
    """
    found = list[tuple[Group, Mapping[str, str]]]()
    for group in groups:
        inferred = [] if group.types else load_files(spark, source, group.uris, group.options, infers=True).dtypes
        found.append((group, group.types or dict(zip(group.columns, (type_ for _, type_ in inferred), strict=True))))
    typed = {name for _, inferred_types in found for name, type_ in inferred_types.items() if type_ != "string"}
    types = dict[str, str]()
    for group, inferred_types in found:
        texts = [name for name, type_ in inferred_types.items() if type_ == "string" and name in typed]
        empty = _find_empty(spark, source, group, texts)
        for name, type_ in inferred_types.items():
            if name not in empty:
                types[name] = _common_type(types.get(name, type_), type_)
    return types | {name: "string" for name in (reading.untimed if reading else ()) if types.get(name) == "timestamp"}


def _find_empty(spark: SparkSession, source: "Source", group: Group, names: Sequence[str]) -> set[str]:
    """Return those columns of a group of CSV files that have no value in any row; Spark infers string for them."""
    if not names:
        return set()
    rows = load_files(spark, source, group.uris, group.options, infers=False).toDF(*group.columns)
    counts: Any = rows.agg(*(F.count_if(F.length(column(name)) > 0) for name in names)).first()
    return {name for name, count in zip(names, counts, strict=True) if not count}


def find_doubtful(source: "Source", inferred: Mapping[str, str]) -> dict[str, str]:
    """Return the inferred columns, with a pattern of texts that are more than a value of the type; empty: none is."""
    found = dict.fromkeys(inferred, "")
    if source.format == "csv":  # in JSON, only numbers are written as numbers
        is_number = ("int", "bigint", "decimal")
        found |= {name: MORE_THAN_A_NUMBER for name, type_ in inferred.items() if type_.startswith(is_number)}
        found |= {name: MORE_THAN_A_DOUBLE for name, type_ in inferred.items() if type_ == "double"}
    return found


def _common_type(a: str, b: str) -> str:
    if a == b:
        return a
    if a in _WIDENING and b in _WIDENING:
        return max(a, b, key=_WIDENING.index)
    return "timestamp" if {a, b} == {"date", "timestamp"} else "string"


def read_groups(spark: SparkSession, raw: Raw, without_bad: Sequence[str] = ()) -> DataFrame:
    """Return the table, with the columns that all files have.

    `without_bad`: columns that all must fit; rows that do not are left out. Empty: all rows fit, see `check_rows`.
    """
    names = [name for name in raw.types if all(name in group.columns for group in raw.groups)]
    names += raw.folders
    frames = []
    for group in raw.groups:
        rows = _read(spark, raw, group, with_bad=bool(without_bad))
        if without_bad:
            # Spark notices that a value does not fit only if the query needs the column. The hash needs them all.
            fits = F.hash(*(column(name).cast("string") for name in without_bad)).between(-(1 << 31), (1 << 31) - 1)
            is_bad = reduce(or_, _changes(raw, without_bad).values(), column(BAD_ROW).isNotNull())
            rows = rows.where(~is_bad & fits)
        frames.append(rows.select(*(raw.convert(name).alias(name) for name in names)))
    return reduce(DataFrame.unionAll, frames)


def _changes(raw: Raw, names: Iterable[str]) -> dict[str, Column]:
    """Return, for each column that is converted, whether its type would change the value of a row."""
    types = {name: raw.type_of(name) for name in names}
    return {name: raw.is_changed(name) for name, type_ in types.items() if raw.read_type(type_) != type_}


def _read(spark: SparkSession, raw: Raw, group: Group, with_bad: bool) -> DataFrame:
    """Return the rows of a group, as Spark reads them."""
    options = {**raw.source.options, **group.options, "columnnameofcorruptrecord": BAD_ROW}
    columns = {name: raw.types[name] for name in group.columns if name in raw.types}
    columns |= raw.folders
    schema = T.StructType([T.StructField(name, raw.read_type(type_)) for name, type_ in columns.items()])
    if with_bad:
        schema = schema.add(BAD_ROW, "string")
    rows = load(spark, raw.source.model_copy(update={"options": options}), schema)
    if set(rows.inputFiles()) == set(group.uris):
        return rows
    # The other files belong to other groups, are left out, or were added since the bytes were read.
    return rows.where(file_path_column(raw.source, rows).isin([to_metadata_path(uri) for uri in group.uris]))


def check_rows(spark: SparkSession, raw: Raw, used: Sequence[str], doubtful: Mapping[str, str]) -> Checked:
    """Read all rows, and count those that do not fit; only the types of the used columns matter.

    `doubtful`: columns whose type is inferred, see `find_doubtful`.
    """
    frames = []
    for group in raw.groups:
        rows = _read(spark, raw, group, with_bad=True)
        frames.append(rows.select(*map(column, used), BAD_ROW, file_path_column(raw.source, rows).alias(_FILE)))
    changes = _changes(raw, used)
    for name in changes:
        if pattern := doubtful.get(name):
            changes[name] |= column(name).rlike(pattern)
    flags = {name: f"_nfm_changes_{i}" for i, name in enumerate(changes)}
    rows = reduce(DataFrame.unionAll, frames).select("*", *(changes[name].alias(flag) for name, flag in flags.items()))
    broken = column(BAD_ROW).isNotNull()
    fixed, inferred = [name for name in flags if name not in doubtful], [name for name in flags if name in doubtful]
    bad = reduce(or_, (F.col(flags[name]) for name in fixed), broken)
    texts = {name: F.when(F.col(flag), column(name).cast("string")) for name, flag in flags.items()}
    examples = (
        F.when(F.col(flags[name]), F.struct(_FILE, F.lit(name).alias("name"), texts[name].alias("text")))
        for name in fixed
    )
    may_nest = [] if raw.source.format != "json" else [name for name in used if raw.is_plain_text(name)]
    result: Any = rows.agg(
        F.array(*(F.max(looks_nested(column(name))) for name in may_nest)),
        F.count(F.lit(1)),
        F.count_if(bad),
        F.min(F.when(broken, F.struct(_FILE, BAD_ROW))),
        F.min(F.when(~broken, F.coalesce(F.lit(None), *examples))),
        F.array(*(F.count(column(name)) for name in used)),  # Spark parses only columns that the query needs
        *(F.min(F.when(~broken, texts[name])) for name in inferred),
    ).first()
    nested = [name for name, is_nested in zip(may_nest, result[0] or (), strict=True) if is_nested]
    result = result[1:]
    changed = {name: text for name, text in zip(inferred, result[5:], strict=True) if text is not None}
    example = ""
    if result[2]:
        example = _describe_row(raw, *result[2])
    elif result[3]:
        example = _describe_value(raw, *result[3])
    return Checked(result[0], result[1], example, changed, nested)


def refuse_bad_rows(source: "Source", checked: Checked) -> None:
    """Raise DataError for the rows that do not fit, unless `on_bad_row` is skip."""
    if checked.bad and source.on_bad_row == "refuse":
        raise DataError(
            f"{checked.bad:,} of {checked.rows:,} rows of {source} do not fit the columns, for example in "
            f"{checked.example}, or set source.on_bad_row: skip (or score.source.on_bad_row) to leave such rows out "
            "and report them."
        )


def _describe_value(raw: Raw, file: str, name: str, text: str) -> str:
    """Describe a value that its type would change, and what to do, as the start of a sentence."""
    type_ = raw.type_of(name)
    requirement = rule(type_)
    if name in raw.strict and re.search(raw.strict[name], text):
        allowed = f"source.types: {{{name}: {type_.simpleString()}}}"
        requirement = f"the output would contain another text, which only {allowed} allows"
    options = "" if raw.source.format == "json" else "set source.options.nullValue to this text if it means missing, "
    if type(type_) in FORMATS:
        options += f"set source.options.{FORMATS[type(type_)]}, "
    return (
        f"{uri_to_path(file)}: a row has the value {quoted(text)} in column '{name}', whose type is "
        f"{type_.simpleString()}: {requirement}. Correct it, {options}set source.types: {{{name}: string}} or another "
        "type"
    )


def _describe_row(raw: Raw, file: str, row: str) -> str:
    """Describe a row that Spark cannot parse, and what to do, as the start of a sentence."""
    group = next((g for g in raw.groups if any(to_metadata_path(uri) == file for uri in g.uris)), raw.groups[0])
    problem, options = "", "rowTag"
    if raw.source.format == "csv":
        options = "sep, quote, escape"
        delimiter, quote = raw.source.options.get("sep", ","), raw.source.options.get("quote", '"')
        with suppress(csv.Error, TypeError):
            values = next(csv.reader([row], delimiter=delimiter, quotechar=quote))
            if len(values) != len(group.columns):
                problem = f" has {len(values)} values, and its file has {len(group.columns)} columns"
    elif raw.source.format == "json":
        options = "multiLine: true if a file is one array or object"
        try:
            json.loads(row)
            problem = " has an array or an object where others have another type"
        except (ValueError, RecursionError):
            problem = " is not JSON"
    return (
        f"{uri_to_path(file)}: {quoted(row)}{problem}. Repair the rows, correct source.options ({options}) or "
        "source.types"
    )
