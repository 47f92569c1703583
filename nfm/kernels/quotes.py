"""Follow the quotes of CSV text, one state per byte, as RFC 4180 and Spark's parser define them.

A quote opens a value only where a field starts; elsewhere outside quotes it is an ordinary character. Inside quotes, a
doubled quote (or the escape character and a quote) is a character. After the closing quote, the field must end.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types

from nfm.kernels.compile import compile_now

FIELD_START, UNQUOTED, QUOTED, ESCAPED, CLOSED = range(5)
_NEWLINE, _RETURN, _SPACE, _TAB = b"\n\r \t"


class Dialect(NamedTuple):
    """Special bytes of a CSV file; -1: none."""

    delimiter: int
    quote: int
    escape: int  # the quote itself, as in RFC 4180, or another character
    skips_spaces: int  # 1: spaces before an opening quote are ignored


class Quotes(NamedTuple):
    """Result for a block of text."""

    state: int  # after the last byte
    line_breaks: int  # inside quotes
    malformed: int  # position of the first byte that must not follow a closing quote; -1: none


def follow_quotes(text: bytes, dialect: Dialect, state: int = FIELD_START) -> Quotes:
    r"""Return how the quotes of a block continue, given the state before its first byte.

    Example:
        follow_quotes(b'1,"a\nb"\n', Dialect(ord(","), ord('"'), ord('"'), 0)).line_breaks  # 1
    """
    result = np.array([state, 0, -1], np.int64)
    _compiled()(np.frombuffer(text, np.uint8), *dialect, result)
    return Quotes(*result.tolist())


@cache
def _compiled() -> Any:
    number = types.int64
    text = types.Array(types.uint8, 1, "C", readonly=True)
    return compile_now(types.void(text, number, number, number, number, types.Array(number, 1, "C")), _follow)


def _follow(text: Any, delimiter: int, quote: int, escape: int, skips_spaces: int, result: Any) -> None:
    state, breaks, malformed = result
    for i in range(len(text)):
        byte = text[i]
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
        elif byte in (delimiter, _NEWLINE, _RETURN):
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
    result[0], result[1], result[2] = state, breaks, malformed
