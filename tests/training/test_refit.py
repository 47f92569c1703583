"""`train.refit`: a second training on the train and the valid fold, for the best epoch's number of epochs."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nfm.config.settings import Config
from nfm.config.train import Use
from nfm.contract.artifact import Artifact
from nfm.contract.errors import DataError
from nfm.contract.schema import DATASET_MARKER
from nfm.training import train as job
from nfm.training.data.batches import Fold, join_folds, read_folds
from nfm.training.fit import fit
from nfm.training.report.summary import plan, summary
from nfm.training.result import Trained
from nfm.training.train import read, train
from tests.training.examples import CHECKERBOARD, noise_folds, shop_encoding, small_model, training, write_shop
from tests.training.interrupted import Interrupted
from tests.training.trained import are_same, read_events, weights

# The validation loss rises after some epochs, and the best epoch is neither the first nor the last.
SETTINGS: dict[str, Any] = {
    "epochs": 12,
    "learning_rate": 0.05,
    "average": 0.9,
    "early_stopping": {"patience": 2},
    "schedule": {"kind": "cosine"},
    "checkpoint_seconds": 0.0,
}


def shop(folder: Path, **changes: Any) -> Config:
    return write_shop(folder, shop_encoding(folder / "encoding"), train={**SETTINGS, "refit": True, **changes})


@dataclass(frozen=True)
class Runs:
    """The same training with and without a second one."""

    config: Config
    refitted: Trained
    plain: Trained


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("refit")
    config = shop(folder / "refitted")
    return Runs(config, train(config), train(shop(folder / "plain", refit=False)))


def test_the_published_model_is_fitted_to_the_rows_of_both_folds(runs: Runs, tmp_path: Path) -> None:
    """Compare with an ordinary training on a dataset whose train fold has the files of both folds."""
    best = runs.refitted.fitted.best_epoch
    assert 1 < best < len(runs.plain.fitted.history["loss"])
    folder = Path(runs.config.workdir)
    shutil.copytree(folder / "dataset", tmp_path / "dataset")
    valid = tmp_path / "dataset/fold=valid/part-00000.parquet"
    valid.rename(tmp_path / "dataset/fold=train/part-00001.parquet")
    marker = tmp_path / "dataset" / DATASET_MARKER
    facts = json.loads(marker.read_text())
    marker.write_text(json.dumps({**facts, "rows": {"train": 500, "valid": 0, "test": 100}}))
    spec = runs.refitted.spec
    joined = read_folds(tmp_path / "dataset", spec)
    settings = runs.config.train.model_copy(update={"early_stopping": None})
    fitted = fit(spec, runs.config.model, settings, joined, last_epoch=best)
    fitted.unit.publish(fitted.weights)
    assert are_same(weights(fitted), weights(runs.refitted.fitted))
    published = Artifact.load(folder / "model")
    np.testing.assert_array_equal(published.weights["embedding"], fitted.weights.tables.embedding)
    assert not are_same(weights(fitted), weights(runs.plain.fitted))


def test_the_rates_and_counts_of_the_published_model_are_those_of_both_folds(tmp_path: Path) -> None:
    config = shop(tmp_path, epochs=2)
    config = config.model_copy(update={"model": config.model.model_copy(update={"use": Use()})})
    train(config)
    paths = [tmp_path / f"dataset/fold={fold}/part-00000.parquet" for fold in ("train", "valid")]
    rows = pd.concat([pd.read_parquet(path, columns=["color", "label"]) for path in paths])
    logs, base = np.zeros(6), np.log(rows.label.mean() / (1 - rows.label.mean()))
    rates = np.full(6, base)  # ids 1 and 2 are out-of-vocabulary
    for value in (0, 3, 4, 5):
        own = rows.label[rows.color == value]
        rate = (own.sum() + 20 * rows.label.mean()) / (len(own) + 20)
        logs[value], rates[value] = np.log1p(len(own)), np.log(rate / (1 - rate))
    expected = [(x - x[rows.color].mean()) / x[rows.color].std() for x in (rates, logs)]
    published = Artifact.load(tmp_path / "model").weights["rates"][:6]
    np.testing.assert_allclose(published, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_the_figures_of_the_valid_fold_are_those_of_the_first_training(runs: Runs) -> None:
    metadata, before = (
        json.loads(Path(trained_in, "model/metadata.json").read_text())
        for trained_in in (runs.config.workdir, Path(runs.config.workdir).parent / "plain")
    )
    best = before["best_epoch"]
    assert metadata["metrics"]["valid"] == before["metrics"]["valid"]
    assert metadata["metrics"]["test"] != before["metrics"]["test"]
    assert metadata["metrics"]["train"] != before["metrics"]["train"]
    assert metadata["refit"] == {"folds": ["train", "valid"], "rows": 500, "epochs": best}
    assert before["refit"] is None
    for key in ("best_epoch", "epochs", "rows"):
        assert metadata[key] == before[key]
    assert runs.refitted.fitted.history == runs.plain.fitted.history
    constants = [metrics["metrics"]["test"]["constant"] for metrics in (metadata, before)]
    assert constants[0] == constants[1]
    # The profile's scores are of rows that the published model was not fitted to.
    profiles = [profile for trained in (runs.refitted, runs.plain) if (profile := trained.profile) is not None]
    assert [profile.fold for profile in profiles] == ["test", "valid"]
    assert profiles[0].fields == profiles[1].fields


def test_summary_and_report_say_that_there_were_two_trainings(runs: Runs) -> None:
    best, epochs = runs.refitted.fitted.best_epoch, len(runs.plain.fitted.history["loss"])
    text = summary(runs.refitted)
    assert f"trained again for {best} epochs, the best after {epochs} epochs" in text
    assert (
        "  refit     the model was trained again on the 500 rows of the train and the valid fold; the valid fold's "
        "metrics are those of the first training"
    ) in text.splitlines()
    page = Path(runs.config.workdir, "model/report.html").read_text(encoding="utf-8")
    assert "The metrics of the valid fold are those of the first training’s model" in page
    assert f"Epoch {best} was the best by val_loss. A second training, on the train and the valid fold, had" in page
    assert "The published model was trained on the train and the valid fold" in page
    assert "  refit  " not in summary(runs.plain)
    assert f"the weights of epoch {best} after {epochs} epochs" in summary(runs.plain)
    page = Path(runs.config.workdir).parent.joinpath("plain/model/report.html").read_text(encoding="utf-8")
    assert "second training" not in page


def test_files_of_the_second_training(runs: Runs) -> None:
    folder, best = Path(runs.config.workdir), runs.refitted.fitted.best_epoch
    assert not (folder / "checkpoint").exists()
    assert {step for step, _, _ in read_events(folder / "tensorboard")} == set(
        range(1, 1 + len(runs.plain.fitted.history["loss"]))
    )
    assert {step for step, _, _ in read_events(folder / "tensorboard/refit")} == set(range(1, 1 + best))


def fail(after: int) -> Callable[[Fold, Fold], Fold]:
    """Return a function that joins two folds, whose reading fails after some batches."""

    def join(first: Fold, second: Fold) -> Fold:
        joined = join_folds(first, second)
        broken = Interrupted(joined.spec, joined._row_groups, False, joined.digest)
        broken.__dict__["left"] = [after]
        return broken

    return join


def test_a_second_training_that_failed_is_resumed(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = shop(tmp_path)
    steps = len(runs.plain.fitted.history["loss"]) * 7  # of the first training: batches of 58 of 400 rows
    for after in (0, 11):
        monkeypatch.setattr(job, "join_folds", fail(after))
        with pytest.raises(OSError, match="the disk failed"):
            train(config)
    encoding, folds = read(config)
    text = plan(config, encoding, folds)
    assert "  refit     then again on the train and the valid fold, for the best epoch's number of epochs" in text
    assert f"  resumes   the second training from its checkpoint in {tmp_path}/checkpoint/refit, if its" in text
    monkeypatch.setattr(job, "join_folds", join_folds)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        trained = train(config)
    messages = [record.message for record in caplog.records if record.message.startswith("resuming")]
    assert messages[0].startswith(f"resuming from the checkpoint after {steps} steps")  # finished: not repeated
    assert messages[1] == "resuming from the checkpoint after 11 steps, in epoch 2"  # eight batches of 500 rows
    assert are_same(weights(trained.fitted), weights(runs.refitted.fitted))
    assert trained.metrics == runs.refitted.metrics
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("kept", [True, False])
def test_a_training_that_ends_early_has_the_history_of_the_whole_one(kept: bool) -> None:
    """The schedule refers to the epochs of the settings."""
    folds = noise_folds()
    if not kept:
        folds = {name: Fold(CHECKERBOARD, fold._row_groups, False, fold.digest) for name, fold in folds.items()}
    settings = training(epochs=5, schedule={"kind": "cosine"}, early_stopping=None)
    whole = fit(CHECKERBOARD, small_model(), settings, folds)
    early = fit(CHECKERBOARD, small_model(), settings, folds, last_epoch=3)
    assert early.best_epoch == 3
    assert early.history == {name: values[:3] for name, values in whole.history.items()}


def test_the_start_of_both_trainings_is_the_same_factorization_machine(tmp_path: Path) -> None:
    config = shop(tmp_path, pretrain="fm", epochs=2, learning_rate=1e-30, average=None, optimizer="sgd")
    plain = shop(tmp_path / "plain", pretrain="fm", epochs=2, learning_rate=1e-30, average=None, refit=False)
    plain = plain.model_copy(update={"train": plain.train.model_copy(update={"optimizer": "sgd"})})
    # Nothing is learned after the start.
    tables = [train(chosen).fitted.weights.tables for chosen in (config, plain)]
    np.testing.assert_array_equal(tables[0].embedding, tables[1].embedding)
    assert not (tmp_path / "checkpoint").exists()


def test_a_valid_fold_without_rows_is_refused(tmp_path: Path) -> None:
    config = shop(tmp_path, early_stopping={"monitor": "loss"})
    (tmp_path / "dataset/fold=valid/part-00000.parquet").unlink()
    marker = tmp_path / "dataset" / DATASET_MARKER
    facts = json.loads(marker.read_text())
    marker.write_text(json.dumps({**facts, "rows": {**facts["rows"], "valid": 0}}))
    with pytest.raises(
        DataError, match=r"the valid fold has no rows\. Give it a larger share \(split\.valid\) and run"
    ):
        train(config)
