"""The generated reference of the settings: complete, valid, and not stale."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nfm.config.columns import Categorical, Numeric
from nfm.config.file import load
from nfm.config.reference import MARKER, reference_tables, reference_yaml
from nfm.config.score import Score
from nfm.config.settings import Config
from nfm.config.split import Dataset, Split
from nfm.config.train import Ftrl, Model, Range, Schedule, Train, Tune

ROOT = Path(__file__).parents[2]
YAML = ROOT / "conf/reference.yaml"
STALE = "stale: run `make reference`"


def keys(settings: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in settings.model_fields.items()}


def inner(field: FieldInfo) -> Iterator[type[BaseModel]]:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


def sections(settings: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield settings
    for field in settings.model_fields.values():
        for kind in inner(field):
            yield from sections(kind)


def test_the_files_are_those_that_the_settings_give() -> None:
    assert YAML.read_text() == reference_yaml(), STALE
    before, marker, tables = (ROOT / "docs/configuration.md").read_text().partition(MARKER)
    assert before
    assert marker
    assert tables == reference_tables(), STALE


def test_every_key_is_described() -> None:
    """The text below it, or for a key that is a section the docstring of its class."""
    every: list[type[BaseModel]] = [Range, *sections(Config)]
    for section in every:
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description or list(inner(field)), f"{section.__name__}.{name}: no text below it"


def test_the_yaml_has_every_key_with_its_default() -> None:
    """Sections that name columns show all keys of one entry."""
    content = yaml.safe_load(YAML.read_text())
    assert content.keys() == keys(Config)
    for name in ("source", "columns", "split", "dataset", "model", "train", "tune", "score"):
        section = Config.model_fields[name].annotation
        assert isinstance(section, type)
        assert content[name].keys() == keys(section)
    assert content["columns"]["categorical"]["Cabin"].keys() == keys(Categorical)
    assert content["columns"]["numeric"]["Age"].keys() == keys(Numeric)
    assert content["train"]["schedule"].keys() == keys(Schedule)
    stated = load(YAML)
    defaults = {
        "split": Split(),
        "dataset": Dataset(),
        "model": Model(),
        "train": Train(),
        "tune": Tune(),
        "score": Score(),
    }
    assert {name: getattr(stated, name) for name in defaults} == defaults
    assert stated.columns.categorical["Cabin"] == Categorical()
    assert stated.columns.numeric["Age"] == Numeric.model_validate({})


def test_the_yaml_shows_examples_where_the_default_says_nothing() -> None:
    text = re.sub(r"\n *# ", " ", YAML.read_text())  # join the lines of a comment
    for section, shown in ((Ftrl, "{learning_rate: 0.1, l1: 0, l2: 0}"), (Range, "{low: 0.001, high: 0.1, log: true}")):
        assert shown in text
        assert yaml.safe_load(shown).keys() == keys(section)
    assert Ftrl.model_validate(yaml.safe_load("{learning_rate: 0.1, l1: 0, l2: 0}")) == Ftrl()


def test_a_table_shows_types_limits_and_choices() -> None:
    tables = reference_tables()
    assert "| `embedding_dim` | `64` | integer ≥ 1 | Size K of an embedding. |" in tables
    assert "| `optimizer` | `adam` | `adagrad`, `adam`, `sgd` |" in tables
    assert "| `pooling_dropout` | `0.5` | number ≥ 0 and < 1 |" in tables
    assert "| `key` | required | list of string |" in tables
    assert "| `as` | `bins` | `dense`, `field`, `bins` |" in tables
    assert "log(1 + \\|x\\|)" in tables  # a bare | would end the cell
    for section in sections(Config):
        for name, field in section.model_fields.items():
            assert f"| `{field.alias or name}` |" in tables
