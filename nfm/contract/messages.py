"""Phrases that messages share: shortened values, lists, differences, hints."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

CORRECT_ROWS = "Correct them, or leave such rows out with source.where."
_LONGEST = 60  # characters of a value
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Difference(NamedTuple):
    """A setting that has changed."""

    name: str  # dotted: train.seed
    was: Any  # None: not set
    now: Any

    def __str__(self) -> str:
        """`train.seed was 1 and is 2 now`; of digests, only the name says anything."""
        if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (self.was, self.now)):
            return self.name
        was, now = ("not set" if value is None else shown(value) for value in (self.was, self.now))
        return f"{self.name} was {was} and is {now} now"


def differences(then: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[Difference]:
    """Compare two nested mappings; yield each value that differs, in the order of their keys.

    Example:
        list(differences({"train": {"seed": 1}}, {"train": {"seed": 2}}))  # [Difference("train.seed", 1, 2)]
    """
    for key in {**then, **now}:
        was, is_ = then.get(key), now.get(key)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            yield from differences(was, is_, f"{above}{key}.")
        elif was != is_:
            yield Difference(f"{above}{key}", was, is_)


def listed(items: Iterable[Any], separator: str = ", ", most: int = 5) -> str:
    """The first items and the number of others: `a, b and 3 more`."""
    texts = [str(item) for item in items]
    return separator.join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


def quoted(value: object) -> str:
    """A value of the user's data: a text in quotes, a number or a list as Python writes it; shortened."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}…"
    return _short(repr(value))


def shown(value: Any) -> str:
    """A setting's value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple) and len(text) > _LONGEST:
        return f"[{listed(map(json.dumps, value))}]"
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def did_you_mean(wrong: Iterable[str], known: Sequence[str]) -> str:
    """`Did you mean 'a'?`, for the names that are close to one that is known; else an empty text."""
    small = {name.casefold(): name for name in known}
    close = dict.fromkeys(small[one] for name in wrong for one in get_close_matches(name.casefold(), small, n=1))
    return f"Did you mean {', '.join(map(repr, close))}?" if close else ""


def was_replaced(folder: object, what: str, found: str, expected: str) -> str:
    """An encoding or a model has another fingerprint than when the job began."""
    return (
        f"{folder} contains another {what} than when the job began: {found[:12]}… instead of {expected[:12]}…. "
        "Run the job again when the new one is complete."
    )
