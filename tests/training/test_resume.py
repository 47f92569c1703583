"""A training that was killed at any moment ends with the weights of an uninterrupted one, bit for bit."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfm.contract.schema import Number, Spec
from nfm.training import checkpoint
from nfm.training.checkpoint import list_dependencies
from nfm.training.fit import Places, fit
from tests.training.examples import CHECKERBOARD, checkerboard, folds_of, noise_folds, rows_of, training
from tests.training.interrupted import (
    EVERY_STEP,
    MODEL,
    assert_same_outcome,
    fail_after,
    load_outcome,
    run_in_process,
    save_outcome,
    train,
)


def run_in_fork(work: Callable[[], None], kill_after: Callable[[int], bool] = lambda _: False) -> int:
    """Run `work` in a forked process, kill it once `kill_after` is true, and return its signal or exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    killed = False
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if not killed and kill_after(child):
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.0005)
    return os.waitstatus_to_exitcode(ended[1])


def train_with_kills(folder: Path) -> None:
    """Train uninterrupted, then the same, killed five times at random moments after a new checkpoint.

    Each training is a fork of this process, in which TensorFlow is imported but not initialized.
    """
    assert run_in_fork(lambda: train(None, folder / "uninterrupted.npz")) == 0
    rng, file = random.Random(7), folder / "checkpoint" / checkpoint.FILE
    kills: list[int] = []
    for _ in range(5):
        before = file.stat().st_mtime_ns if file.exists() else 0
        wait, seen = rng.uniform(0, 0.06), [0.0]

        def due(_: int, before: int = before, wait: float = wait, seen: list[float] = seen) -> bool:
            if not seen[0] and file.exists() and file.stat().st_mtime_ns != before:
                seen[0] = time.monotonic()
            return bool(seen[0]) and time.monotonic() - seen[0] >= wait

        assert run_in_fork(lambda: train(folder / "checkpoint", folder / "killed.npz"), due) == -signal.SIGKILL
        with np.load(file) as saved:
            kills.append(json.loads(saved["state"].tobytes())["progress"]["step"])
    assert run_in_fork(lambda: train(folder / "checkpoint", folder / "killed.npz")) == 0
    (folder / "kills.json").write_text(json.dumps(kills))


