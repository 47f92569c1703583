"""Event files for TensorBoard have the values of each epoch once, in fresh and in resumed trainings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfm.training.fit import Places, fit
from tests.training.examples import CHECKERBOARD, noise_folds, small_model, training
from tests.training.trained import read_events


def test_event_files_have_the_values_of_each_epoch(tmp_path: Path) -> None:
    settings, logs = training(early_stopping=None, epochs=2), tmp_path / "tensorboard"
    for _ in range(2):  # a fresh training deletes earlier event files
        fitted = fit(CHECKERBOARD, small_model(), settings, noise_folds(), Places(logs=logs))
        expected = {
            (i + 1, name, float(np.float32(v))) for name, vs in fitted.history.items() for i, v in enumerate(vs)
        }
        assert {name for _, name, _ in expected} >= {"loss", "learning_rate", "val_loss", "val_auc"}
        found = read_events(logs)
        assert (set(found), len(found)) == (expected, len(expected))


def test_a_folder_that_cannot_be_written_to_does_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    fit(CHECKERBOARD, small_model(), training(epochs=1), noise_folds(), Places(logs=tmp_path / "file/tensorboard"))
    assert "events for TensorBoard cannot be written to" in caplog.text


def test_a_resumed_training_adds_to_the_event_files(tmp_path: Path) -> None:
    class EndedError(Exception):
        """Represents any error that ends a process."""

    def end_after(epoch: int, _: Any) -> None:
        if epoch == 2:
            raise EndedError

    settings = training(early_stopping=None, epochs=3)
    places = Places(tmp_path / "checkpoint", tmp_path / "tensorboard")
    with pytest.raises(EndedError):
        fit(CHECKERBOARD, small_model(), settings, noise_folds(), places, each_epoch=end_after)
    fitted = fit(CHECKERBOARD, small_model(), settings, noise_folds(), places)
    found = [(step, value) for step, name, value in read_events(tmp_path / "tensorboard") if name == "val_loss"]
    assert found == [(i + 1, float(np.float32(value))) for i, value in enumerate(fitted.history["val_loss"])]
