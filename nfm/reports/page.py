"""HTML reports of the jobs: one style, every text escaped, no other file needed.

page.html.jinja     frame that the template of each report extends: head and style
macros.html.jinja   cells, tables, tiles and charts
data.html.jinja     tables of statistics.json, for the reports of features and of training
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2

_MAX_TEXT = 60  # characters of a text from the user


def write(path: Path, template: str, content: Mapping[str, Any], **filters: Callable[..., Any]) -> None:
    """Render a template, a path inside this package, to a file; `filters` are added to those of `_environment`."""
    environment = _environment()
    environment.filters |= filters
    page = environment.get_template(template).render(content)
    # A path may contain bytes that are not text.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    """Return the process's environment, made once: compiling a template takes a fifth of a second."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nfm", ""),
        autoescape=True,  # users choose values, columns and paths
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (count, number, percent, compact, short, moment)
    environment.filters |= {function.__name__: function for function in formats}
    return environment


def moment(created: str) -> str:
    """Format an ISO time for people, in UTC."""
    time = datetime.fromisoformat(created)
    if time.tzinfo is not None:
        time = time.astimezone(UTC)
    return f"{time:%Y-%m-%d %H:%M} UTC"


def short(value: object, longest: int = _MAX_TEXT) -> str:
    """Format a text on one line, cut after `longest` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def count(value: int | None) -> str:
    """Format a whole number; None is a dash."""
    return "–" if value is None else f"{value:,}"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with fixed digits; None and values that are not finite are a dash."""
    return "–" if value is None or not isfinite(value) else f"{value:,.{digits}f}"


def percent(part: float | None, whole: float = 1, digits: int = 1) -> str:
    """Format a share; None is a dash. A share that is not exactly 0 % or 100 % is not rounded to it."""
    if part is None or not whole or not isfinite(part / whole):
        return "–"
    share = part / whole
    least = 10.0 ** -(digits + 2)
    if 0 < share < least:
        return f"<{least:.{digits}%}"
    return f">{1 - least:.{digits}%}" if 1 - least < share < 1 else f"{share:.{digits}%}"


def compact(value: float | None) -> str:
    """Format a number with four significant digits; None and values that are not finite are a dash."""
    if value is None or not isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e10 else f"{value:,.4g}"
