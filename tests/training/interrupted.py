"""Interrupted trainings, and comparisons of their outcomes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nfm.config.train import Model
from nfm.training.data.batches import Fold
from nfm.training.fit import Places, fit
from nfm.training.optimizers import list_arrays
from nfm.training.result import Fitted
from tests.training.examples import CHECKERBOARD, fold_in_memory, noise_folds, training

ROOT = Path(__file__).parent.parent.parent
# A step depends on all of this besides the weights: dropout, batch norm, shuffling, moments, state of the schedule.
MODEL = Model(embedding_dim=4, hidden_units=(8,), pooling_dropout=0.3, hidden_dropout=0.3)
EVERY_STEP: dict[str, Any] = {
    "batch_size": 32,
    "epochs": 6,
    "unknown_dropout": 0.1,
    "average": 0.99,
    "schedule": {"kind": "plateau", "patience": 1, "warmup_steps": 3},
    "early_stopping": {"monitor": "val_loss", "patience": 4},
    "checkpoint_seconds": 0.0,
}


def save_outcome(fitted: Fitted, path: Path) -> None:
    facts = json.dumps([fitted.history, fitted.best_epoch, fitted.constant])
    arrays = {f"{i:03}": array for i, array in enumerate(list_arrays(fitted.weights))}
    with (path.with_suffix(".part")).open("wb") as file:
        np.savez(file, facts=np.array(facts), **arrays)  # type: ignore[arg-type] # the stub mistakes them for allow_pickle
    path.with_suffix(".part").rename(path)


def load_outcome(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def assert_same_outcome(path: Path, other: Path) -> None:
    found, expected = load_outcome(path), load_outcome(other)
    assert found.keys() == expected.keys()
    assert str(found["facts"]) == str(expected["facts"])
    for name, array in expected.items():
        assert array.dtype == found[name].dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def train(folder: Path | None, path: Path, folds: dict[str, Fold] | None = None, **changes: Any) -> None:
    save_outcome(
        fit(CHECKERBOARD, MODEL, training(**{**EVERY_STEP, **changes}), folds or noise_folds(), Places(folder)), path
    )


class Interrupted(Fold):
    """A fold whose read fails after a number of batches."""

    def batches(self, size: int, **options: Any) -> Any:
        left = self.__dict__["left"]

        def read() -> Iterator[Any]:
            for batch in super(Interrupted, self).batches(size, **options):
                if left[0] == 0:
                    raise OSError("the disk failed")
                left[0] -= 1
                yield batch

        return read()


def fail_after(batches: int) -> dict[str, Fold]:
    folds = noise_folds()
    (train_rows,) = folds["train"].pieces()
    broken = fold_in_memory(CHECKERBOARD, train_rows, Interrupted)
    broken.__dict__["left"] = [batches]
    return {**folds, "train": broken}


def run_in_process(module: str, function: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Call a function of a test module with paths, in a new process."""
    code = f"import sys; from pathlib import Path; import {module} as tests; tests.{function}(*map(Path, sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
