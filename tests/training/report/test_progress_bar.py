"""Log lines of a long epoch."""

import logging
from types import SimpleNamespace

import pytest

from nfm.training.report import progress_bar as progress
from nfm.training.report.progress_bar import Bar


def test_the_logged_rate_leaves_out_the_first_batch(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the first batch includes compiling."""
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    caplog.set_level(logging.INFO, "nfm")
    with Bar(2, 40, 10) as bar:
        bar.epoch(0, 0)
        for passed in (60.0, 5.0, 2.5, 2.5):
            now += passed
            bar.step(10, 0.25)
        bar.epoch(1, 2)
        now += 5.0
        bar.step(10, 0.125)
    assert [record.getMessage() for record in caplog.records] == [
        "epoch 1 of at most 2:  50 %, loss 0.2500, 2 rows/s, 10 s left in this epoch",
        "epoch 1 of at most 2: 100 %, loss 0.2500, 3 rows/s, 0 s left in this epoch",
        "epoch 2 of at most 2:  75 %, loss 0.1250, 2 rows/s, 5 s left in this epoch",
    ]


def test_the_last_epoch_is_always_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping ends the training before the highest possible epoch."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    caplog.set_level(logging.INFO, "nfm")
    with Bar(9, 10, 10) as bar:
        for finished in range(4):
            bar.epoch(finished, 0)
            bar.step(10, 0.25)
            bar.end({"val_loss": 0.5 - finished / 8}, is_last=finished == 3)
    assert [record.getMessage() for record in caplog.records if "val_loss" in record.getMessage()] == [
        "epoch 1 of at most 9  val_loss 0.5",
        "epoch 4 of at most 9  val_loss 0.125",
    ]
