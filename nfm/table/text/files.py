"""Read every byte of a table's text files in tasks, before Spark parses them.

Spark neither reports bytes that are invalid in the files' encoding, nor quotes that do not end where their value ends,
nor the header of each file. To read a large CSV file in several tasks, it must also be known that no line break is
inside quotes.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.kernels.quotes import QUOTED, Dialect, Quotes, follow_quotes
from nfm.table.splits import File, Piece
from nfm.table.store import is_in_store, open_file
from nfm.table.text.json_values import Layout, find_second_value

_BLOCK = 4 << 20  # bytes that a task keeps in memory
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}  # endings of files that Spark and pyarrow decompress
# Marks at the start of a file; that of UTF-32 begins as that of UTF-16 does.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_JSON_ADVICE = (
    ". With this encoding, Spark reads JSON only if source.options.multiLine is true, too: one array per file"
)
_OTHER_CODECS = (".deflate", ".lz4", ".snappy")  # endings of files that only Spark decompresses
FACTS = pa.schema(
    [
        ("path", pa.string()),
        ("start", pa.int64()),
        *((name, pa.int64()) for name in Quotes._fields),
        ("header", pa.binary()),
        ("utf_8", pa.string()),
        ("problem", pa.string()),  # of the text, as a clause
        ("unreadable", pa.string()),  # reason
    ]
)


class Facts(NamedTuple):
    """Facts about the bytes of a piece of a file; a piece contains the lines that begin in it."""

    path: str
    start: int
    quotes: Quotes = Quotes()  # after the piece, if its first line began outside quotes
    header: bytes | None = None  # first record; None if the piece is not the file's first
    utf_8: str | None = (
        None  # of single-byte encodings: an example if it is UTF-8; empty: it is not; None: all is ASCII
    )
    problem: str | None = None
    unreadable: str | None = None


def examine(piece: Piece, dialect: Dialect | None, encoding: str | None, layout: Layout | None = None) -> Facts:
    """Read a piece of a file.

    Args:
        piece: A byte range; of a file that is read in one task, the range that starts at 0 is the whole file, and
            others are empty.
        dialect: None: the file has no quotes, or they cannot be followed.
        encoding: Decode the text, and report bytes that are not valid; None if all bytes are.
        layout: Of JSON, whose values must not be followed by others; None: not checked.
    """
    facts = Facts(piece.file.path, piece.start)
    decoder, unchecked = codecs.getincrementaldecoder(encoding or "latin-1")(), b""
    utf_8 = codecs.getincrementaldecoder("utf-8")() if has_single_bytes(encoding) else None
    try:
        for block in _blocks(piece, is_read_whole(piece.file, encoding, layout)):
            is_first = facts.header is None and not piece.start
            if is_first and (found := _find_utf_16(block, encoding)) is not None:
                return facts._replace(problem=found + (_JSON_ADVICE if layout == "lines" else ""))
            if encoding is not None:
                text = decoder.decode(block)
                block = block if has_plain_bytes(encoding) else text.encode("utf-8", "surrogatepass")
            if is_first:
                block = block.removeprefix(codecs.BOM_UTF8)
                facts = facts._replace(header=_first_record(block, dialect))
            if utf_8 is not None:
                facts = facts._replace(utf_8=_recognize_utf_8(block, utf_8, facts.utf_8))
            facts = _follow(facts, block, dialect)
            if facts.problem is not None:
                return facts
            if layout is not None:
                unchecked += block
            if layout == "lines":
                lines, _, unchecked = unchecked.rpartition(b"\n")
                facts = facts._replace(problem=facts.problem or find_second_value(lines, layout))
        decoder.decode(b"", final=True)
        if layout is not None:
            facts = facts._replace(problem=facts.problem or find_second_value(unchecked, layout))
    except UnicodeDecodeError as error:
        return facts._replace(problem=_describe_invalid(error, str(encoding)))
    except UnicodeError:  # Python requires the mark, as files without it may have either order of bytes
        return facts._replace(
            problem=f"does not begin with the byte order mark of {encoding}, which is source.options.encoding. Set "
            "this option to the encoding of all files, such as UTF-16LE or UTF-8, or convert the file"
        )
    except (OSError, EOFError, pa.ArrowException) as error:
        return facts._replace(unreadable=str(error).strip().splitlines()[0])
    return facts


def read_texts(file: File, encoding: str, layout: Layout | None) -> Iterator[str]:
    """Yield the lines of a file, or its whole text if it is a document."""
    decoder, rest = codecs.getincrementaldecoder(encoding)("replace"), ""
    for block in _blocks(Piece(file, 0, file.size), True):
        rest += decoder.decode(block)
        if layout == "lines":
            *lines, rest = rest.split("\n")
            yield from lines
    yield rest


def _follow(facts: Facts, block: bytes, dialect: Dialect | None) -> Facts:
    """Return the facts after one more block."""
    if b"\0" in block:  # Spark's parser of CSV drops some of them
        return facts._replace(problem="contains zero bytes. Repair it")
    if dialect is None:
        return facts
    quotes = follow_quotes(block, dialect, facts.quotes)
    return facts._replace(
        quotes=quotes, problem=_describe_quote(block, quotes.malformed) if quotes.malformed >= 0 else None
    )


def is_read_whole(file: File, encoding: str | None, layout: Layout | None = None) -> bool:
    """Return whether the file is read in one task: compressed, one JSON document, or line ends are not plain bytes."""
    return (
        layout == "document"
        or file.path.endswith((*_CODECS, *_OTHER_CODECS))
        or not has_plain_bytes(encoding or "utf-8")
    )


def has_long_rows(facts: Sequence[Facts]) -> bool:
    """Return whether line breaks are inside quotes."""
    return any(piece.quotes.line_breaks for piece in facts)


def line_ends(facts: Sequence[Facts]) -> list[str]:
    r"""Return the ends of a file's lines: \n, \r, \r\n."""
    counts = {"\n": "newlines", "\r": "returns", "\r\n": "both"}
    return [end for end, name in counts.items() if any(getattr(piece.quotes, name) for piece in facts)]


