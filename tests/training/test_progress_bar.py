"""Log lines of a long epoch."""

import logging
from types import SimpleNamespace

import pytest

from nfm.training import progress_bar as progress
from nfm.training.progress_bar import Bar


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
        "epoch 1 of at most 2:  50 %, loss 0.2500, 2 rows/s, 10 s left",
        "epoch 1 of at most 2: 100 %, loss 0.2500, 3 rows/s, 0 s left",
        "epoch 2 of at most 2:  75 %, loss 0.1250, 2 rows/s, 5 s left",
    ]
