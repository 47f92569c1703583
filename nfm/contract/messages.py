"""Parts of messages: shortened values, lists, differences, hints."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

CORRECT_ROWS = "Correct them, or leave such rows out with source.where."
_MAX_LENGTH = 60  # characters of a value
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Difference(NamedTuple):
    """A setting that has changed."""

    name: str  # dotted: train.seed
    was: Any  # None: not set
    now: Any

    def __str__(self) -> str:
        """Return `train.seed was 1 and is 2 now`; only the name for digests, which are not readable."""
        if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (self.was, self.now)):
            return self.name
        was, now = ("not set" if value is None else shown(value) for value in (self.was, self.now))
        return f"{self.name} was {was} and is {now} now"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    """Compare two nested mappings; yield each value that differs, in the order of their keys.

    Example:
        list(differences({"train": {"seed": 1}}, {"train": {"seed": 2}}))  # [Difference("train.seed", 1, 2)]
    """
    for key in {**old, **new}:
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield Difference(f"{prefix}{key}", was, now)


def listed(items: Iterable[Any], separator: str = ", ", most: int = 5) -> str:
    """Return the first items and the number of the others: `a, b and 3 more`."""
    texts = [str(item) for item in items]
    return separator.join(texts[:most]) + (f" and {len(texts) - most:,} more" if len(texts) > most else "")


def quoted(value: object) -> str:
    """Format a value of the user's data as Python does, shortened."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_LENGTH else f"{value[:_MAX_LENGTH]!r}…"
    return _short(repr(value))


def shown(value: Any) -> str:
    """Format a setting's value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple) and len(text) > _MAX_LENGTH:
        return f"[{listed(map(json.dumps, value))}]"
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}…"


def did_you_mean(wrong: Iterable[str], known: Sequence[str]) -> str:
    """Return `Did you mean 'a'?` for names that are similar to a known one; else an empty text."""
    folded = {name.casefold(): name for name in known}
    close = dict.fromkeys(folded[match] for name in wrong for match in get_close_matches(name.casefold(), folded, n=1))
    return f"Did you mean {', '.join(map(repr, close))}?" if close else ""
