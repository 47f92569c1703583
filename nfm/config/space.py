"""Search space of a tuning: `tune.space` of a configuration file, checked before any work."""

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

# Settings that no trial can improve, or that change how trials are judged.
_USELESS = {
    "model.task": "trials of different tasks cannot be compared",
    "model.embedding_dtype": "it only rounds the model after the training",
    "train.group": "it only adds a metric",
    "train.checkpoint_seconds": "it changes no weight",
}


@dataclass(frozen=True)
class Numbers:
    """Range of numbers, both ends included."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def size(self) -> float:
        """Number of values."""
        return self.high - self.low + 1 if self.whole else math.inf


@dataclass(frozen=True)
class Space:
    """Configuration and the settings that a search may change."""

    path: Path | None  # of the configuration file; None: a program made the settings
    content: dict[str, Any]  # of the file, with the changes of the command line
    base: Config  # settings from the content
    settings: Mapping[str, Numbers | tuple[str, ...]]  # range, or values as JSON: Optuna draws no lists

    @property
    def origin(self) -> str:
        """Name of the configuration in messages."""
        return _origin(self.path)

    @property
    def size(self) -> float:
        """Number of combinations."""
        return math.prod(one.size if isinstance(one, Numbers) else len(one) for one in self.settings.values())

    def changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the file's content with these settings, whose values are as in YAML."""
        content = self.content
        for key, value in values.items():
            content = put(content, key, value, f"tune.space of {self.origin}")
        return content

    def config(self, values: Mapping[str, Any]) -> Config:
        """Return the settings with these values; ConfigError if one is invalid, alone or in combination."""
        return checked(self.changed(values), f"{self.origin} with {shown(values) or 'no changes'}")

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Convert drawn values to those of YAML: a JSON text becomes its value."""
        return {key: one if isinstance(self.settings[key], Numbers) else json.loads(one) for key, one in drawn.items()}

    def as_it_is(self) -> dict[str, Any]:
        """Return the draw that gives the unchanged configuration, without settings outside the space."""
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
    """Return the settings in one line."""
    return ", ".join(f"{key} {as_text(value)}" for key, value in values.items())


def as_text(value: Any) -> str:
    """Return a value as in YAML, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def read_space(path: Path | None, content: dict[str, Any]) -> Space:
    """Read the space of a configuration file's content, and check every value.

    A value is valid if the configuration accepts it alone, or together with one other setting of the space: momentum
    needs `optimizer: sgd`. The search skips other invalid combinations. Raises ConfigError if the space is empty, or
    with all invalid settings and values.
    """
    origin = _origin(path)
    base = checked(content, origin)
    space = Space(path, content, base, {})
    if not base.tune.space:
        raise ConfigError(
            f"{origin}: tune.space is empty. Add settings to search, each with a list of values or a range: "
            "tune: {space: {train.learning_rate: {low: 0.01, high: 0.2, log: true}, model.embedding_dim: [16, 64]}}"
        )
    problems = [problem for key in base.tune.space for problem in _key_problems(key, base)]
    if not problems:
        problems = list(_value_problems(space))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(
            f"tune.space of {origin} is invalid:\n{lines}\n"
            "`python -m nfm.config.reference` prints every key with its meaning."
        )
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
        yield f"{key}: remove it from the space: {_USELESS[key]}"
    for other in base.tune.space:
        if key.startswith(f"{other}."):
            yield f"{key}: {other} already includes it: remove one of the two"
    setting = base.tune.space[key]
    if isinstance(setting, tuple):
        if not setting:
            yield f"{key}: [] given; give a list of at least one value, or a range such as {{low: 0.01, high: 0.1}}"
        for i, value in enumerate(setting):
            if any(type(value) is type(earlier) and value == earlier for earlier in setting[:i]):
                yield f"{key}: {as_text(value)} is listed twice"


def _value_problems(space: Space) -> Iterator[str]:
    for key, setting in space.base.tune.space.items():
        for value in _checked_values(setting):
            try:
                _accepted(space, key, value)
            except ConfigError as error:
                first, *others = str(error).splitlines()
                yield from (line.strip() for line in others[:-1] or [first])  # without the first and the last line


def _accepted(space: Space, key: str, value: Any) -> dict[str, Any]:
    """Return this value, together with another setting if the configuration needs one."""
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
    """Return a setting's value; None if its section is null."""
    section: Any = config
    for name in key.split("."):
        section = getattr(section, name, None)
    return section
