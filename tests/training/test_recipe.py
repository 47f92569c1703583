"""Defaults of the model that depend on the dataset."""

import json
from pathlib import Path
from typing import Any

import pytest

from nfm.config.recipe import complete
from nfm.config.settings import Config
from nfm.training.train import train
from tests.training.examples import shop_encoding, write_shop


def config(task: str = "binary", **model: Any) -> Config:
    columns = {"key": ("id",), "label": "y", "categorical": {"shop": {}}}
    content = {
        "name": "shop",
        "workdir": "w",
        "source": {"path": "t"},
        "columns": columns,
        "model": {"task": task, **model},
    }
    return Config.model_validate(content)


@pytest.mark.parametrize(
    ("task", "rows", "norm", "penalty"),
    [
        ("binary", 99_999, False, 0.01),
        ("binary", 100_000, True, 0.0),
        ("multiclass", 10, False, 0.01),
        ("regression", 10, True, 0.0),
    ],
)
def test_defaults_by_task_and_rows(task: str, rows: int, norm: bool, penalty: float) -> None:
    model = complete(config(task, l2={"linear": 0.5}, hidden_units=(4,)), rows).model
    assert (model.batch_norm, model.l2.embedding, model.l2.linear, model.hidden_units) == (norm, penalty, 0.5, (4,))


@pytest.mark.parametrize(
    "given",
    [{"batch_norm": True}, {"batch_norm": False}, {"l2": {"embedding": 0}}, {"batch_norm_epsilon": 1e-3}],
)
def test_given_settings_stay(given: dict[str, Any]) -> None:
    assert complete(config(**given), 10) == config(**given)


def test_a_model_records_them_and_a_warm_start_keeps_them(tmp_path: Path) -> None:
    encoding = shop_encoding(tmp_path / "work/encoding")
    settings = {"early_stopping": None, "epochs": 1}
    first = write_shop(tmp_path / "work", encoding, "binary", train=settings)
    plain = first.model_copy(update={"model": type(first.model)(embedding_dim=2, hidden_units=(3,))})
    given = plain.model_copy(update={"model": plain.model.model_copy(update={"batch_norm": True})})
    for expected, before in (((False, 0.01), plain), ((True, 0.0), given)):
        assert train(before).config.model.batch_norm == expected[0]
        recorded = json.loads((before.model_folder / "metadata.json").read_text())["configuration"]["model"]
        assert (recorded["batch_norm"], recorded["l2"]["embedding"]) == expected
        warm = {"train": before.train.model_copy(update={"init_from": str(before.model_folder)})}
        model = complete(plain.model_copy(update=warm), 1_000_000).model
        assert (model.batch_norm, model.l2.embedding) == expected
