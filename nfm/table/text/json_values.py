"""Find values of JSON that Spark ignores: it reads the first of a line, or of a file with `multiLine`."""

import json
import re
from typing import Literal

from nfm.contract.messages import quoted

Layout = Literal["lines", "document"]
# A brace closes, and neither a key nor the end of an array or object follows: only then is a line parsed here, too.
_MAY_BE_SECOND = re.compile(rb'\}\s*(,\s*[^\s"\]}]|[^\s,\]}])')
_ADVICE = {
    "lines": "one line has several values of JSON: {}. Spark would read the first only. Write one object per line, or "
    "set source.options.multiLine: true if the file is an array",
    "document": "with source.options.multiLine, it has text after its first value of JSON: {}. Spark would read the "
    "first only. Write one array, or one object per line and remove source.options.multiLine",
}


def find_second_value(text: bytes, layout: Layout) -> str | None:
    """Return a problem, as a clause, if there is text after the first value; text that is not JSON is left to Spark."""
    for line in [text] if layout == "document" else text.split(b"\n"):
        if not _MAY_BE_SECOND.search(line):
            continue
        characters = line.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
        try:
            _, end = json.JSONDecoder().raw_decode(characters)
        except (ValueError, RecursionError):
            continue
        if rest := characters[end:].strip(" \t\r\n,"):
            return "cannot be read completely: " + _ADVICE[layout].format(quoted(rest))
    return None
