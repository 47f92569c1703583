"""Quotes in CSV text against Python's csv module."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nfm.kernels.quotes import CLOSED, FIELD_START, QUOTED, UNQUOTED, Dialect, follow_quotes

RFC = Dialect()
BACKSLASH = RFC._replace(escape=ord("\\"))


def outcome(text: bytes, dialect: Dialect = RFC) -> tuple[int, int, int]:
    found = follow_quotes(text, dialect)
    return found.state, found.line_breaks, found.malformed


@pytest.mark.parametrize(
    ("text", "state", "line_breaks", "malformed"),
    [
        (b"", FIELD_START, 0, -1),
        (b"1,a\n", FIELD_START, 0, -1),
        (b"1,a", UNQUOTED, 0, -1),
        (b'1,"a"', CLOSED, 0, -1),
        (b'1,"a', QUOTED, 0, -1),
        (b'1,"a\nb"\n', FIELD_START, 1, -1),
        (b'1,"a\r\nb"\n', FIELD_START, 2, -1),
        (b'1,"a ""q"" b",""\n', FIELD_START, 0, -1),
        (b'1,5" pipe,"a\nb"\n', FIELD_START, 1, -1),  # a quote within an unquoted value is a character
        (b'1,"a"b\n', FIELD_START, 0, 5),
        (b'1,"a" ,2\n', FIELD_START, 0, -1),
        (b'1, "a,b"\n', FIELD_START, 0, -1),
        (b"1;a\rb", UNQUOTED, 0, -1),
    ],
)
def test_states(text: bytes, state: int, line_breaks: int, malformed: int) -> None:
    assert outcome(text) == (state, line_breaks, malformed)


def test_an_escape_character() -> None:
    assert outcome(b'1,"a \\" \n b"\n', BACKSLASH) == (FIELD_START, 1, -1)
    assert outcome(b'1,"C:\\\\"\n', BACKSLASH) == (FIELD_START, 0, -1)
    assert follow_quotes(b'1,"a \\" b"\n', RFC).malformed >= 0


def test_spaces_before_a_quote() -> None:
    text = b'1, "a\nb"\n'
    assert follow_quotes(text, RFC).line_breaks == 0
    assert follow_quotes(text, RFC._replace(skips_spaces=1)).line_breaks == 1


def test_no_quotes() -> None:
    assert outcome(b'1,"a\n2,b"\n', RFC._replace(quote=-1, escape=-1)) == (FIELD_START, 0, -1)


VALUES = st.text(st.sampled_from('ab,"\n\r é😀'), max_size=6)


@given(st.lists(st.lists(VALUES, min_size=2, max_size=4), max_size=6), st.booleans())
@example([['"', "\n"]], False)
def test_text_of_the_csv_module(rows: list[list[str]], quote_all: bool) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL, lineterminator="\r\n").writerows(rows)
    found = outcome(text.getvalue().encode())
    breaks = sum(value.count("\n") + value.count("\r") for row in rows for value in row)
    assert found == (FIELD_START, breaks, -1)


@given(st.lists(st.lists(VALUES, min_size=2, max_size=3), max_size=5), st.integers(0, 200))
def test_blocks_continue_each_other(rows: list[list[str]], cut: int) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    whole = text.getvalue().encode()
    first = follow_quotes(whole[:cut], RFC)
    assert follow_quotes(whole[cut:], RFC, first) == follow_quotes(whole, RFC)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (b"a,b\n1,2\n", (2, 0, 0)),
        (b"a,b\r1,2\r", (0, 2, 0)),
        (b'a,"x\ny"\r\n1,"2"\r\n3,\r\n', (0, 0, 3)),
        (b'a,"x\r\ny"\n1,2\r\n3,4\r5,6', (1, 1, 1)),
        (b"a\n\nb\r\n\r\n", (2, 0, 2)),
    ],
)
def test_line_ends(text: bytes, ends: tuple[int, int, int]) -> None:
    found = follow_quotes(text, RFC)
    assert (found.newlines, found.returns, found.both) == ends


def test_comments() -> None:
    text = b'# a "quote\na,b\n1,#"x\n#"\n2,"#\n"\n'
    assert outcome(text, RFC._replace(comment=ord("#"))) == (FIELD_START, 1, -1)
