"""Warnings of a training, in its log, summary and report: worse than a constant, too few epochs, overfitting."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfm.config.settings import Config
from nfm.training.metrics.tally import make_tally
from nfm.training.report.summary import summary
from nfm.training.report.verdict import warn_if_overfitting, warn_if_still_learning, warn_if_worse_than_constant
from nfm.training.train import train
from tests.training.examples import shop_encoding, write_shop

# Errors of constant predictions of the labels 0 and 4, whose mean is 2: RMSE 2 for the constant.
LABELS = np.array([0.0, 4, 0, 4], np.float32)


def config_of(task: str = "regression", **changes: Any) -> Config:
    columns = {"key": ("k",), "label": "y", "categorical": {"a": {}}}
    model = {"task": task, **changes.pop("model", {})}
    settings = {"name": "tiny", "workdir": "w", "source": {"path": "raw"}, "columns": columns, "model": model}
    return Config.model_validate({**settings, "train": changes})


def measured(error: float | None, weight: float = 1.0) -> dict[str, Any]:
    """Return metrics of predictions that are `error` from each label; of an empty fold for None."""
    tally = make_tally("regression", (), (2.0,))
    label = LABELS if error is not None else LABELS[:0]
    predicted = (label + (error or 0.0))[:, np.newaxis]
    tally.add(label, np.full(len(label), weight), predicted, predicted)
    return tally.metrics()


def test_a_model_is_compared_with_the_constant_on_the_valid_and_test_fold() -> None:
    def warn(train: float, valid: float | None, test: float | None, **changes: Any) -> str | None:
        metrics = {"train": measured(train), "valid": measured(valid), "test": measured(test)}
        return warn_if_worse_than_constant(config_of(**changes), metrics)

    assert warn(1.9, 1.9, 2.0) is None
    assert warn(9, None, None) is None
    assert warn_if_worse_than_constant(config_of(), {"train": measured(9)}) is None
    overfitted = warn(0.1, 2.5, 1.5) or ""
    assert "a constant, the train fold's mean label: its RMSE is 2.5 on the valid fold, where the constant has 2." in (
        overfitted
    )
    assert "test fold" not in overfitted
    assert "Lower model.embedding_dim (it is 64)" in overfitted
    assert "Set train.early_stopping" not in overfitted
    assert "Set train.early_stopping" in (warn(0.1, 2.5, 1.5, early_stopping=None) or "")
    diverged = warn(9, None, 9) or ""
    assert "9 on the test fold, where the constant has 2." in diverged
    assert "Change train.learning_rate (it is 0.001;" in diverged
    assert "standardize_label" not in diverged
    assert "Set model.standardize_label: true" in (warn(9, 9, 9, model={"standardize_label": False}) or "")
    assert "Leave train.init_from out" in (warn(9, 9, 9, init_from="old") or "")


def test_folds_without_weight_or_with_one_label_are_not_compared() -> None:
    metrics = {"train": measured(0.1), "valid": measured(9, weight=0.0)}
    assert warn_if_worse_than_constant(config_of(), metrics) is None
    tally = make_tally("binary", (), (1.0,))
    tally.add(np.ones(3), np.ones(3), np.full((3, 1), 4.0), np.zeros((3, 1)))  # worse than a certain 1
    ones = tally.metrics()
    assert warn_if_worse_than_constant(config_of("binary"), {"train": ones, "valid": ones}) is None


def test_the_constant_of_classes_is_their_shares() -> None:
    tally = make_tally("multiclass", ("x", "y"), (0.75, 0.25))
    tally.add(np.array([0, 0, 0, 1]), np.ones(4), np.array([[0.0, 3.0]] * 4), np.zeros((4, 2)))
    metrics = {"train": tally.metrics(), "valid": tally.metrics()}
    text = warn_if_worse_than_constant(config_of("multiclass", class_weights="balanced"), metrics) or ""
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    model = np.log(1 + np.exp(3)) - 0.25 * 3
    assert f"class shares: its log loss is {model:.6g} on the valid fold, where the constant has {entropy:.6g}." in text
    assert "train.class_weights shifts all scores" in text


def test_the_warning_is_logged_printed_and_in_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopping = {"early_stopping": None, "epochs": 1}
    encoding = shop_encoding(tmp_path / "bad/encoding")
    bad = write_shop(tmp_path / "bad", encoding, "regression", train={"learning_rate": 3.0, **stopping})
    with caplog.at_level(logging.WARNING):
        trained = train(bad)
    (text,) = [record.message for record in caplog.records if record.name == "nfm.training.train"]
    assert text.startswith("The model predicts worse than a constant, the train fold's mean label: its RMSE is ")
    assert f"  WARNING   {text}" in summary(trained).splitlines()
    assert '<p class="alert">The model predicts worse than a constant' in (
        (tmp_path / "bad/model/report.html").read_text(encoding="utf-8")
    )
    caplog.clear()
    encoding = shop_encoding(tmp_path / "good/encoding")
    good = write_shop(tmp_path / "good", encoding, "regression", train={"early_stopping": None, "epochs": 8})
    trained = train(good)
    assert not caplog.records
    assert "WARNING" not in summary(trained)
    assert '<p class="alert">' not in (tmp_path / "good/model/report.html").read_text(encoding="utf-8")


def falling(first: float, factor: float, epochs: int) -> list[float]:
    return [first * factor**i for i in range(epochs)]


def test_a_training_whose_epochs_ended_too_early_is_reported() -> None:
    loss, valid = falling(0.6, 0.98, 8), falling(0.7, 0.99, 8)

    def warn(best: int = 8, loss: list[float] = loss, valid: list[float] = valid, **changes: Any) -> str | None:
        settings = {"epochs": 8, **changes}
        return warn_if_still_learning(config_of("binary", **settings), {"loss": loss, "val_loss": valid}, best)

    text = warn() or ""
    assert text.startswith(
        "The train loss was still falling when the epochs ended (from 0.5534 after epoch 5 to 0.5209"
    )
    assert "Raise train.epochs (it is 8)" in text
    assert warn(early_stopping=None) == text
    assert warn(epochs=9) is None  # early stopping ended the training
    assert warn(best=5) is None
    assert warn(valid=[*valid[:5], 0.9, 0.95, 1.0], early_stopping=None) is None  # the model overfits
    assert warn(loss=falling(0.6, 0.999, 8)) is None  # by 0.3 % in three epochs: nearly at its end
    assert warn(loss=[*loss[:7], loss[5]]) is None
    assert warn(schedule={"kind": "cosine"}) is None
    assert warn(best=3, loss=loss[:3], valid=valid[:3], epochs=3) is None  # too few epochs to see a trend
    only_train = {"loss": loss}
    assert warn_if_still_learning(config_of("binary", epochs=8, early_stopping=None), only_train, 8) is None


def test_a_validation_loss_that_rises_from_the_first_epoch_is_reported() -> None:
    loss, valid = falling(0.6, 0.9, 6), [0.5, 0.52, 0.51, 0.53, 0.55, 0.56]

    def warn(best: int = 1, loss: list[float] = loss, valid: list[float] = valid, **changes: Any) -> str | None:
        return warn_if_overfitting(config_of("binary", **changes), {"loss": loss, "val_loss": valid}, best)

    text = warn() or ""
    assert text.startswith(
        "The validation loss rose from epoch 1 on (0.5, after epoch 6 0.56), while the train loss fell"
    )
    assert "Lower train.learning_rate (it is 0.001), raise model.pooling_dropout (it is 0.5)" in text
    assert "model.hidden_dropout (it is 0.2), or raise model.l2.embedding (it is 0)." in text
    assert warn(best=6, early_stopping=None) == text
    assert warn(valid=[0.5, 0.49, 0.51, 0.53, 0.55, 0.56], best=2) is None
    assert warn(best=4) is None  # by another metric, such as the AUC, later epochs were better
    assert warn(valid=[0.5, 0.501, 0.5005, 0.502, 0.501, 0.503]) is None  # by 0.6 %, which may be chance
    assert warn(valid=valid[:2], loss=loss[:2]) is None
    assert warn(loss=falling(0.6, 1.1, 6)) is None  # it diverges, which another warning describes
    assert warn(init_from="old") is None
    assert warn(pretrain="fm") is None
    assert warn_if_overfitting(config_of("binary", early_stopping=None), {"loss": loss}, 6) is None


def test_warnings_of_the_curves_are_logged_printed_and_in_the_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoding = shop_encoding(tmp_path / "encoding")
    config = write_shop(tmp_path, encoding, train={"epochs": 5, "learning_rate": 0.02, "batch_size": 100})
    with caplog.at_level(logging.WARNING):
        trained = train(config)
    (text,) = [record.message for record in caplog.records if record.name == "nfm.training.train"]
    assert text.startswith("The train loss was still falling when the epochs ended")
    assert f"  WARNING   {text}" in summary(trained).splitlines()
    assert f'<p class="alert">{text}</p>' in (tmp_path / "model/report.html").read_text(encoding="utf-8")