def to_row(facts: Facts) -> dict[str, Any]:
    """Return facts as a row with the schema FACTS."""
    return {**facts.quotes._asdict(), **{key: value for key, value in facts._asdict().items() if key != "quotes"}}


def from_row(row: dict[str, Any]) -> Facts:
    """Return the facts of a row with the schema FACTS."""
    quotes = Quotes(**{name: row.pop(name) for name in Quotes._fields})
    return Facts(quotes=quotes, **row)


def check_facts(facts: Sequence[Facts], multi_line: bool = False) -> None:
    """Raise DataError if the text of a file, given by its pieces in order, is not valid.

    `multi_line`: Spark will read it as if line breaks were inside quotes.
    """
    problem = next((piece.problem for piece in facts if piece.problem), None)
    texts = [piece.utf_8 for piece in facts if piece.utf_8 is not None]
    if problem is None and texts and all(texts):
        problem = (
            f"is UTF-8, for example {quoted(texts[0])}, but source.options.encoding, which may come from the training, "
            "makes other characters of it. Set source.options.encoding: UTF-8, or convert the files of the table to "
            "one encoding"
        )
    if problem is None and facts[-1].quotes.state == QUOTED:
        problem = (
            "ends inside quotes, so that the last rows would become one value. Repair the file, or set "
            "source.options.quote or source.options.escape as its writer does"
        )
    if problem is None and (multi_line or has_long_rows(facts)) and len(line_ends(facts)) > 1:
        problem = (
            "may have line breaks inside quotes, and has lines that end in "
            f"{' and '.join(map(repr, line_ends(facts)))}: Spark cannot read both. Write all its lines with the same "
            "end, or set source.options.multiLine: false if no value has a line break, or source.options.lineSep: "
            '"\\r\\n" if all its rows end in \\r\\n'
        )
    if problem is not None:
        raise DataError(f"{facts[0].path} {problem}. Then run the job again.")


