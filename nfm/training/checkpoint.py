"""Checkpoints: what a killed training goes on from, to the very weights of an undisturbed one.

One file holds everything, and is replaced in one step once it is complete and on the disk: a kill at any moment, or a
full disk, leaves the checkpoint before. It is a zip of arrays, each with its CRC-32; nothing is pickled.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.messages import differences, listed
from nfm.contract.replace import aside, replacing

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 3
FILE = "checkpoint.npz"
_STATE = "state"
Arrays = Sequence[NDArray[Any]]


class Saved(NamedTuple):
    """A checkpoint."""

    progress: dict[str, Any]
    arrays: list[NDArray[Any]]  # of the model and the optimizer
    best: list[NDArray[Any]] | None  # of the model, at its best epoch


def save(
    folder: Path, depends_on: Mapping[str, Any], progress: Mapping[str, Any], arrays: Arrays, best: Arrays | None
) -> bool:
    """Replace the checkpoint by a new one; False if it cannot be written: that is logged, and the last good one stays.

    `depends_on`: what the weights follow from; only a training with the same resumes from here. `arrays`: of the model
    and the optimizer; `best`: the model's at its best epoch, if there was one. The mappings are JSON-ready.
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
            "no checkpoint could be written to %s (%s): the training goes on, and a killed one would start again from "
            "the last good checkpoint; make room there",
            folder,
            error.strerror or error,
        )
        return False
    return True


def remove(folder: Path) -> None:
    """Delete a checkpoint that is not needed any more; the folder, too, if nothing else is in it."""
    with suppress(OSError):  # what others have put there keeps the folder
        (folder / FILE).unlink(missing_ok=True)
        aside(folder / FILE).unlink(missing_ok=True)
        folder.rmdir()


def load(folder: Path, depends_on: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Saved | None:
    """Read the checkpoint, if there is one of this very training; log why one is not used.

    `shapes` are those of the needed arrays, in order; those of the best epoch are the first of them.
    """
    saved: Saved | None
    saved, why_not = _read(folder, lambda file: _saved(file, _progress(file, depends_on), shapes))
    if why_not:
        log.warning("the training starts from the beginning: %s", why_not)
    return saved


def preview(folder: Path, depends_on: Mapping[str, Any]) -> str | None:
    """Say what a training would make of the checkpoint, for `--plan`; None where there is none."""
    progress, why_not = _read(folder, lambda file: _progress(file, depends_on))
    if progress is not None:
        return f"goes on from the checkpoint after {progress['step']:,} steps, in epoch {progress['epoch'] + 1}"
    return f"starts from the beginning: {why_not}" if why_not else None


class _ChangedError(Exception):
    """The checkpoint is of another training; the text is the difference."""


def _read(folder: Path, part: Any) -> tuple[Any, str | None]:
    """A part of the checkpoint; or the reason why it cannot be used, if there is a checkpoint."""
    if not (folder / FILE).exists():
        return None, None
    try:
        with (folder / FILE).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return part(file), None
    except _ChangedError as error:
        return None, f"since the checkpoint in {folder} was written, this changed: {error}"
    except Exception as error:  # whatever a damaged file leads to
        return None, f"the checkpoint in {folder} cannot be read ({error or type(error).__name__})"


def _progress(file: Any, depends_on: Mapping[str, Any]) -> dict[str, Any]:
    state = json.loads(file[_STATE].tobytes())
    if state["format"] != CHECKPOINT_FORMAT:
        raise _ChangedError("the version of nfm")
    changed = sorted(differences(state["depends_on"], depends_on))
    if changed:
        raise _ChangedError(listed(changed, "; "))
    return {**state["progress"], "has_best": state["has_best"]}


def _saved(file: Any, progress: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> Saved:
    names = set(file.files)
    groups = []
    for prefix in ("array", "best"):
        found = [file[name] for name in sorted(names) if name.startswith(f"{prefix}_")]
        if any(array.shape != shape for array, shape in zip(found, shapes, strict=False)):
            raise ValueError("its arrays are of another model")
        groups.append(found)
    arrays, best = groups
    if len(arrays) != len(shapes) or bool(best) != progress["has_best"]:
        raise ValueError("arrays are missing")
    return Saved({key: value for key, value in progress.items() if key != "has_best"}, arrays, best or None)
