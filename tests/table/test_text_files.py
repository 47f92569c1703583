"""Bytes of text files, piece by piece."""

import bz2
import gzip
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.errors import DataError
from nfm.kernels.quotes import FIELD_START, QUOTED, Dialect
from nfm.table.splits import Piece, file_at
from nfm.table.text.files import Facts, check_facts, examine, line_ends

RFC = Dialect()


def facts(path: Path, *cuts: int, encoding: str | None = "utf-8") -> list[Facts]:
    file = file_at(str(path))
    edges = [0, *sorted(min(cut, file.size) for cut in cuts), file.size]
    pieces = [Piece(file, a, b) for a, b in pairwise(edges) if a < b]
    return [examine(piece, RFC, encoding) for piece in pieces]


LINES = st.lists(st.text(st.sampled_from('ab,é"\r'), max_size=9), min_size=1, max_size=12)


@given(LINES, st.lists(st.integers(1, 120), max_size=4), st.booleans())
def test_every_byte_is_in_one_piece(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cuts: list[int], ends: bool
) -> None:
    # No quote opens, so that the pieces' states do not depend on each other.
    text = "\n".join(f"x{line}" for line in lines).replace(',"', ",x").replace('\r"', "\rx") + "\n" * ends
    path = tmp_path_factory.mktemp("pieces") / "a.csv"
    path.write_bytes(text.encode())
    (whole,), pieces = facts(path), facts(path, *cuts)
    assert pieces[0].header == whole.header == text.partition("\n")[0].encode()
    assert all(piece.problem is None and piece.unreadable is None for piece in pieces)
    assert not any(piece.quotes.line_breaks for piece in pieces)
    assert line_ends(pieces) == line_ends([whole])
    counts = [(piece.quotes.newlines, piece.quotes.returns) for piece in pieces]
    counted = text.count("\n") - text.count("\r\n"), text.count("\r") - text.count("\r\n")
    assert tuple(map(sum, zip(*counts, strict=True))) == counted
    assert [piece.header is not None for piece in pieces] == [True] + [False] * (len(pieces) - 1)


def test_line_breaks_are_found_in_the_piece_where_their_line_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,t\n1,x\n2,"a\nb"\n3,y\n')
    (whole,) = facts(path)
    assert (whole.quotes.line_breaks, whole.quotes.state, whole.header) == (1, FIELD_START, b"id,t")
    # The first piece ends with the line of its last byte: inside the quotes.
    first, second = facts(path, 10)
    assert (first.quotes.line_breaks, first.quotes.state) == (1, QUOTED)
    assert second.start == 10


def test_the_header_may_contain_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\n"a\nb",c\n1,2\n')
    assert facts(path)[0].header == b'"a\nb",c'


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    content = b"id,t\n" + b"".join(b'%d,"a\nb"\n' % i for i in range(999))
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes(compress(content))
    first, *others = facts(path, 100, 200)
    assert (first.quotes.line_breaks, first.header) == (999, b"id,t")
    assert all(piece.quotes.line_breaks == 0 and piece.header is None for piece in others)
    path.write_bytes(compress(content)[:-20])
    assert facts(path)[0].unreadable


def test_invalid_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,city\n1,Zürich\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv contains invalid UTF-8, near 'd,city\\n1,Zürich.*encoding"):
        check_facts(facts(path))
    check_facts(facts(path, encoding=None))
    path.write_bytes(b"id,city\n1,Z\xc3")  # ends within a character
    with pytest.raises(DataError, match="invalid UTF-8"):
        check_facts(facts(path))


def test_a_piece_that_begins_within_a_character_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,city\n1,Zürich\n2,Malmö\n".encode())
    for cut in range(1, 25):
        check_facts(facts(path, cut))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a,b\n1,x\0\n", r"contains zero bytes.*UTF-16"),
        ("a,b\n1,x\n".encode("utf-16-le"), r"contains zero bytes.*UTF-16"),
        (b'a,b\n1,"x"y\n', r"has a quote that does not end its value: .*source\.options\.escape"),
        (b'a,b\n1,"x \\" y"\n', r"has a quote that does not end its value"),
        (b'a,b\n1,"x\n2,y\n', r"ends inside quotes.*source\.options\.quote"),
    ],
)
def test_malformed_quotes(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(DataError, match=rf"a\.csv {message}"):
        check_facts(facts(path))
