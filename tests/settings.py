"""A small configuration, and the messages for configurations that are refused."""

from pathlib import Path

import pytest

from nfm.config.file import load
from nfm.contract.errors import ConfigError

MINIMAL = """
name: titanic
workdir: build/titanic
source: {path: titanic.csv}
columns:
  key: [PassengerId]
  label: Survived
  categorical: {Sex: , Cabin: {min_count: 2}}
  numeric: {Age: {}}
"""


def message(file: Path, *changes: str) -> str:
    """Return the message for a configuration that is refused."""
    with pytest.raises(ConfigError) as refused:
        load(file, changes)
    assert refused.value.exit_code == 2
    return str(refused.value)


def problems(file: Path, *changes: str) -> list[str]:
    """Return the problems in that message, one line for each."""
    first, *lines, last = message(file, *changes).splitlines()
    keys = ", ".join(change.split("=")[0] for change in changes)
    assert first == (f"{file} with --set of {keys} is invalid:" if changes else f"{file} is invalid:")
    assert last == "`python -m nfm.config.reference` prints every key with its meaning."
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]
