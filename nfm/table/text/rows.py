"""Read the rows of grouped text files, and count those that do not fit their columns."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.reading import MORE_THAN_A_DOUBLE, MORE_THAN_A_NUMBER, NOT_A_DATE
from nfm.table.corrupt import file_path_column, to_metadata_path
from nfm.table.spark import column, load, quote_name
from nfm.table.store import uri_to_path
from nfm.table.text.groups import Group, load_files
from nfm.table.text.options import BAD_ROW

if TYPE_CHECKING:
    from nfm.config.settings import Source

_FILE = "_nfm_file"  # column with the file of a row; not the name of a user's column
_WIDENING = ("int", "bigint", "decimal(38,0)", "double")  # inferred types that include those before


class Checked(NamedTuple):
    """Result of a pass over all rows."""

    rows: int
    bad: int  # rows that do not fit the number or the types of the columns
    file: str | None  # of a bad row
    row: str | None  # its text
    texts: Mapping[str, str]  # columns whose inferred type would change a text: with an example


def infer_types(spark: SparkSession, source: "Source", groups: Iterable[Group]) -> dict[str, str]:
    """Return the types of the columns that Spark infers from all rows of all files, in Spark's SQL."""
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
    return types


def _find_empty(spark: SparkSession, source: "Source", group: Group, names: Sequence[str]) -> set[str]:
    """Return those columns of a group of CSV files that have no value in any row; Spark infers string for them."""
    if not names:
        return set()
    rows = load_files(spark, source, group.uris, group.options, infers=False).toDF(*group.columns)
    counts: Any = rows.agg(*(F.count_if(F.length(column(name)) > 0) for name in names)).first()
    return {name for name, count in zip(names, counts, strict=True) if not count}


def find_doubtful(source: "Source", inferred: Mapping[str, str]) -> dict[str, str]:
    """Return the columns whose inferred type could change a text, with a pattern of such texts."""
    if source.format != "csv":
        return {}
    patterns = {"double": MORE_THAN_A_DOUBLE}
    if not {"dateformat", "timestampformat"} & set(source.options):
        patterns |= {"date": NOT_A_DATE, "timestamp": NOT_A_DATE}
    is_number = ("int", "bigint", "decimal")
    found = {name: MORE_THAN_A_NUMBER for name, type_ in inferred.items() if type_.startswith(is_number)}
    return found | {name: patterns[type_] for name, type_ in inferred.items() if type_ in patterns}


def _common_type(a: str, b: str) -> str:
    if a == b:
        return a
    if a in _WIDENING and b in _WIDENING:
        return max(a, b, key=_WIDENING.index)
    return "timestamp" if {a, b} == {"date", "timestamp"} else "string"


def read_groups(
    spark: SparkSession,
    source: "Source",
    groups: Sequence[Group],
    types: Mapping[str, str],
    folders: Mapping[str, str],
    without_bad: Sequence[str] = (),
) -> DataFrame:
    """Return the table, with the columns that all files have.

    Args:
        spark: The session.
        source: The table.
        groups: Its files.
        types: Types of the files' columns; of CSV, of all columns.
        folders: Types of the columns whose values are in the folders' names.
        without_bad: Columns that all must fit; rows that do not are left out. Empty: all rows fit, see `check_rows`.
    """
    names = [name for name in types if all(name in group.columns for group in groups)]
    columns = [column(name) for name in [*names, *folders]]
    frames = []
    for group in groups:
        rows = _read(spark, source, group, types, folders, with_bad=bool(without_bad))
        if without_bad:
            # Spark notices that a value does not fit only if the query needs the column. The hash needs them all.
            fits = F.hash(*(column(name) for name in without_bad)).between(-(1 << 31), (1 << 31) - 1)
            rows = rows.where(column(BAD_ROW).isNull() & fits)
        frames.append(rows.select(*columns))
    return reduce(DataFrame.unionAll, frames)


