"""The train job on a ranking: the published files, metrics, summary, report and messages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nfm.config.settings import Config
from nfm.contract.artifact import Artifact
from nfm.contract.dataset import arrange_inputs
from nfm.contract.errors import DataError
from nfm.forward.catalogue import CATALOGUE
from nfm.forward.rows import score
from nfm.forward.sides import divide
from nfm.training.parity import keras_scores
from nfm.training.report.summary import summary
from nfm.training.report.verdict import list_warnings
from nfm.training.result import Trained
from nfm.training.train import read, train
from tests.sides import make_columns
from tests.training.ranking.planted import chains, two_groups, write_ranking


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("ranking")
    model = {"hidden_units": (6,), "batch_norm": True, "embedding_dtype": "float16"}
    config = write_ranking(folder, chains(), history=3, items=("a", "z"), model=model, train={"epochs": 4})
    return train(config)


def test_the_published_files(done: Trained) -> None:
    folder = Path(done.config.workdir)
    model = folder / "model"
    assert (model / CATALOGUE).read_bytes() == (folder / "dataset" / CATALOGUE).read_bytes()
    assert pq.read_table(model / CATALOGUE)["_item"].to_pylist() == sorted(["a", "z", *(f"i{i:02}" for i in range(24))])
    assert not (folder / "checkpoint").exists()
    Artifact.load(model)


def test_scores_equal_those_of_the_keras_model(done: Trained) -> None:
    artifact = Artifact.load(Path(done.config.workdir, "model"))
    spec = artifact.encoding.spec
    columns: dict[str, Any] = {}
    for seed, side in enumerate(divide(spec)):
        columns |= make_columns(side, 300, seed)
    rows = arrange_inputs(spec, columns)
    found = score(spec, artifact.network, artifact.weights, rows)
    assert found.std() > 0
    np.testing.assert_allclose(found, keras_scores(artifact, rows)[:, 0], rtol=1e-5, atol=1e-5)


def test_metrics_have_intervals_and_baselines(done: Trained) -> None:
    metrics = json.loads(Path(done.config.workdir, "model/metadata.json").read_text())["metrics"]
    assert metrics["train"] == {"rows": 400}
    for fold in ("valid", "test"):
        values = metrics[fold]
        assert (values["rows"], values["users"], values["users_without_new_items"]) == (80, 80, 0)
        for key, (low, high) in values["intervals"].items():
            assert low <= values[key] <= high
        assert values["intervals"].keys() >= {f"{name}@{k}" for name in ("hr", "ndcg", "map") for k in (5, 10)}
        assert {"ndcg@10", "coverage@10", "novelty@5"} <= values["popularity"].keys() & values["neighbours"].keys()


def test_the_summary_compares_the_model_with_the_baselines(done: Trained) -> None:
    lines = summary(done).splitlines()
    assert lines[1].split() == ["fold", "rows", "NDCG@10", "HR@10", "recall@10", "MAP@10", "MRR@10", "coverage@10"]
    assert lines[2].split() == ["train", "400", *["–"] * 6]
    names = [line.split()[0] for line in lines[3:7]]
    assert names == ["valid", "test", "popularity", "item-kNN"]
    for line, values in zip(lines[4:6], (done.metrics["test"], done.metrics["test"]["popularity"]), strict=True):
        assert line.split()[-6:] == [
            f"{values[f'{n}@10']:.4f}" for n in ("ndcg", "hr", "recall", "map", "mrr", "coverage")
        ]


def test_the_report(done: Trained) -> None:
    page = Path(done.config.workdir, "model/report.html").read_text()
    for text in ("Quality of the lists", "NDCG by length", "NDCG by activity", "Lists of some users", "item-kNN"):
        assert text in page
    assert "No user was measured" not in page
    assert page.count("<svg") >= 5


def test_a_model_that_has_not_learned_is_compared_with_popularity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every user chooses one of two items next, which are the most popular ones."""
    visits = [(f"u{user:02}", f"i{place}") for user in range(60) for place in range(3)]
    folds: dict[str, Any] = {"train": visits + [(f"v{i % 30:02}", f"z{i % 2}") for i in range(60)]}
    folds |= {
        fold: [(f"u{user:02}", f"z{place}") for user in range(60)] for place, fold in enumerate(("valid", "test"))
    }
    items = tuple(f"k{i:03}" for i in range(200))
    settings = {"epochs": 1, "learning_rate": 1e-7}
    trained = train(write_ranking(tmp_path, folds, items=items, train=settings))
    (warning,) = list_warnings(trained.config, trained.metrics, trained.fitted)
    assert warning.startswith("The model ranks worse than the most popular items: its NDCG is 0.")
    assert "on the valid fold, where the most popular items have" in warning
    assert warning in caplog.text and f"  WARNING   {warning}" in summary(trained)


@pytest.mark.parametrize("kept", [("train",), ("train", "valid"), ("train", "test")], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_without_a_fold(kept: tuple[str, ...], dtype: str, tmp_path: Path) -> None:
    folds = {fold: rows for fold, rows in two_groups().items() if fold in kept}
    settings = {"epochs": 1, "early_stopping": None}
    trained = train(write_ranking(tmp_path, folds, model={"embedding_dtype": dtype}, train=settings))
    assert set(trained.metrics) == set(kept)
    assert [fold for fold, values in trained.metrics.items() if "users" in values] == [f for f in kept if f != "train"]
    summary(trained)
    page = Path(trained.config.workdir, "model/report.html").read_text()
    assert ("No lists were measured." in page) == (kept == ("train",))


def test_a_catalogue_without_an_item_of_the_dataset_is_refused(tmp_path: Path) -> None:
    config: Config = write_ranking(tmp_path, two_groups())
    path = config.dataset_folder / CATALOGUE
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match=r"items.parquet lacks items of the train fold. Run nfm features again."):
        read(config)
    path.unlink()
    with pytest.raises(DataError, match="the catalogue of items, cannot be read"):
        read(config)
