"""Read every byte of a table's text files in tasks, before Spark parses them.

Spark neither reports bytes that are invalid in the files' encoding, nor quotes that do not end where their value ends,
nor the header of each file. To read a large CSV file in several tasks, it must also be known that no line break is
inside quotes.
"""

import codecs
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.kernels.quotes import FIELD_START, QUOTED, Dialect, follow_quotes
from nfm.table.splits import File, Piece
from nfm.table.store import is_in_store, open_file

_BLOCK = 4 << 20  # bytes that a task keeps in memory
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}  # endings of files that Spark and pyarrow decompress
FACTS = pa.schema(
    [
        ("path", pa.string()),
        ("start", pa.int64()),
        ("state", pa.int64()),
        ("line_breaks", pa.int64()),
        ("header", pa.binary()),
        ("problem", pa.string()),  # of the text, as a clause
        ("unreadable", pa.string()),  # reason
    ]
)


class Facts(NamedTuple):
    """Facts about the bytes of a piece of a file; a piece contains the lines that begin in it."""

    path: str
    start: int
    state: int = FIELD_START  # of the quotes after the piece, if its first line began outside quotes
    line_breaks: int = 0  # inside quotes
    header: bytes | None = None  # first record; None if the piece is not the file's first
    problem: str | None = None
    unreadable: str | None = None


def examine(piece: Piece, dialect: Dialect | None, unicode: bool) -> Facts:
    """Read a piece of a file.

    Args:
        piece: A byte range; of a compressed file, the range that starts at 0 is the whole file, and others are empty.
        dialect: None: the file has no quotes, or they cannot be followed.
        unicode: Check that the text is valid UTF-8.
    """
    facts = Facts(piece.file.path, piece.start)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in _blocks(piece):
            if facts.header is None and not piece.start:
                facts = facts._replace(header=_first_record(block, dialect))
            if dialect is not None:
                quotes = follow_quotes(block, dialect, facts.state)
                facts = facts._replace(state=quotes.state, line_breaks=facts.line_breaks + quotes.line_breaks)
                if quotes.malformed >= 0 and dialect.escape == dialect.quote and facts.problem is None:
                    facts = facts._replace(problem=_describe_quote(block, quotes.malformed))
            if unicode and facts.problem is None:
                decoder.decode(block)
        if unicode and facts.problem is None:
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return facts._replace(problem=_describe_invalid(error))
    except (OSError, EOFError, pa.ArrowException) as error:
        return facts._replace(unreadable=str(error).strip().splitlines()[0])
    return facts


def is_compressed(file: File) -> bool:
    """Return whether Spark decompresses the file, and so reads it in one task."""
    return file.path.endswith((*_CODECS, ".deflate", ".lz4", ".snappy"))


def check_facts(facts: Sequence[Facts], dialect: Dialect | None) -> None:
    """Raise DataError if the text of a file, given by its pieces in order, is not valid."""
    problem = next((piece.problem for piece in facts if piece.problem), None)
    if problem is None and dialect is not None and facts[-1].state == QUOTED:
        problem = (
            "ends inside quotes, so that the last rows would become one value. Repair the file, or set "
            "source.options.quote or source.options.escape as its writer does"
        )
    if problem is not None:
        raise DataError(f"{facts[0].path} {problem}. Then run the job again.")


def _blocks(piece: Piece) -> Iterator[bytes]:
    """Yield the lines that begin in the piece, as blocks of bytes."""
    path, ending = piece.file.path, next((e for e in _CODECS if piece.file.path.endswith(e)), None)
    if is_compressed(piece.file) and (piece.start or ending is None):
        return
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


def _first_record(block: bytes, dialect: Dialect | None) -> bytes:
    text = block.lstrip(b"\r\n")
    end = text.find(b"\n")
    while dialect is not None and end >= 0 and follow_quotes(text[:end], dialect).state == QUOTED:
        end = text.find(b"\n", end + 1)
    return text[:end] if end >= 0 else text


def _describe_quote(block: bytes, position: int) -> str:
    example = block[max(position - 20, 0) : position + 10].decode("utf-8", "replace")
    return (
        f"has a quote that does not end its value: {quoted(example)}. In CSV (RFC 4180), a quote inside quotes is "
        'doubled. Repair the file, or set source.options.escape: "\\\\" if it writes \\", or source.options.quote: "" '
        "if its quotes are ordinary characters"
    )


def _describe_invalid(error: UnicodeDecodeError) -> str:
    example = error.object[max(error.start - 10, 0) : error.start + 10].decode("latin-1")
    return (
        f"contains invalid UTF-8, near {quoted(example)} (as ISO-8859-1). Set source.options.encoding to its encoding, "
        "such as ISO-8859-1, or convert it to UTF-8"
    )
