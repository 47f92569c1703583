"""Sample CSV and TSV files, and find the options with which Spark reads the same values."""

import bz2
import csv
import gzip
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from nfm.contract.errors import DataError
from nfm.contract.messages import listed, quoted
from nfm.init.facts import infer_kind
from nfm.init.sample import CSV_ENDINGS, MOST_PIECES, MOST_ROWS, Sample, pick_evenly

_MOST_BYTES = 32 << 20  # of text in a sample
_DELIMITERS = ",\t;|"
_DECIMAL_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d{1,6})?$"
_MISSING = ("NA", "N/A", "n/a", "NULL", "null", "None", "?", "-", ".", "\\N", "#N/A", "<NA>")


def read_csv(path: Path, files: Sequence[Path]) -> Sample:
    """Read rows spread over the files, every column as text; DataError if they are not CSV with a header."""
    wrong = [file for file in files if not file.name.lower().endswith(CSV_ENDINGS)]
    if wrong:
        raise DataError(f"{wrong[0]} is not Parquet, and its ending is not one of {', '.join(CSV_ENDINGS)}.")
    chosen = pick_evenly(files)
    blocks = [_read_blocks(file, _MOST_BYTES // len(chosen)) for file in chosen]
    by_header, is_whole = _group_by_header(text for text, _ in blocks), all(is_complete for _, is_complete in blocks)
    bodies = [header + b"".join(rows) for header, rows in by_header.items()]
    body = b"".join(bodies)
    if b"\0" in body:
        raise DataError(
            f"{path} is not a text file in UTF-8 (it has zero bytes). Export it as CSV in UTF-8, or as Parquet."
        )
    options = dict[str, Any]()
    try:
        text, encoding = body.decode("utf-8-sig"), "utf-8-sig"
    except UnicodeDecodeError:
        text, encoding = body.decode("latin-1"), "latin-1"
        options["encoding"] = "ISO-8859-1"
    if (delimiter := _find_delimiter(text)) != ",":
        options["delimiter"] = delimiter
    escaped = '\\"' in text and '""' not in text
    if escaped:
        options["escape"] = "\\"
    tables = [_parse(path, body.decode(encoding), delimiter, escaped) for body in bodies]
    names = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
    table = pa.concat_tables([table.select(names) for table in tables]) if len(tables) > 1 else tables[0]
    names, table = table.column_names, table.rename_columns([str(i) for i in range(table.num_columns)])
    rows = len(table) if is_whole and len(chosen) == len(files) else None
    if len(table) > MOST_ROWS:
        table = table.take(np.linspace(0, len(table) - 1, MOST_ROWS).astype(np.int64))
    if _is_padded(names, table):
        options |= {"ignoreLeadingWhiteSpace": True, "ignoreTrailingWhiteSpace": True}
        names = [name.strip() for name in names]
        table = _map_columns(table, pc.utf8_trim_whitespace)
    _check_header(path, names, table)
    marker = _find_missing_marker(table)
    if marker is not None:
        options["nullValue"] = marker
        table = _map_columns(table, lambda column: pc.if_else(pc.equal(column, marker), None, column))
    table, types = _read_decimal_commas(table, names)
    # Spark names a column without a name by its number.
    table = table.rename_columns([f"_c{i}" if name in ("", marker) else name for i, name in enumerate(names)])
    if types:
        options["locale"] = "de-DE"
    source: dict[str, Any] = {"format": "csv", "path": str(path)}
    source |= {key: value for key, value in (("options", options), ("types", types)) if value}
    return Sample(table, source, rows, is_csv=True)


def _read_blocks(file: Path, budget: int) -> tuple[bytes, bool]:
    """Return the text of a file, or blocks of lines if the file is large; and whether the text is complete."""
    with file.open("rb") as start:
        compressed = start.read(2) in (b"\x1f\x8b", b"BZ")
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    opener = openers.get(file.suffix.lower())
    if compressed != (opener is not None):
        raise DataError(
            f"{file} is {'' if compressed else 'not '}compressed, but Spark decompresses a file if, and only if, its "
            "name ends in .gz or .bz2. Rename it."
        )
    try:
        with (opener or open)(file, "rb") as opened:
            if opener is None and file.stat().st_size > budget:
                return _read_spread_blocks(opened, file.stat().st_size, budget // MOST_PIECES), False
            text = opened.read(budget)
            rest = opened.readline() if len(text) == budget else b""
            is_complete = not opened.read(1)
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    return text + rest + (b"" if (text + rest).endswith(b"\n") else b"\n"), is_complete


def _read_spread_blocks(opened: IO[bytes], size: int, block: int) -> bytes:
    blocks = []
    for i in range(MOST_PIECES):
        opened.seek(i * (size - block) // (MOST_PIECES - 1))
        if i:
            opened.readline()  # skip the rest of a line
        text = opened.read(block)
        blocks.append(text[: text.rfind(b"\n") + 1])
    return b"".join(blocks)


def _find_delimiter(text: str) -> str:
    """Return the delimiter that gives most columns, with the same number of columns in most lines."""
    lines = text[: 1 << 16].splitlines(keepends=True)[:100]

    def score(delimiter: str) -> float:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        return sum(width == widths[0] for width in widths) / len(widths) * (widths[0] - 1) if widths else 0

    return max(_DELIMITERS, key=score)


def _group_by_header(texts: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Return the rows of the files by their header line."""
    by_header: dict[bytes, list[bytes]] = {}
    for text in texts:
        end = text.find(b"\n") + 1
        by_header.setdefault(text[:end], []).append(text[end:])
    return by_header


def _parse(path: Path, text: str, delimiter: str, escaped: bool) -> pa.Table:
    """Return the rows of files with one header, as texts."""
    header = next(csv.reader([text.partition("\n")[0].rstrip("\r")], delimiter=delimiter), [])
    width = len(header)
    wrong_rows: list[pv.InvalidRow] = []

    def skip(row: pv.InvalidRow) -> str:
        wrong_rows.append(row)
        return "skip"

    names = [str(i) for i in range(width)]
    try:
        table = pv.read_csv(
            io.BytesIO(text.encode()),
            pv.ReadOptions(column_names=names, skip_rows=1, block_size=64 << 20, use_threads=False),
            pv.ParseOptions(
                delimiter=delimiter,
                escape_char="\\" if escaped else False,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            pv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return pa.Table.from_arrays([pa.array([], pa.string())] * width, names=header)
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if len(wrong_rows) > len(table) / 10:
        first = wrong_rows[0]
        raise DataError(
            f"The header of {path} has {width} names, but {len(wrong_rows)} of {len(wrong_rows) + len(table)} rows "
            f"have a different number of values, for example {first.actual_columns}: {quoted(first.text)}. Correct the "
            "header or the rows."
        )
    return table.rename_columns(header)


def _map_columns(table: pa.Table, change: Any) -> pa.Table:
    return pa.table({name: change(table[name]) for name in table.column_names})


def _is_padded(names: Sequence[str], table: pa.Table) -> bool:
    """Return whether a name, or every value of a column, has spaces around it."""
    padded = (pc.all(pc.match_substring_regex(c, r"^\s|\s$")).as_py() for c in table.columns if c.null_count < len(c))
    return any(name != name.strip() for name in names) or any(padded)


def _check_header(path: Path, names: Sequence[str], table: pa.Table) -> None:
    """Raise DataError if the first line looks like a row: most of its texts are fractions or occur in their column."""
    look_like_values = [
        bool(re.fullmatch(r"-?\d*\.\d+", name)) or bool(pc.any(pc.equal(column, name)).as_py())
        for name, column in zip(names, table.columns, strict=True)
    ]
    if len(table) and sum(look_like_values) > len(names) / 2:
        raise DataError(
            f"{path} seems to have no header: its first line looks like a row ({listed(map(quoted, names))}). Add a "
            "first line with the columns' names."
        )


def _read_decimal_commas(table: pa.Table, names: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    """Return the table with points instead of commas in numbers such as 1.234,5, and the types of these columns."""
    types = {}
    for i, column in enumerate(table.columns):
        distinct = pc.unique(column).drop_null()
        is_number = pc.all(pc.match_substring_regex(distinct, _DECIMAL_COMMA)).as_py()
        # 1,234 alone may also be a thousand and more.
        if is_number and pc.any(pc.match_substring_regex(distinct, r",(\d{1,2}|\d{4,})$")).as_py():
            types[names[i]] = "decimal(18,6)"
            column = pc.replace_substring(pc.replace_substring(column, ".", ""), ",", ".")
            table = table.set_column(i, table.column_names[i], column)
    return table, types


def _find_missing_marker(table: pa.Table) -> str | None:
    """Return the text that marks missing values, such as NA: the other values of its columns are numbers or dates."""
    votes = dict.fromkeys(_MISSING, 0)
    for column in table.columns:
        distinct = pc.unique(column).drop_null()
        for marker in pa.array(_MISSING).filter(pc.is_in(pa.array(_MISSING), value_set=distinct)).to_pylist():
            rest = distinct.filter(pc.not_equal(distinct, marker))
            votes[marker] += len(rest) > 0 and infer_kind(rest) != "text"
    best = max(_MISSING, key=votes.__getitem__)
    return best if votes[best] else None
