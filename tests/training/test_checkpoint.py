"""Checkpoint files: damage, older formats, full disks, divergence and removal."""

import json
import re
import signal
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.contract.errors import DivergedError
from nfm.contract.schema import Number
from nfm.training import checkpoint
from nfm.training.fit import Places, fit
from tests.training.examples import CHECKERBOARD, checkerboard, folds_of, noise_folds, rows_of, training
from tests.training.interrupted import MODEL, assert_same_outcome, run_in_process, train


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit_of_the_last_array(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        last = max(file.infolist(), key=lambda entry: entry.header_offset)
    content = bytearray(path.read_bytes())
    at = last.header_offset + 30 + len(last.filename) + last.file_size  # among the array's last bytes
    content[at] ^= 4
    path.write_bytes(bytes(content))


def remove_an_array(path: Path) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "array_00003"}
    with path.open("wb") as out:
        np.savez(out, **arrays)


def replace_by_text(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize(
    "damage", [cut_in_half, truncate, flip_a_bit_of_the_last_array, remove_an_array, replace_by_text]
)
def test_a_damaged_checkpoint_is_logged_and_the_training_starts_again(
    damage: Callable[[Path], None], stopped: Path, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(stopped / checkpoint.FILE)
    train(stopped, tmp_path / "outcome.npz", checkpoint_seconds=300.0)
    assert f"starts again without its checkpoint: the checkpoint in {stopped} cannot be read (" in caplog.text
    assert_same_outcome(tmp_path / "outcome.npz", uninterrupted)
    assert [path.name for path in stopped.iterdir()] == [checkpoint.FILE]


def test_a_checkpoint_of_an_older_format_is_refused(
    stopped: Path, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with np.load(stopped / checkpoint.FILE) as file:
        arrays = {name: file[name] for name in file.files}
    state = {**json.loads(arrays["state"].tobytes()), "format": 2}
    with (stopped / checkpoint.FILE).open("wb") as out:
        np.savez(out, **{**arrays, "state": np.frombuffer(json.dumps(state).encode(), np.uint8)})
    train(stopped, tmp_path / "outcome.npz", checkpoint_seconds=300.0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"the training starts again without its checkpoint: since the checkpoint in {stopped} was written, this "
        "changed: the version of nfm"
    ]
    assert_same_outcome(tmp_path / "outcome.npz", uninterrupted)


STATE: dict[str, Any] = {"depends_on": {"train.seed": 1}, "progress": {"step": 3, "epoch": 0}}


def save_step(folder: Path, size: int, step: int) -> bool:
    progress = {**STATE["progress"], "step": step}
    arrays: list[NDArray[Any]] = [np.full(size, step, np.float32), np.arange(3)]
    return checkpoint.save(folder, STATE["depends_on"], progress, arrays, arrays[:1])


def load_step(folder: Path, size: int) -> int | None:
    saved = checkpoint.load(folder, STATE["depends_on"], [(size,), (3,)])
    if saved is None:
        return None
    assert saved.best is not None
    assert saved.arrays[0].tolist() == saved.best[0].tolist() == [saved.progress["step"]] * size
    return int(saved.progress["step"])


def train_with_a_file_size_limit(folder: Path) -> None:
    """Limit files to 64 KiB, so that writing larger checkpoints fails."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder.mkdir()
    assert save_step(folder, 1000, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    assert not save_step(folder, 1 << 16, 4)
    assert load_step(folder, 1000) == 3
    # A training finishes even if every checkpoint fails.
    model = MODEL.model_copy(update={"hidden_units": (200, 200)})
    fitted = fit(CHECKERBOARD, model, training(epochs=2), noise_folds(), Places(folder / "large"))
    assert len(fitted.history["loss"]) == 2
    assert list((folder / "large").iterdir()) == []


def test_a_training_continues_and_keeps_its_checkpoint_if_saving_fails(tmp_path: Path) -> None:
    done = run_in_process("tests.training.test_checkpoint", "train_with_a_file_size_limit", tmp_path / "checkpoint")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no checkpoint could be written to" in done.stderr
    assert "(File too large): the training continues" in done.stderr
    assert load_step(tmp_path / "checkpoint", 1000) == 3


def test_a_full_file_system_keeps_the_last_good_checkpoint(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    (small_disk / "others").write_bytes(bytes(800_000))
    folder = small_disk / "checkpoint"
    assert save_step(folder, 8000, 3)
    for step in (4, 5):
        assert not save_step(folder, 40_000, step)
        assert load_step(folder, 8000) == 3
    assert "No space left on device" in caplog.text
    assert save_step(folder, 8000, 6)
    assert load_step(folder, 8000) == 6


def test_the_file_of_a_killed_save_is_overwritten(tmp_path: Path) -> None:
    assert save_step(tmp_path, 10, 3)
    (tmp_path / f".{checkpoint.FILE}").write_bytes(b"half a file")
    assert load_step(tmp_path, 10) == 3
    assert save_step(tmp_path, 10, 4)
    assert load_step(tmp_path, 10) == 4
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_a_diverged_training_keeps_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    spec = replace(CHECKERBOARD, numbers=(Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0),))
    data, folder = checkerboard(320, 1), tmp_path / "checkpoint"
    number = np.ones((320, 1))
    number[7] = 3e38  # in one of the ten batches of the first epoch
    rows = rows_of(data.inputs.ids_BF, data.label, dense_BD=number)
    none = rows_of(data.inputs.ids_BF[:0], data.label[:0], dense_BD=number[:0])
    settings = training(early_stopping=None, batch_size=32, checkpoint_seconds=0.0, seed=3)
    with pytest.raises(DivergedError) as error:
        fit(spec, MODEL, settings, folds_of(rows, none, none, spec), Places(folder))
    assert f"the training diverged, and no model was written. The last good checkpoint stays in {folder}. Lower" in str(
        error.value
    )
    found = re.search(
        r"^The loss was (?:nan|inf) at step (\d+), in epoch 1|after step (\d+), in epoch 1", str(error.value)
    )
    assert found is not None
    bad_step = int(found[1] or found[2])
    with np.load(folder / checkpoint.FILE) as file:
        step = json.loads(file["state"].tobytes())["progress"]["step"]
        assert all(np.isfinite(file[name]).all() for name in file.files)
    assert 0 < step == bad_step - 1


def test_removing_a_checkpoint_keeps_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    assert checkpoint.save(folder, {}, {"step": 1}, [np.zeros(3)], None)
    (folder / "notes.txt").write_text("mine")
    checkpoint.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    checkpoint.remove(folder)
    assert not folder.exists()
    checkpoint.remove(folder)  # without a checkpoint