def _blocks(piece: Piece, whole: bool) -> Iterator[bytes]:
    """Yield the lines that begin in the piece, or the whole file, as blocks of bytes."""
    path, ending = piece.file.path, next((e for e in _CODECS if piece.file.path.endswith(e)), None)
    if piece.file.path.endswith(_OTHER_CODECS) or (whole and piece.start):
        return
    piece = piece._replace(stop=piece.file.size) if whole else piece
    with open_file(path) if is_in_store(path) else pa.OSFile(path) as opened:
        if ending is not None:
            with pa.CompressedInputStream(opened, _CODECS[ending]) as text:
                while block := text.read(_BLOCK):
                    yield block
            return
        position, stop = piece.start, piece.stop
        if position:  # the line that began earlier is in the piece before; it may have ended just before this one
            position -= 1
            opened.seek(position)
            position += sum(map(len, _rest_of_line(opened)))
            opened.seek(position)
        while position < stop and (block := opened.read(min(_BLOCK, stop - position))):
            position += len(block)
            if position >= stop and not block.endswith(b"\n"):
                block += b"".join(_rest_of_line(opened))
            yield block


def _rest_of_line(opened: Any) -> Iterator[bytes]:
    while block := opened.read(1 << 16):
        end = block.find(b"\n") + 1
        yield block[:end] if end else block
        if end:
            return


def _find_utf_16(start: bytes, encoding: str | None) -> str | None:
    """Return a problem, as a clause, if a file begins as text in UTF-16 or UTF-32, and another encoding is given."""
    given = encoding or "an encoding with one byte for each character"
    for mark, name in _MARKS.items():
        if start.startswith(mark) and given != name.lower():
            return (
                f"begins with the byte order mark of {name}, and is read as {given}. Set "
                f"source.options.encoding: {name}, or convert it to UTF-8"
            )
    zeros = start.count(b"\0", 0, 1000)
    if zeros and not given.startswith(("utf-16", "utf-32")):
        name = "UTF-16BE" if start.find(b"\0") % 2 == 0 else "UTF-16LE"
        return (
            f"contains zero bytes, as {name} does, and is read as {given}. Set source.options.encoding: {name} "
            "if that is its encoding; else repair it"
        )
    return None


def has_plain_bytes(encoding: str) -> bool:
    """Return whether delimiters, quotes and line ends are single bytes in an encoding, and part of no character."""
    return encoding.lower().startswith(
        ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-", "iso8859", "latin", "windows-125", "cp125")
    )


def has_single_bytes(encoding: str | None) -> bool:
    """Return whether an encoding, by Python's name, has one byte for each character; None: each byte is a character."""
    return encoding is None or encoding.startswith(("iso8859", "cp125"))


def _recognize_utf_8(block: bytes, decoder: codecs.IncrementalDecoder, before: str | None) -> str | None:
    """Return `Facts.utf_8` after one more block."""
    if before == "":
        return before
    try:
        text = decoder.decode(block)
    except UnicodeDecodeError:
        return ""
    found = re.search(r"\w*[^\x00-\x7f]\w*", text) if before is None and not block.isascii() else None
    return found[0][:30] if found else before


def _first_record(block: bytes, dialect: Dialect | None) -> bytes:
    """Return the first record, after the empty lines and the comments that Spark ignores above a header."""
    comment = bytes([dialect.comment]) if dialect is not None and dialect.comment >= 0 else None
    text = block.lstrip()
    while comment is not None and text.startswith(comment):
        text = b"".join(re.split(rb"[\r\n]", text, maxsplit=1)[1:]).lstrip()
    end = text.find(b"\n")
    while dialect is not None and end >= 0 and follow_quotes(text[:end], dialect).state == QUOTED:
        end = text.find(b"\n", end + 1)
    return text[:end] if end >= 0 else text


def _describe_quote(block: bytes, position: int) -> str:
    example = block[max(position - 20, 0) : position + 10].decode("utf-8", "replace")
    return (
        f"has a quote that does not end its value: {quoted(example)}. In CSV (RFC 4180), a quote inside quotes is "
        'doubled. Repair the file, or set source.options.escape: "\\\\" if it writes \\", source.options.escape: '
        '\'"\' if it doubles them, or source.options.quote: "" if its quotes are ordinary characters'
    )


def _describe_invalid(error: UnicodeDecodeError, encoding: str) -> str:
    example = error.object[max(error.start - 10, 0) : error.start + 10].decode("latin-1")
    return (
        f"contains invalid {encoding.upper()}, near {quoted(example)} (as ISO-8859-1). Set "
        "source.options.encoding to its encoding, such as ISO-8859-1, or convert it to UTF-8"
    )
