"""The settings that a search may change: `tune.space` of a configuration file, checked before any work."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfm.config.file import checked, put
from nfm.config.settings import Config
from nfm.config.train import Range
from nfm.contract.errors import ConfigError

# Settings that change nothing a search could see, or what its trials are judged by.
_USELESS = {
    "model.task": "trials of different tasks cannot be compared",
    "model.embedding_dtype": "it rounds the artifact, after the training",
    "train.group": "it only adds a metric",
    "train.checkpoint_seconds": "it changes no weight",
}


@dataclass(frozen=True)
class Numbers:
    """A range of numbers, both ends included."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def size(self) -> float:
        """How many numbers there are."""
        return self.high - self.low + 1 if self.whole else math.inf


@dataclass(frozen=True)
class Space:
    """A configuration, and which of its settings may change."""

    path: Path | None  # of the file; None: a program has made the settings
    content: dict[str, Any]  # the file's, with the command line's changes
    base: Config  # what they make
    settings: Mapping[str, Numbers | tuple[str, ...]]  # a range; or values as JSON, because a search draws no lists

    @property
    def origin(self) -> str:
        """Name of the configuration in messages."""
        return _origin(self.path)

    @property
    def size(self) -> float:
        """How many combinations there are."""
        return math.prod(one.size if isinstance(one, Numbers) else len(one) for one in self.settings.values())

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The file's content with these settings in place; values as in YAML."""
        content = self.content
        for key, value in values.items():
            content = put(content, key, value, f"tune.space of {self.origin}")
        return content

    def config(self, values: Mapping[str, Any]) -> Config:
        """The settings with these values; ConfigError if they are refused, perhaps only in combination."""
        return checked(self.changed(values), f"{self.origin} with {shown(values) or 'nothing changed'}")

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Drawn values as in YAML: JSON text becomes the value that it stands for."""
        return {key: one if isinstance(self.settings[key], Numbers) else json.loads(one) for key, one in drawn.items()}

    def as_it_is(self) -> dict[str, Any]:
        """Return what a search would draw for the unchanged configuration, without settings outside the space."""
        base = self.base.model_dump()
        drawn: dict[str, Any] = {}
        for key, setting in self.settings.items():
            if isinstance(setting, Numbers):
                now = _now(self.base, key)
                if isinstance(now, int | float) and setting.low <= now <= setting.high:
                    drawn[key] = now
            else:
                for text in setting:
                    with suppress(ConfigError):
                        if self.config({key: json.loads(text)}).model_dump() == base:
                            drawn[key] = text
                            break
        return drawn


def shown(values: Mapping[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{key} {as_text(value)}" for key, value in values.items())


def as_text(value: Any) -> str:
    """A value as in YAML; drawn numbers in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def read_space(path: Path | None, content: dict[str, Any]) -> Space:
    """Read the space of a configuration file's content, and check every value.

    A value is right if the configuration accepts it alone, or together with one other setting of the space: momentum
    needs `optimizer: sgd`. The search leaves out other combinations that are refused. Raises ConfigError if the space
    is empty, or with every setting and value that cannot be.
    """
    origin = _origin(path)
    base = checked(content, origin)
    space = Space(path, content, base, {})
    if not base.tune.space:
        raise ConfigError(
            f"{origin}: tune.space names no setting to search. Give it some, with a list of values or a range each: "
            "tune: {space: {train.learning_rate: {low: 0.01, high: 0.2, log: true}, model.embedding_dim: [16, 64]}}"
        )
    problems = [problem for key in base.tune.space for problem in _key_problems(key, base)]
    if not problems:
        problems = list(_value_problems(space))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"tune.space of {origin} is refused:\n{lines}\nconf/reference.yaml explains every key.")
    settings: dict[str, Numbers | tuple[str, ...]] = {}
    for key, setting in base.tune.space.items():
        if isinstance(setting, Range):
            whole = isinstance(_now(space.config(_accepted(space, key, setting.low)), key), int)
            settings[key] = Numbers(setting.low, setting.high, setting.log, whole)
        else:
            settings[key] = tuple(map(json.dumps, setting))
    return Space(path, content, base, settings)


def _origin(path: Path | None) -> str:
    return "the configuration" if path is None else str(path)


def _key_problems(key: str, base: Config) -> Iterator[str]:
    if not key.startswith(("model.", "train.")):
        yield f"{key}: only settings of model and train can be searched: model.embedding_dim, train.learning_rate, …"
    elif key in _USELESS:
        yield f"{key}: leave it out of the space: {_USELESS[key]}"
    for other in base.tune.space:
        if key.startswith(f"{other}."):
            yield f"{key}: {other} has it among its values already: leave out one of the two"
    setting = base.tune.space[key]
    if isinstance(setting, tuple):
        if not setting:
            yield f"{key}: [] given; a list of at least one value, or a range such as {{low: 0.01, high: 0.1}}"
        for i, value in enumerate(setting):
            if any(type(value) is type(earlier) and value == earlier for earlier in setting[:i]):
                yield f"{key}: {as_text(value)} stands twice"


def _value_problems(space: Space) -> Iterator[str]:
    for key, setting in space.base.tune.space.items():
        for value in _checked_values(setting):
            try:
                _accepted(space, key, value)
            except ConfigError as error:
                first, *others = str(error).splitlines()
                yield from (line.strip() for line in others[:-1] or [first])  # the first and the last say where


def _accepted(space: Space, key: str, value: Any) -> dict[str, Any]:
    """This value, and another setting that the configuration may need with it."""
    others = (
        {other: choice}
        for other, setting in space.base.tune.space.items()
        if other != key
        for choice in _checked_values(setting)
    )
    try:
        space.config({key: value})
        return {key: value}
    except ConfigError:
        for other in others:
            try:
                space.config({**other, key: value})
                return {**other, key: value}
            except ConfigError:
                pass
        raise


def _checked_values(setting: Range | tuple[Any, ...]) -> tuple[Any, ...]:
    return (setting.low, setting.high) if isinstance(setting, Range) else setting


def _now(config: Config, key: str) -> Any:
    """A setting's value; None where its section is switched off."""
    section: Any = config
    for name in key.split("."):
        section = getattr(section, name, None)
    return section
