"""Search spaces: every invalid setting and value is reported before any work; a written file reads back unchanged."""

from pathlib import Path
from typing import Any

import pytest

from nfm.config.file import as_yaml, load, put, read
from nfm.config.space import Numbers, Space, read_space
from nfm.contract.errors import ConfigError

TEXT = """
name: t
workdir: build/t
source: {path: x, options: {delimiter: "1e-3", date: 2026-10-01}}   # a text that looks like a number
columns: {key: [k], label: y, categorical: {a: {}, b: {}}}
split: {time: day, valid_from: 2026-10-01}
train: &train {optimizer: adam}
"""


def space(folder: Path, settings: str, text: str = TEXT) -> Space:
    path = folder / "t.yaml"
    path.write_text(text.replace(", date: 2026-10-01", ""))
    return read_space(path, read(path, [f"tune.space={settings}"]))


def test_ranges_and_lists(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        "{train.learning_rate: {low: 0.001, high: 1, log: true}, train.clip_norm: {low: 1, high: 10},"
        " model.embedding_dim: {low: 4, high: 64}, model.hidden_units: [[], [8, 4], [128, 128]],"
        " train.optimizer: [sgd, adam], train.early_stopping: [null], model.batch_norm: [false]}",
    )
    assert found.settings == {
        "train.learning_rate": Numbers(0.001, 1, True, whole=False),
        "train.clip_norm": Numbers(1, 10, False, whole=False),  # a length of any size, though both ends are whole
        "model.embedding_dim": Numbers(4, 64, False, whole=True),
        "model.hidden_units": ("[]", "[8, 4]", "[128, 128]"),
        "train.optimizer": ('"sgd"', '"adam"'),
        "train.early_stopping": ("null",),
        "model.batch_norm": ("false",),
    }
    # clip_norm is null, early_stopping is not, and batch_norm is true: they are outside the space
    assert found.as_it_is() == {
        "train.learning_rate": 0.001,
        "model.embedding_dim": 64,
        "model.hidden_units": "[128, 128]",
        "train.optimizer": '"adam"',
    }
    drawn = {"model.hidden_units": "[8, 4]", "train.early_stopping": "null", "train.learning_rate": 0.2}
    config = found.config(found.values(drawn))
    assert config.model.hidden_units == (8, 4)
    assert config.train.early_stopping is None
    assert (config.train.learning_rate, config.train.optimizer) == (0.2, "adam")


def test_values_that_need_another_setting_are_right(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        "{train.momentum: {low: 0.1, high: 0.9}, train.optimizer: [adam, sgd],"
        " model.output: [trained, ones], model.hidden_units: [[], [8]]}",
    )
    assert found.settings["train.momentum"] == Numbers(0.1, 0.9, False, whole=False)
    with pytest.raises(
        ConfigError, match=r"with train\.momentum 0\.5 is invalid:\n  train: momentum is only for optimizer: sgd"
    ):
        found.config({"train.momentum": 0.5})


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ("{}", ["tune.space is empty"]),
        ("{score.model: [a]}", ["score.model: only settings of model and train can be searched"]),
        ("{model.task: [binary, regression]}", ["model.task: remove it from the space: trials of different tasks"]),
        ("{train.epochs: []}", ["train.epochs: [] given; give a list of at least one value"]),
        ("{train.epochs: [3, 5, 3]}", ["train.epochs: 3 is listed twice"]),
        (
            "{train.schedule: [{}], train.schedule.kind: [cosine]}",
            ["train.schedule.kind: train.schedule already includes it"],
        ),
        ("{train.momentum: [0.5]}", ["train: momentum is only for optimizer: sgd, but it is adam"]),
        ("{model.embedding_dim: {low: 4, high: 8.0}}", ["model.embedding_dim: 8.0 given"]),
        ("{model.hidden_units: [64]}", ["model.hidden_units: 64 given; input should be a valid list"]),
        ("{train.optimizer.kind: [a]}", ["optimizer is not a section"]),
        (
            "{train.learning_rate: [0.1, -1, x], model.embeding_dim: [3], model.activation: {low: 0, high: 1}}",
            [
                "train.learning_rate: -1 given; input should be greater than 0",
                "train.learning_rate: 'x' given",
                "model.embeding_dim: unknown key. Did you mean 'embedding_dim'?",
                "model.activation: 0 given; allowed: 'relu'",
            ],
        ),
    ],
)
def test_one_message_lists_all_problems(tmp_path: Path, settings: str, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        space(tmp_path, settings)
    assert [message for message in messages if message not in str(error.value)] == []


def test_a_written_file_reads_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(TEXT.replace(", date: 2026-10-01", "") + "note_é: &x [1e-5, '1e-5', 'null', yes]\nagain: *x\n")
    content = read(path)
    path.write_text(as_yaml(content))
    assert read(path) == content
    assert content["note_é"] == [1e-5, "1e-5", "null", True]
    assert list(read(path)) == list(content)
    assert "&" not in path.read_text()


def test_putting_a_value_changes_nothing_else() -> None:
    shared: dict[str, Any] = {"seed": 1}
    content = {"train": shared, "other": shared}
    assert put(content, "train.schedule.kind", "cosine", "here") == {
        "train": {"seed": 1, "schedule": {"kind": "cosine"}},
        "other": {"seed": 1},
    }
    assert content == {"train": {"seed": 1}, "other": {"seed": 1}}


def test_set_changes_one_section_of_two_that_share_their_text(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: t\nworkdir: w\nsource: &s {path: x}\nscore: {source: *s}\n"
        "columns: {key: [k], label: y, categorical: {a: {}}}\n"
    )
    config = load(path, ["source.path=y"])
    assert config.source.path == "y"
    assert config.score.source is not None
    assert config.score.source.path == "x"
