"""Checkpoints: a training that was killed at any moment ends with the weights of an undisturbed one, bit for bit."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.config.train import Model
from nfm.contract.errors import DivergedError
from nfm.contract.schema import Number, Spec
from nfm.training import checkpoint
from nfm.training.data.batches import Fold
from nfm.training.fit import Places, depends_on, fit
from nfm.training.optimizers import arrays_of
from nfm.training.result import Fitted
from tests.training.examples import CHECKERBOARD, checkerboard, fold_in_memory, folds_of, noise_folds, rows_of, training

ROOT = Path(__file__).parent.parent.parent
# Everything that a step depends on besides the weights: dropout, batch norm, shuffling, moments, the schedule's state.
MODEL = Model(embedding_dim=4, hidden_units=(8,), pooling_dropout=0.3, hidden_dropout=0.3)
EVERY_STEP: dict[str, Any] = {
    "batch_size": 32,
    "epochs": 6,
    "unknown_dropout": 0.1,
    "schedule": {"kind": "plateau", "patience": 1, "warmup_steps": 3},
    "early_stopping": {"monitor": "val_loss", "patience": 4},
    "checkpoint_seconds": 0.0,
}


def save_outcome(fitted: Fitted, path: Path) -> None:
    told = json.dumps([fitted.history, fitted.best_epoch, fitted.constant])
    arrays = {f"{i:03}": array for i, array in enumerate(arrays_of(fitted.weights))}
    with (path.with_suffix(".part")).open("wb") as file:
        np.savez(file, told=np.array(told), **arrays)  # type: ignore[arg-type] # the stub takes them for allow_pickle
    path.with_suffix(".part").rename(path)


def outcome(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def assert_the_same(path: Path, other: Path) -> None:
    found, expected = outcome(path), outcome(other)
    assert found.keys() == expected.keys()
    assert str(found["told"]) == str(expected["told"])
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def train(folder: Path | None, path: Path, folds: dict[str, Fold] | None = None, **changes: Any) -> None:
    save_outcome(
        fit(CHECKERBOARD, MODEL, training(**{**EVERY_STEP, **changes}), folds or noise_folds(), Places(folder)), path
    )


def in_a_child(work: Callable[[], None], kill_after: Callable[[int], bool] = lambda _: False) -> int:
    """Run in a forked process, kill it once asked to; returns its signal or its exit code."""
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


def kill_again_and_again(folder: Path) -> None:
    """Train undisturbed; then the same, killed five times at random moments after a new checkpoint; in own processes.

    TensorFlow is imported but not yet started here, so that this process can be forked.
    """
    assert in_a_child(lambda: train(None, folder / "undisturbed.npz")) == 0
    drawn, file = random.Random(7), folder / "checkpoint" / checkpoint.FILE
    kills: list[int] = []
    for _ in range(5):
        before = file.stat().st_mtime_ns if file.exists() else 0
        wait, seen = drawn.uniform(0, 0.06), [0.0]

        def due(_: int, before: int = before, wait: float = wait, seen: list[float] = seen) -> bool:
            if not seen[0] and file.exists() and file.stat().st_mtime_ns != before:
                seen[0] = time.monotonic()
            return bool(seen[0]) and time.monotonic() - seen[0] >= wait

        assert in_a_child(lambda: train(folder / "checkpoint", folder / "killed.npz"), due) == -signal.SIGKILL
        with np.load(file) as saved:
            kills.append(json.loads(saved["state"].tobytes())["progress"]["step"])
    assert in_a_child(lambda: train(folder / "checkpoint", folder / "killed.npz")) == 0
    (folder / "kills.json").write_text(json.dumps(kills))


def script(call: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """A function of this module in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from tests.training import test_checkpoint as tests; "
        f"tests.{call}(*map(Path, sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_a_training_that_is_killed_at_random_moments_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    done = script("kill_again_and_again", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads((tmp_path / "kills.json").read_text())
    # Each went on from where the one before was killed; an epoch's last step has a second checkpoint, once measured.
    assert kills == sorted(kills) and len(kills) == 5 and len(set(kills)) >= 3
    told = json.loads(str(outcome(tmp_path / "undisturbed.npz")["told"]))
    assert kills[-1] < 10 * len(told[0]["loss"])
    assert_the_same(tmp_path / "killed.npz", tmp_path / "undisturbed.npz")


