"""One model a host: its files reach each machine once, and all workers there map them.

Where every machine sees the folder, they are mapped in place. Elsewhere Spark carries them, from executor to executor,
and the first worker of an executor lays them out on its disk.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyspark import Broadcast, SparkFiles
from pyspark.sql import SparkSession

from nfm.contract.artifact import SCORER_FILES, Artifact
from nfm.contract.errors import DataError

_PIECE = 32 << 20  # what a driver or a worker holds of the files at a time


@dataclass(frozen=True)
class Placed:
    """Where workers find a verified model."""

    fingerprint: str
    folder: str | None  # that every machine sees
    pieces: "tuple[tuple[str, Broadcast[bytes]], ...]"  # where there is none: relative path and content, in order


def place(spark: SparkSession, artifact: Artifact, shared: Path | None = None) -> Placed:
    """Let the workers have a model.

    Args:
        spark: the session.
        artifact: verified; workers do not read it all again.
        shared: an existing folder that every machine sees, where the model's files may get further names. A model that
            is replaced meanwhile is then still there for workers that come later.
    """
    paths = sorted(path for pattern in SCORER_FILES for path in artifact.path.glob(pattern))
    if shared is not None and _linked(artifact.path, paths, shared):
        return Placed(artifact.fingerprint, str(shared), ())
    if str(spark.sparkContext.master).startswith("local"):
        return Placed(artifact.fingerprint, str(artifact.path), ())
    pieces = [
        (str(path.relative_to(artifact.path)), spark.sparkContext.broadcast(piece))
        for path in paths
        for piece in _pieces(path)
    ]
    return Placed(artifact.fingerprint, None, tuple(pieces))


Placement = Literal["linked", "in place", "sent"]


def placement(spark: SparkSession, artifact: Artifact, target: Path) -> Placement:
    """What `place` will do for a job that writes to `target`, as far as it can be told without writing."""
    staging = target.resolve().parent
    disk = next(folder for folder in (staging, *staging.parents) if folder.exists())
    if disk.stat().st_dev == artifact.path.stat().st_dev:
        return "linked"
    return "in place" if str(spark.sparkContext.master).startswith("local") else "sent"


def place_read_only(spark: SparkSession, artifact: Artifact, target: Path) -> Placed:
    """As `place`, for a job that writes nothing to `target`: no further names, and not safe from being replaced."""
    if placement(spark, artifact, target) == "sent":
        return place(spark, artifact)
    return Placed(artifact.fingerprint, str(artifact.path), ())


def host_bytes(artifact: Artifact) -> int:
    """What a host has of a model: its weights, and the index and specification of its encoding."""
    return sum(path.stat().st_size for pattern in SCORER_FILES for path in artifact.path.glob(pattern))


def _linked(folder: Path, paths: list[Path], shared: Path) -> bool:
    for path in paths:
        there = shared / path.relative_to(folder)
        try:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.hardlink_to(path)
        except OSError:  # another file system, or one that has no links
            return False
    return True


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


_opened: dict[str, Artifact] = {}  # a worker's: one, or during a change of models two


def open_model(placed: Placed) -> Artifact:
    """On a worker: the model, mapped; opened once a worker, not once a task or batch.

    Raises:
        DataError: another model lies there by now.
    """
    if placed.fingerprint not in _opened:
        folder = Path(placed.folder) if placed.folder is not None else _local_copy(placed)
        artifact = Artifact.load(folder, verify=False)  # the driver has verified it
        if artifact.fingerprint != placed.fingerprint:
            raise DataError(
                f"{folder} holds another model than when the job began: {artifact.fingerprint[:12]}… instead of "
                f"{placed.fingerprint[:12]}…. Run the job again when whoever replaces it is done."
            )
        while len(_opened) > 1:
            _opened.pop(next(iter(_opened)))
        _opened[placed.fingerprint] = artifact
    return _opened[placed.fingerprint]


def _local_copy(placed: Placed) -> Path:
    """The model on this executor's disk, written by whichever worker comes first."""
    root = Path(SparkFiles.getRootDirectory())
    folder = root / f"nfm-{placed.fingerprint}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(dir=root))
            for relative, piece in placed.pieces:
                path = staging / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(piece.value)
                vars(piece).pop("_value", None)  # Spark would keep each piece in this worker's memory for good
            staging.rename(folder)
    return folder