def _read(
    spark: SparkSession,
    source: "Source",
    group: Group,
    types: Mapping[str, str],
    folders: Mapping[str, str],
    with_bad: bool,
) -> DataFrame:
    options = {**source.options, **group.options, "columnnameofcorruptrecord": BAD_ROW}
    columns = {name: types[name] for name in group.columns if name in types}
    columns |= folders
    columns |= {BAD_ROW: "string"} if with_bad else {}
    schema = ", ".join(f"{quote_name(name)} {type_}" for name, type_ in columns.items())
    rows = load(spark, source.model_copy(update={"options": options}), schema)
    if set(rows.inputFiles()) == set(group.uris):
        return rows
    # The other files belong to other groups, are left out, or were added since the bytes were read.
    return rows.where(file_path_column(source, rows).isin([to_metadata_path(uri) for uri in group.uris]))


def check_rows(
    spark: SparkSession,
    source: "Source",
    groups: Sequence[Group],
    types: Mapping[str, str],
    folders: Mapping[str, str],
    used: Sequence[str],
    doubtful: Mapping[str, str],
) -> Checked:
    """Read all rows, and count those that do not fit; only the types of the used columns matter.

    `doubtful`: used columns that are read as text here, with a pattern of texts that their inferred type would change.
    """
    types = {name: type_ if name in used and name not in doubtful else "string" for name, type_ in types.items()}
    frames = []
    for group in groups:
        rows = _read(spark, source, group, types, folders, with_bad=True)
        frames.append(rows.select(*map(column, used), BAD_ROW, file_path_column(source, rows).alias(_FILE)))
    bad = column(BAD_ROW).isNotNull()
    counts = [F.count(column(name)) for name in used]  # Spark parses only columns that the query needs
    texts = [F.min(F.when(column(name).rlike(pattern), column(name))) for name, pattern in doubtful.items()]
    result: Any = (
        reduce(DataFrame.unionAll, frames)
        .agg(
            F.count(F.lit(1)),
            F.count_if(bad),
            F.min(F.when(bad, F.struct(_FILE, BAD_ROW))),
            F.array(*counts),
            *texts,
        )
        .first()
    )
    file, row = result[2] or (None, None)
    found = {name: text for name, text in zip(doubtful, result[4:], strict=True) if text is not None}
    return Checked(result[0], result[1], file, row, found)


def refuse_bad_rows(
    spark: SparkSession, source: "Source", groups: Sequence[Group], types: Mapping[str, str], checked: Checked
) -> None:
    """Raise DataError for the rows that do not fit, unless `on_bad_row` is skip."""
    if source.on_bad_row == "skip":
        return
    options = {"csv": "sep, quote, escape", "json": "multiLine: true if a file is one array or object"}
    raise DataError(
        f"{checked.bad:,} of {checked.rows:,} rows of {source} do not fit the columns, for example in "
        f"{uri_to_path(checked.file or '')}: {quoted(checked.row)}{_explain(spark, source, groups, types, checked)}. "
        f"Repair the rows, correct source.options ({options.get(source.format, 'rowTag')}) or source.types, or set "
        "source.on_bad_row: skip (or score.source.on_bad_row) to leave such rows out and report them."
    )


def _explain(
    spark: SparkSession, source: "Source", groups: Sequence[Group], types: Mapping[str, str], checked: Checked
) -> str:
    """Return what is wrong with the example, as the end of a sentence; empty if it is not known."""
    group = next((g for g in groups if any(to_metadata_path(uri) == checked.file for uri in g.uris)), groups[0])
    if source.format != "csv" or not checked.row:
        return ""
    delimiter, quote = source.options.get("sep", ","), source.options.get("quote", '"')
    try:
        values = next(csv.reader([checked.row], delimiter=delimiter, quotechar=quote))
    except (csv.Error, TypeError):
        return ""
    if len(values) != len(group.columns):
        return f" has {len(values)} values, and its file has {len(group.columns)} columns"
    for name, value in zip(group.columns, values, strict=True):
        parsed = spark.range(1).select(F.lit(value).try_cast(types[name])).first()
        if value and parsed is not None and parsed[0] is None:
            return f" has the value {quoted(value)} in column '{name}', whose type is {types[name]}"
    return ""
