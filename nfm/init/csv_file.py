"""Sample CSV and TSV files, and find the options with which Spark reads the same values."""

import bz2
import csv
import gzip
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from nfm.contract.errors import DataError
from nfm.contract.messages import listed, quoted
from nfm.init.facts import FLOAT, INTEGER, infer_kind
from nfm.init.sample import CSV_ENDINGS, MOST_PIECES, MOST_ROWS, Sample, pick_evenly

_MOST_BYTES = 32 << 20  # of text in a sample
_DELIMITERS = ",\t;|"
_MISSING = ("NA", "N/A", "n/a", "NULL", "null", "None", "?", "-", ".", "\\N", "#N/A", "<NA>")
_LOSSY = r"^[+-]?0\d|\d{39}"  # Spark would read 007 as 7, and more than 38 digits as a float


def read_csv(path: Path, files: Sequence[Path]) -> Sample:
    """Read rows spread over the files, every column as text; DataError if they are not CSV with a header."""
    wrong = [file for file in files if not file.name.lower().endswith(CSV_ENDINGS)]
    if wrong:
        raise DataError(f"{wrong[0]} is not Parquet, and its ending is not one of {', '.join(CSV_ENDINGS)}.")
    chosen = pick_evenly(files)
    blocks = [_read_blocks(file, _MOST_BYTES // len(chosen)) for file in chosen]
    body, is_whole = b"".join(text for text, _ in blocks), all(is_complete for _, is_complete in blocks)
    header = body[: body.find(b"\n") + 1] or body
    if len(chosen) > 1:  # each file repeats the header
        body = header + b"".join(text.removeprefix(header) for text, _ in blocks)
    if b"\0" in body:
        raise DataError(
            f"{path} is not a text file in UTF-8 (it has zero bytes). Export it as CSV in UTF-8, or as Parquet."
        )
    options: dict[str, Any] = {"header": True, "inferSchema": True}
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("latin-1")
        options["encoding"] = "ISO-8859-1"
    if (delimiter := _find_delimiter(text)) != ",":
        options["delimiter"] = delimiter
    escaped = '\\"' in text and '""' not in text
    if '"' in text and not escaped:
        options["escape"] = '"'
    names = next(csv.reader([text.partition("\n")[0].rstrip("\r")], delimiter=delimiter))
    table = _parse(path, text, len(names), delimiter, escaped)
    rows = len(table) if is_whole and len(chosen) == len(files) else None
    if len(table) > MOST_ROWS:
        table = table.take(np.linspace(0, len(table) - 1, MOST_ROWS).astype(np.int64))
    if _is_padded(names, table):
        options |= {"ignoreLeadingWhiteSpace": True, "ignoreTrailingWhiteSpace": True}
        names = [name.strip() for name in names]
        table = _map_columns(table, pc.utf8_trim_whitespace)
    if any(pc.any(pc.match_substring(column, "\n")).as_py() for column in table.columns):
        options["multiLine"] = True
    _check_header(path, names, table)
    marker = _find_missing_marker(table)
    if marker is not None:
        options["nullValue"] = marker
        table = _map_columns(table, lambda column: pc.if_else(pc.equal(column, marker), None, column))
    if any(
        infer_kind(c) in (INTEGER, FLOAT) and pc.any(pc.match_substring_regex(c, _LOSSY)).as_py() for c in table.columns
    ):
        options["inferSchema"] = False
    # Spark names a column without a name by its number.
    table = table.rename_columns([f"_c{i}" if name in ("", marker) else name for i, name in enumerate(names)])
    source = {"format": "csv", "path": str(path), "options": options}
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


def _parse(path: Path, text: str, width: int, delimiter: str, escaped: bool) -> pa.Table:
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
            return pa.table({name: pa.array([], pa.string()) for name in names})
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    if len(wrong_rows) > len(table) / 10:
        first = wrong_rows[0]
        raise DataError(
            f"The header of {path} has {width} names, but {len(wrong_rows)} of {len(wrong_rows) + len(table)} rows "
            f"have a different number of values, for example {first.actual_columns}: {quoted(first.text)}. Correct the "
            "header or the rows."
        )
    return table


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
