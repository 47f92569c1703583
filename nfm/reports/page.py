"""The HTML reports of the jobs: one look, every text escaped, pages that need nothing beside them.

page.html.jinja     the frame that a report's template extends: head, style
macros.html.jinja   cells and texts that several of them have
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import jinja2


class Bar(NamedTuple):
    """A rectangle of a picture as it is drawn, and what it tells of itself."""

    x: float
    y: float
    width: float
    height: float
    about: str


def write(path: Path, template: str, content: Mapping[str, Any], **filters: Callable[..., str]) -> None:
    """Write a page.

    Args:
        path: of the page.
        template: its path inside this package.
        content: the template's variables.
        filters: of the template, besides `count`, `number`, `percent` and `compact`.
    """
    environment = _environment()
    environment.filters |= filters
    page = environment.get_template(template).render(content)
    # A path may hold bytes that are no text.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    """One for the process: to compile a template takes a fifth of a second."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nfm", ""),
        autoescape=True,  # values, columns and paths are anybody's texts
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "number": number, "percent": percent, "compact": compact}
    return environment


def moment(created: str | None) -> str:
    """A time in ISO format as people read it, in UTC."""
    if created is None:
        return ""
    time = datetime.fromisoformat(created)
    if time.tzinfo is not None:
        time = time.astimezone(UTC)
    return f"{time:%Y-%m-%d %H:%M} UTC"


def count(value: int | None) -> str:
    """How many, or a dash."""
    return "–" if value is None else f"{value:,}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits, or a dash."""
    return "–" if value is None or not isfinite(value) else f"{value:,.{digits}f}"


def percent(part: float | None, whole: float = 1, digits: int = 1) -> str:
    """A share; what is not quite nothing or all does not look as if it were."""
    if part is None or not whole or not isfinite(part / whole):
        return "–"
    share = part / whole
    least = 10.0 ** -(digits + 2)
    if 0 < share < least:
        return f"<{least:.{digits}%}"
    return f">{1 - least:.{digits}%}" if 1 - least < share < 1 else f"{share:.{digits}%}"


def compact(value: float | None) -> str:
    """A number with the digits that tell most, or a dash."""
    if value is None or not isfinite(value):
        return "–"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e10 else f"{value:,.4g}"