def test_a_training_killed_at_random_moments_has_the_weights_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    done = run_in_process("tests.training.test_resume", "train_with_kills", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads((tmp_path / "kills.json").read_text())
    # Each training resumed after the previous one's kill; the last step of an epoch has two checkpoints.
    assert kills == sorted(kills) and len(kills) == 5 and len(set(kills)) >= 3
    history = json.loads(str(load_outcome(tmp_path / "uninterrupted.npz")["facts"]))[0]
    assert kills[-1] < 10 * len(history["loss"])
    assert_same_outcome(tmp_path / "killed.npz", tmp_path / "uninterrupted.npz")


def test_a_failed_training_without_an_average_resumes(tmp_path: Path) -> None:
    train(None, tmp_path / "uninterrupted.npz", average=None)
    with pytest.raises(OSError, match="the disk failed"):
        train(tmp_path / "checkpoint", tmp_path / "outcome.npz", fail_after(13), average=None)
    train(tmp_path / "checkpoint", tmp_path / "outcome.npz", average=None)
    assert_same_outcome(tmp_path / "outcome.npz", tmp_path / "uninterrupted.npz")


@pytest.mark.parametrize("batches", [[0, 1], [9, 1, 10, 3]])
def test_a_failed_training_resumes_from_its_last_step(
    batches: list[int], uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # 300 rows are ten batches: fail before the first step, in the last batch of an epoch, and at its end.
    for count in batches:
        with pytest.raises(OSError, match="the disk failed"):
            train(tmp_path / "checkpoint", tmp_path / "outcome.npz", fail_after(count))
    with caplog.at_level("INFO"):
        train(tmp_path / "checkpoint", tmp_path / "outcome.npz")
    done = sum(batches)
    assert f"resuming from the checkpoint after {done} steps, in epoch {done // 10 + 1}" in caplog.text
    assert_same_outcome(tmp_path / "outcome.npz", uninterrupted)
    # A finished training is not repeated.
    train(tmp_path / "checkpoint", tmp_path / "outcome.npz", fail_after(0))
    assert_same_outcome(tmp_path / "outcome.npz", uninterrupted)


def preview(folder: Path, **changes: Any) -> str | None:
    """Preview how a training with changed settings or data would use the checkpoint."""
    spec: Spec = changes.pop("spec", CHECKERBOARD)
    folds = changes.pop("folds", None) or noise_folds()
    model = MODEL.model_copy(update=changes.pop("model", {}))
    started_from = changes.pop("started_from", None)
    return checkpoint.preview(
        folder, list_dependencies(spec, model, training(**{**EVERY_STEP, **changes}), folds, started_from)
    )


def test_a_changed_dependency_of_the_weights_prevents_resuming(stopped: Path) -> None:
    data, numbers = noise_folds(), checkerboard(300, 1)
    dense = rows_of(numbers.inputs.ids_BF, numbers.label, dense_BD=np.ones((300, 1)))
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    several = {"batch_size": 64, "clip_norm": 1.0, "optimizer": "sgd", "momentum": 0.5, "seed": 2, "shuffle_rows": 10}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.02}, "train.learning_rate was 0.01 and is 0.02 now"),
        ({"average": None}, "train.average was 0.99 and is not set now"),
        ({"model": {"hidden_units": (9,)}}, "model.hidden_units was [8] and is [9] now"),
        ({"folds": {**data, "train": data["valid"]}}, "train fold"),
        ({"folds": {**data, "valid": data["train"]}}, "valid fold"),
        ({"spec": spec, "folds": folds_of(dense, dense, dense, spec)}, "encoding; train fold; valid fold"),
        ({"started_from": "an older model"}, 'what it started from was not set and is "an older model" now'),
        (
            several,
            "train.batch_size was 32 and is 64 now; train.clip_norm was not set and is 1.0 now; train.momentum was 0.0 "
            'and is 0.5 now; train.optimizer was "adam" and is "sgd" now; train.seed was 1 and is 2 now and 1 more',
        ),
    ]
    for changed, differences in changes:
        expected = (
            f"no, the training starts again: since the checkpoint in {stopped} was written, this changed: {differences}"
        )
        assert preview(stopped, **changed) == expected
    # Settings that change only measuring or writing do not prevent resuming.
    same = "from the checkpoint after 23 steps, in epoch 3"
    written = {"model": {"embedding_dtype": "float16"}, "checkpoint_seconds": 300.0, "group": "k"}
    assert (
        preview(stopped)
        == preview(stopped, **written)
        == preview(stopped, folds={**data, "test": data["train"]})
        == same
    )
    assert preview(stopped / "nowhere") is None
    plain = training(**{**EVERY_STEP, "schedule": {}})
    dependencies = [
        list_dependencies(CHECKERBOARD, MODEL, plain.model_copy(update={"refit": refit}), data, None)
        for refit in (False, True)
    ]
    assert dependencies[0] == dependencies[1]


def test_a_checkpoint_of_another_training_is_logged_and_not_used(
    stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = training(**{**EVERY_STEP, "seed": 2, "checkpoint_seconds": 300.0})
    save_outcome(fit(CHECKERBOARD, MODEL, other, noise_folds(), Places(stopped)), tmp_path / "outcome.npz")
    reason = f"since the checkpoint in {stopped} was written, this changed: train.seed"
    assert f"the training starts again without its checkpoint: {reason}" in caplog.text
    save_outcome(fit(CHECKERBOARD, MODEL, other, noise_folds()), tmp_path / "uninterrupted.npz")
    assert_same_outcome(tmp_path / "outcome.npz", tmp_path / "uninterrupted.npz")


def test_best_weights_are_never_those_of_another_training(tmp_path: Path) -> None:
    # Two trainings whose best epochs have the same number share a folder; both are interrupted.
    folder, changed = tmp_path / "checkpoint", training(**{**EVERY_STEP, "seed": 5})
    with pytest.raises(OSError, match="the disk failed"):
        train(folder, tmp_path / "never.npz", fail_after(15))
    with pytest.raises(OSError, match="the disk failed"):
        fit(CHECKERBOARD, MODEL, changed, fail_after(15), Places(folder))
    save_outcome(fit(CHECKERBOARD, MODEL, changed, noise_folds(), Places(folder)), tmp_path / "resumed.npz")
    save_outcome(fit(CHECKERBOARD, MODEL, changed, noise_folds()), tmp_path / "uninterrupted.npz")
    assert_same_outcome(tmp_path / "resumed.npz", tmp_path / "uninterrupted.npz")


def test_a_training_with_xla_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfm.training.network._MIN_XLA_ROWS", 0)  # nine full batches and a smaller one in each epoch
    train(None, tmp_path / "uninterrupted.npz")
    for count in (4, 9):
        with pytest.raises(OSError, match="the disk failed"):
            train(tmp_path / "checkpoint", tmp_path / "outcome.npz", fail_after(count))
    train(tmp_path / "checkpoint", tmp_path / "outcome.npz")
    assert_same_outcome(tmp_path / "outcome.npz", tmp_path / "uninterrupted.npz")
