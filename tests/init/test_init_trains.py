"""A configuration that nfm init wrote trains and scores unedited."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import nfm
from nfm.config.file import load
from nfm.init.command import configure
from tests.forks import Forks

N = 1_200


@pytest.fixture(scope="module")
def folder(spark: SparkSession, trainings: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results for a table with ids, dates, free text, a list, nulls, a copy of the label, and unusual names."""
    folder, rng = tmp_path_factory.mktemp("init"), np.random.default_rng(5)
    lines = ["Order ID;placed at;customer.no;Größe;tags;note;weight;#returns;churned?;score"]
    for i in range(N):
        size = rng.choice(["S", "M", "L"])
        tags = "|".join(rng.choice(["new", "sale", "gift"], rng.integers(1, 4), replace=False))
        label = int((size == "S") ^ (rng.random() < 0.1))
        weight = "NA" if i % 9 == 0 else f"{rng.lognormal(1, 2):.3f}"
        note = " ".join(rng.choice(["please", "ring", "twice;", "leave", "at", "the", "door"], 8))
        known = "NA" if i % 50 == 0 else label
        text = {"NA": "NA", 1: "good", 0: "bad"}[known]
        day = f"2026-{1 + i * 12 // N:02}-{1 + i % 28:02} 10:{i % 60:02}"
        lines.append(f'o-{i};{day};{rng.integers(100, 180)};{size};{tags};"{note}";{weight};{i % 4};{text};{known}')
    (folder / "orders.csv").write_text("\n".join(lines) + "\n")
    text, _, _ = configure(folder / "orders.csv", "score")
    (folder / "orders.yaml").write_text(text)
    path, workdir = folder / "orders.yaml", f"workdir={folder / 'work'}"
    config = nfm.load_config(path, [workdir])
    nfm.build_features(config, spark)
    trained = trainings.run("train", "--config", str(path), "--set", workdir, "train.epochs=20")
    assert trained.returncode == 0, trained.stderr
    nfm.score_table(config, spark)
    return folder


def test_the_roles_fit_the_columns(folder: Path) -> None:
    columns = load(folder / "orders.yaml").columns
    assert (columns.key, columns.label) == (("Order ID",), "score")
    assert columns.time == {"placed at": ("weekday",)}
    assert set(columns.categorical) == {"customer.no", "Größe", "tags", "#returns", "placed at_weekday"}
    assert columns.categorical["tags"].bag
    assert {name: number.column for name, number in columns.numeric.items()} == {"weight_value": "weight"}


def test_the_model_learns_from_the_rows_with_a_label(folder: Path) -> None:
    metadata = json.loads((folder / "work/model/metadata.json").read_text())
    assert metadata["metrics"]["test"]["auc"] > 0.7
    assert sum(metadata["rows"].values()) == N - N // 50


def test_every_row_is_scored(folder: Path) -> None:
    scores = pq.read_table(next((folder / "work/scores").glob("*.parquet")))
    assert sorted(scores["Order ID"].to_pylist()) == sorted(f"o-{i}" for i in range(N))