class Interrupted(Fold):
    """A fold that cannot be read any more after so many batches."""

    def batches(self, size: int, **asked: Any) -> Any:
        left = self.__dict__["left"]

        def some() -> Iterator[Any]:
            for batch in super(Interrupted, self).batches(size, **asked):
                if left[0] == 0:
                    raise OSError("the disk is gone")
                left[0] -= 1
                yield batch

        return some()


def interrupted_after(batches: int) -> dict[str, Fold]:
    folds = noise_folds()
    (train_rows,) = folds["train"].pieces()
    broken = fold_in_memory(CHECKERBOARD, train_rows, Interrupted)
    broken.__dict__["left"] = [batches]
    return {**folds, "train": broken}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "outcome.npz"
    train(None, path)
    return path


@pytest.mark.parametrize("batches", [[0, 1], [9, 1, 10, 3]])
def test_a_training_that_raised_goes_on_from_its_last_step(
    batches: list[int], undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # 300 rows are ten batches: this ends before the first step, in an epoch's last batch, and at its end.
    for count in batches:
        with pytest.raises(OSError, match="the disk is gone"):
            train(tmp_path / "checkpoint", tmp_path / "outcome.npz", interrupted_after(count))
    with caplog.at_level("INFO"):
        train(tmp_path / "checkpoint", tmp_path / "outcome.npz")
    done = sum(batches)
    assert f"resuming from the checkpoint after {done} steps, in epoch {done // 10 + 1}" in caplog.text
    assert_the_same(tmp_path / "outcome.npz", undisturbed)
    # One that has ended is not trained once more.
    train(tmp_path / "checkpoint", tmp_path / "outcome.npz", interrupted_after(0))
    assert_the_same(tmp_path / "outcome.npz", undisturbed)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a training that stopped after 23 steps, in its third epoch, with a best epoch before."""
    folder = tmp_path / "checkpoint"
    with pytest.raises(OSError, match="the disk is gone"):
        train(folder, tmp_path / "never.npz", interrupted_after(23))
    return folder


def found(folder: Path, **changes: Any) -> str | None:
    """What a training with other settings or data would make of the checkpoint."""
    spec: Spec = changes.pop("spec", CHECKERBOARD)
    folds = changes.pop("folds", None) or noise_folds()
    model = MODEL.model_copy(update=changes.pop("model", {}))
    started_from = changes.pop("started_from", None)
    return checkpoint.look(folder, depends_on(spec, model, training(**{**EVERY_STEP, **changes}), folds, started_from))


def test_what_the_weights_follow_from_decides_whether_a_checkpoint_is_gone_on_from(stopped: Path) -> None:
    data, numbers = noise_folds(), checkerboard(300, 1)
    dense = rows_of(numbers.inputs.ids_BF, numbers.label, dense_BD=np.ones((300, 1)))
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    several = {"batch_size": 64, "clip_norm": 1.0, "optimizer": "sgd", "momentum": 0.5, "seed": 2, "shuffle_rows": 10}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"learning_rate": 0.02}, "train.learning_rate was 0.01 and is 0.02 now"),
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
    for changed, told in changes:
        expected = f"starts from the beginning: since the checkpoint in {stopped} was written, this changed: {told}"
        assert found(stopped, **changed) == expected
    # What is only measured or written is no reason.
    same = "goes on from the checkpoint after 23 steps, in epoch 3"
    written = {"model": {"embedding_dtype": "float16"}, "checkpoint_seconds": 300.0, "group": "k"}
    assert found(stopped) == found(stopped, **written) == found(stopped, folds={**data, "test": data["train"]}) == same
    assert found(stopped / "nowhere") is None


def test_a_checkpoint_of_another_training_is_told_and_not_used(
    stopped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = training(**{**EVERY_STEP, "seed": 2, "checkpoint_seconds": 300.0})
    save_outcome(fit(CHECKERBOARD, MODEL, other, noise_folds(), Places(stopped)), tmp_path / "outcome.npz")
    told = f"the training starts from the beginning: since the checkpoint in {stopped} was written, this changed: tr"
    assert told in caplog.text
    save_outcome(fit(CHECKERBOARD, MODEL, other, noise_folds()), tmp_path / "undisturbed.npz")
    assert_the_same(tmp_path / "outcome.npz", tmp_path / "undisturbed.npz")


def test_the_best_weights_are_never_those_of_another_training(tmp_path: Path) -> None:
    # Two trainings whose best epochs have the same number share a folder; the second one is interrupted, too.
    folder, changed = tmp_path / "checkpoint", training(**{**EVERY_STEP, "seed": 5})
    with pytest.raises(OSError, match="the disk is gone"):
        train(folder, tmp_path / "never.npz", interrupted_after(15))
    with pytest.raises(OSError, match="the disk is gone"):
        fit(CHECKERBOARD, MODEL, changed, interrupted_after(15), Places(folder))
    save_outcome(fit(CHECKERBOARD, MODEL, changed, noise_folds(), Places(folder)), tmp_path / "resumed.npz")
    save_outcome(fit(CHECKERBOARD, MODEL, changed, noise_folds()), tmp_path / "undisturbed.npz")
    assert_the_same(tmp_path / "resumed.npz", tmp_path / "undisturbed.npz")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit_of_the_last_array(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        last = max(file.infolist(), key=lambda one: one.header_offset)
    content = bytearray(path.read_bytes())
    at = last.header_offset + 30 + len(last.filename) + last.file_size  # among the array's last bytes
    content[at] ^= 4
    path.write_bytes(bytes(content))


def leave_out_an_array(path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "array_00003"}
    with path.open("wb") as out:
        np.savez(out, **arrays)


def make_it_text(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [cut_in_half, empty, flip_a_bit_of_the_last_array, leave_out_an_array, make_it_text])
def test_a_damaged_checkpoint_is_told_and_the_training_starts_from_the_beginning(
    damage: Callable[[Path], None], stopped: Path, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(stopped / checkpoint.FILE)
    train(stopped, tmp_path / "outcome.npz", checkpoint_seconds=300.0)
    assert f"the training starts from the beginning: the checkpoint in {stopped} cannot be read (" in caplog.text
    assert_the_same(tmp_path / "outcome.npz", undisturbed)
    assert [path.name for path in stopped.iterdir()] == [checkpoint.FILE]


def test_a_training_compiled_by_xla_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfm.training.network._XLA_PAYS", 0)  # nine whole batches and a smaller one an epoch
    train(None, tmp_path / "undisturbed.npz")
    for count in (4, 9):
        with pytest.raises(OSError, match="the disk is gone"):
            train(tmp_path / "checkpoint", tmp_path / "outcome.npz", interrupted_after(count))
    train(tmp_path / "checkpoint", tmp_path / "outcome.npz")
    assert_the_same(tmp_path / "outcome.npz", tmp_path / "undisturbed.npz")


def test_a_checkpoint_of_an_older_format_is_refused_in_one_sentence(
    stopped: Path, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with np.load(stopped / checkpoint.FILE) as file:
        arrays = {name: file[name] for name in file.files}
    state = {**json.loads(arrays["state"].tobytes()), "format": 2}
    with (stopped / checkpoint.FILE).open("wb") as out:
        np.savez(out, **{**arrays, "state": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    train(stopped, tmp_path / "outcome.npz", checkpoint_seconds=300.0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"the training starts from the beginning: since the checkpoint in {stopped} was written, this changed: the "
        "version of nfm"
    ]
    assert_the_same(tmp_path / "outcome.npz", undisturbed)


STATE: dict[str, Any] = {"depends_on": {"train.seed": 1}, "progress": {"step": 3, "epoch": 0}}


def saved_again(folder: Path, size: int, step: int) -> bool:
    progress = {**STATE["progress"], "step": step}
    arrays: list[NDArray[Any]] = [np.full(size, step, np.float32), np.arange(3)]
    return checkpoint.save(folder, STATE["depends_on"], progress, arrays, arrays[:1])


def step_of(folder: Path, size: int) -> int | None:
    saved = checkpoint.load(folder, STATE["depends_on"], [(size,), (3,)])
    if saved is None:
        return None
    assert saved.best is not None
    assert saved.arrays[0].tolist() == saved.best[0].tolist() == [saved.progress["step"]] * size
    return int(saved.progress["step"])


def with_small_files(folder: Path) -> None:
    """Files may have 64 KiB at most, so that the system refuses to write more."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder.mkdir()
    assert saved_again(folder, 1000, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    assert not saved_again(folder, 1 << 16, 4)
    assert step_of(folder, 1000) == 3
    # A training whose every checkpoint fails ends as any other.
    model = MODEL.model_copy(update={"hidden_units": (200, 200)})
    fitted = fit(CHECKERBOARD, model, training(epochs=2), noise_folds(), Places(folder / "large"))
    assert len(fitted.history["loss"]) == 2
    assert list((folder / "large").iterdir()) == []


def test_where_the_disk_is_full_the_training_goes_on_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    done = script("with_small_files", tmp_path / "checkpoint")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no checkpoint could be written to" in done.stderr
    assert "(File too large): the training goes on" in done.stderr
    assert step_of(tmp_path / "checkpoint", 1000) == 3


def test_a_full_file_system_keeps_the_last_good_checkpoint(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    (small_disk / "others").write_bytes(bytes(800_000))
    folder = small_disk / "checkpoint"
    assert saved_again(folder, 8000, 3)
    for step in (4, 5):
        assert not saved_again(folder, 40_000, step)
        assert step_of(folder, 8000) == 3
    assert "No space left on device" in caplog.text
    assert saved_again(folder, 8000, 6)
    assert step_of(folder, 8000) == 6


def test_what_is_left_of_a_killed_save_is_written_over(tmp_path: Path) -> None:
    assert saved_again(tmp_path, 10, 3)
    (tmp_path / f".{checkpoint.FILE}").write_bytes(b"half a file")
    assert step_of(tmp_path, 10) == 3
    assert saved_again(tmp_path, 10, 4)
    assert step_of(tmp_path, 10) == 4
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_a_training_that_diverges_keeps_the_last_good_checkpoint_and_says_where_it_is(tmp_path: Path) -> None:
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    data, folder = checkerboard(320, 1), tmp_path / "checkpoint"
    number = np.ones((320, 1))
    number[7] = 3e38  # in one of the ten batches of the first epoch
    rows = rows_of(data.inputs.ids_BF, data.label, dense_BD=number)
    none = rows_of(data.inputs.ids_BF[:0], data.label[:0], dense_BD=number[:0])
    settings = training(early_stopping=None, batch_size=32, checkpoint_seconds=0.0, seed=3)
    with pytest.raises(DivergedError) as told:
        fit(spec, MODEL, settings, folds_of(rows, none, none, spec), Places(folder))
    assert f"the training diverged, and no model was written. The last good checkpoint stays in {folder}. Lower" in str(
        told.value
    )
    found = re.search(
        r"^The loss was (?:nan|inf) at step (\d+), in epoch 1|after step (\d+), in epoch 1", str(told.value)
    )
    assert found is not None
    bad_step = int(found[1] or found[2])
    with np.load(folder / checkpoint.FILE) as file:
        step = json.loads(file["state"].tobytes())["progress"]["step"]
        assert all(np.isfinite(file[name]).all() for name in file.files)
    assert 0 < step == bad_step - 1


def test_what_others_keep_beside_a_checkpoint_stays_when_it_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    assert checkpoint.save(folder, {}, {"step": 1}, [np.zeros(3)], None)
    (folder / "notes.txt").write_text("mine")
    checkpoint.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    checkpoint.remove(folder)
    assert not folder.exists()
    checkpoint.remove(folder)  # there is none
