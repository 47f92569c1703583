"""Checkpoints, from which a killed training resumes and ends with the same weights as one that was not killed.

A checkpoint is one file. It is replaced in one step once the new file is complete and on the disk: after a kill at any
moment, or on a full disk, the previous checkpoint is still there. The file is a zip of arrays, each with its CRC-32;
nothing is pickled.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import nfm
from nfm.config.train import Model, Train
from nfm.contract.messages import differences, listed
from nfm.contract.publishing.replace import replacing, temporary_path
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 4
FILE = "checkpoint.npz"
_STATE = "state"
Arrays = Sequence[NDArray[Any]]


class Saved(NamedTuple):
    """Content of a checkpoint."""

    progress: dict[str, Any]
    arrays: list[NDArray[Any]]  # as `Optimizer.list_arrays` returns them
    best: list[NDArray[Any]] | None  # weights of the best epoch


def list_dependencies(
    spec: Spec, model_settings: Model, settings: Train, folds: Mapping[str, Fold], started_from: str | None
) -> dict[str, Any]:
    """Return everything that the weights depend on, by names that messages show."""
    # The excluded settings change what is measured, written or trained later, not the weights.
    model = model_settings.model_dump(mode="json", exclude={"embedding_dtype"})
    train = settings.model_dump(mode="json", exclude={"checkpoint_seconds", "group", "refit"})
    ranked = folds["train"].ranked
    pairs = ranked.ranking.model_dump(include={"loss", "negatives", "hardest", "sampler", "alpha"}) if ranked else {}
    return {
        "encoding": spec.fingerprint,
        **{f"{name} fold": folds[name].digest for name in ("train", "valid")},
        **{f"model.{key}": value for key, value in model.items()},
        **{f"train.{key}": value for key, value in train.items()},
        **{f"ranking.{key}": value for key, value in pairs.items()},
        **({"catalogue": ranked.catalogue.digest} if ranked else {}),
        "what it started from": started_from,
        "the version of TensorFlow": tf.__version__,
        "the version of nfm": nfm.__version__,
    }


def save(
    folder: Path, depends_on: Mapping[str, Any], progress: Mapping[str, Any], arrays: Arrays, best: Arrays | None
) -> bool:
    """Replace the checkpoint by a new one; if it cannot be written, log that, keep the last good one, and return False.

    `depends_on`: everything that the weights depend on; only a training with equal dependencies resumes from this
    checkpoint. `arrays`: weights, optimizer slots and average; `best`: weights of the best epoch, if there was one. The
    mappings must be JSON-serializable.
    """
    state = {"format": CHECKPOINT_FORMAT, "depends_on": depends_on, "progress": progress, "has_best": best is not None}
    named = {_STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}
    for prefix, group in (("array", arrays), ("best", best or ())):
        named |= {f"{prefix}_{i:05}": array for i, array in enumerate(group)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / FILE, durable=True) as staging, staging.open("wb") as file:
            np.savez(file, **named)  # type: ignore[arg-type] # the stub takes them for allow_pickle
    except OSError as error:
        log.warning(
            "no checkpoint could be written to %s (%s): the training continues; if it is killed, it will resume from "
            "the last good checkpoint. Free some space there",
            folder,
            error.strerror or error,
        )
        return False
    return True


def remove(folder: Path) -> None:
    """Delete a checkpoint that is no longer needed, and its folder if that is then empty."""
    with suppress(OSError):  # the folder stays if it contains other files
        (folder / FILE).unlink(missing_ok=True)
        temporary_path(folder / FILE).unlink(missing_ok=True)
        folder.rmdir()


def load(folder: Path, depends_on: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Saved | None:
    """Read the checkpoint of the same training; None if there is none, or if it cannot be used, which is logged.

    `shapes`: expected shapes of the arrays, in order; the arrays of the best epoch have the first of them.
    """
    saved: Saved | None
    saved, reason = _read(folder, lambda file: _read_arrays(file, _read_progress(file, depends_on), shapes))
    if reason:
        log.warning("the training starts again without its checkpoint: %s", reason)
    return saved


def preview(folder: Path, depends_on: Mapping[str, Any]) -> str | None:
    """Describe how a training would use the checkpoint, for `--plan`; None if there is no checkpoint."""
    progress, reason = _read(folder, lambda file: _read_progress(file, depends_on))
    if progress is not None:
        return f"from the checkpoint after {progress['step']:,} steps, in epoch {progress['epoch'] + 1}"
    return f"no, the training starts again: {reason}" if reason else None


class _ChangedError(Exception):
    """The checkpoint is of another training; the text lists the differences."""


def _read(folder: Path, parse: Any) -> tuple[Any, str | None]:
    """Return parse(file) and None; or None and, if there is a checkpoint, the reason why it cannot be used."""
    if not (folder / FILE).exists():
        return None, None
    try:
        with (folder / FILE).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return parse(file), None
    except _ChangedError as error:
        return None, f"since the checkpoint in {folder} was written, this changed: {error}"
    except Exception as error:  # a damaged file raises many kinds
        return None, f"the checkpoint in {folder} cannot be read ({error or type(error).__name__})"


def _read_progress(file: Any, depends_on: Mapping[str, Any]) -> dict[str, Any]:
    state = json.loads(file[_STATE].tobytes())
    if state["format"] != CHECKPOINT_FORMAT:
        raise _ChangedError("the version of nfm")
    changed = sorted(differences(state["depends_on"], depends_on))
    if changed:
        raise _ChangedError(listed(changed, "; "))
    return {**state["progress"], "has_best": state["has_best"]}


def _read_arrays(file: Any, progress: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Saved:
    names = set(file.files)
    groups = []
    for prefix in ("array", "best"):
        group = [file[name] for name in sorted(names) if name.startswith(f"{prefix}_")]
        if any(array.shape != shape for array, shape in zip(group, shapes, strict=False)):
            raise ValueError("its arrays have the shapes of another model")
        groups.append(group)
    arrays, best = groups
    if len(arrays) != len(shapes) or bool(best) != progress["has_best"]:
        raise ValueError("arrays are missing")
    return Saved({key: value for key, value in progress.items() if key != "has_best"}, arrays, best or None)
