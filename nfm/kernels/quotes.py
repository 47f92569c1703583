"""Follow the quotes of CSV text, one state per byte, as RFC 4180 and Spark's parser define them.

A quote opens a value only where a field starts; elsewhere outside quotes it is an ordinary character. Inside quotes, a
doubled quote (or the escape character and a quote) is a character. After the closing quote, the field must end.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from nfm.kernels.compile import compile_now

FIELD_START, UNQUOTED, QUOTED, ESCAPED, CLOSED, COMMENT = range(6)
_NEWLINE, _RETURN, _SPACE, _TAB = b"\n\r \t"


class Dialect(NamedTuple):
    """Special bytes of a CSV file; -1: none."""

    delimiter: int = ord(",")
    quote: int = ord('"')
    escape: int = ord('"')  # the quote itself, as in RFC 4180, or another character
    comment: int = -1  # first byte of lines that are ignored
    skips_spaces: int = 0  # 1: spaces before an opening quote are ignored


ENDS_ONLY = Dialect(delimiter=-1, quote=-1, escape=-1)  # of text whose quotes cannot be followed byte by byte


class Quotes(NamedTuple):
    """State after a block of text, and counts of the blocks so far."""

    state: int = FIELD_START
    previous: int = _NEWLINE  # last byte
    line_breaks: int = 0  # inside quotes
    newlines: int = 0  # lines that end in \n
    returns: int = 0  # lines that end in \r
    both: int = 0  # lines that end in \r\n
    malformed: int = -1  # position in the last block of the first byte that must not follow a closing quote; -1: none


def follow_quotes(text: bytes, dialect: Dialect, before: Quotes | None = None) -> Quotes:
    r"""Return how the quotes of a block continue, given the result for the block before it.

    Example:
        follow_quotes(b'1,"a\nb"\n', Dialect()).line_breaks  # 1
    """
    before = before or Quotes()
    result = np.array(before._replace(malformed=-1), np.int64)
    _compiled()(np.frombuffer(text, np.uint8), *dialect, result)
    return Quotes(*result.tolist())


@cache
def _compiled() -> Any:
    number = types.int64
    text = types.Array(types.uint8, 1, "C", readonly=True)
    return compile_now(types.void(text, *[number] * len(Dialect._fields), types.Array(number, 1, "C")), _follow)


def _follow(text: Any, delimiter: int, quote: int, escape: int, comment: int, skips_spaces: int, result: Any) -> None:
    state, previous, breaks, newlines, returns, both, malformed = result
    for i in range(len(text)):
        byte = np.int64(text[i])
        if state == QUOTED:
            if byte == quote:
                state = CLOSED
            elif byte == escape:
                state = ESCAPED
            else:
                breaks += byte in (_NEWLINE, _RETURN)
        elif state == ESCAPED:
            state = QUOTED
            breaks += byte in (_NEWLINE, _RETURN)
        elif byte == _NEWLINE:
            is_second = previous == _RETURN and state == FIELD_START
            both, returns, newlines = both + is_second, returns - is_second, newlines + 1 - is_second
            state = FIELD_START
        elif byte == _RETURN:
            returns, state = returns + 1, FIELD_START
        elif state == FIELD_START and byte == comment and previous in (_NEWLINE, _RETURN):
            state = COMMENT
        elif state == COMMENT:
            pass
        elif byte == delimiter:
            state = FIELD_START
        elif state == CLOSED:
            if byte == quote and escape == quote:
                state = QUOTED
            elif byte not in (_SPACE, _TAB):
                if malformed < 0:
                    malformed = i
                state = UNQUOTED
        elif state == FIELD_START:
            if byte == quote:
                state = QUOTED
            elif not skips_spaces or byte not in (_SPACE, _TAB):
                state = UNQUOTED
        previous = byte
    result[0], result[1], result[2], result[3] = state, previous, breaks, newlines
    result[4], result[5], result[6] = returns, both, malformed
