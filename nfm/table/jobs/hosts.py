"""Share one copy of the model among all workers of a host; they map its files.

If every machine sees the model's folder, workers map it in place. Otherwise Spark broadcasts the files, and the first
worker of an executor writes them to its disk.
"""

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyspark import Broadcast, SparkFiles
from pyspark.sql import SparkSession

from nfm.contract.artifact import SCORER_FILES, Artifact
from nfm.contract.publishing.published import check_fingerprint
from nfm.contract.publishing.replace import making

_PIECE = 32 << 20  # bytes of a file that a driver or a worker has in memory at a time

Placement = Literal["linked", "in place", "sent"]


@dataclass(frozen=True)
class Placed:
    """Location of a verified model, for workers."""

    fingerprint: str
    folder: str | None  # that every machine sees
    pieces: "tuple[tuple[str, Broadcast[bytes]], ...]"  # relative paths and contents in order, if there is no folder


def place(spark: SparkSession, artifact: Artifact, shared: Path | None = None) -> Placed:
    """Make a model available to the workers.

    The model has been verified, so workers do not read all of it again. Its files get hard links in `shared`, a folder
    that every machine sees: workers that start late find this model even if its own folder is replaced meanwhile.
    Raises ReplacedError if the model was replaced since it was verified.
    """
    return artifact.read_more(lambda: _place(spark, artifact, shared))


def _place(spark: SparkSession, artifact: Artifact, shared: Path | None) -> Placed:
    paths = _files(artifact)
    if shared is not None and _link(artifact.path, paths, shared):
        return Placed(artifact.fingerprint, str(shared), ())
    if is_local(spark):
        return Placed(artifact.fingerprint, str(artifact.path), ())
    pieces = [
        (str(path.relative_to(artifact.path)), spark.sparkContext.broadcast(piece))
        for path in paths
        for piece in _pieces(path)
    ]
    return Placed(artifact.fingerprint, None, tuple(pieces))


def placement(spark: SparkSession, artifact: Artifact, target: Path) -> Placement:
    """Predict what `place` does for a job that writes to `target`, without writing anything."""
    staging = target.resolve().parent
    disk = next(folder for folder in (staging, *staging.parents) if folder.exists())
    if disk.stat().st_dev == artifact.path.stat().st_dev:
        return "linked"
    return "in place" if is_local(spark) else "sent"


def place_read_only(spark: SparkSession, artifact: Artifact, target: Path) -> Placed:
    """Place a model for a job that writes nothing: without links, so the model must not be replaced meanwhile."""
    if placement(spark, artifact, target) == "sent":
        return place(spark, artifact)
    return Placed(artifact.fingerprint, str(artifact.path), ())


def host_bytes(artifact: Artifact) -> int:
    """Return the bytes of a model on a host: its weights, and the index and specification of its encoding."""
    return sum(path.stat().st_size for path in _files(artifact))


def _files(artifact: Artifact) -> list[Path]:
    return sorted(path for pattern in SCORER_FILES for path in artifact.path.glob(pattern))


def is_local(spark: SparkSession) -> bool:
    """Return whether tasks run inside the driver, without executors."""
    return str(spark.sparkContext.master).startswith("local")


def _link(folder: Path, paths: list[Path], shared: Path) -> bool:
    """Make hard links to files in a shared folder; return False if the file system refuses."""
    for path in paths:
        link = shared / path.relative_to(folder)
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)
        except OSError:  # another file system, or one without hard links
            return False
    return True


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


_opened: dict[str, Artifact] = {}  # models of this worker: one, or two while the model changes


def open_model(placed: Placed) -> Artifact:
    """Map the model into this worker, once for all its tasks; ReplacedError if the model was replaced."""
    if placed.fingerprint not in _opened:
        folder = Path(placed.folder) if placed.folder is not None else _copy_to_disk(placed)
        artifact = Artifact.load(folder, verify=False)  # the driver has verified it
        check_fingerprint(folder, "model", artifact.fingerprint, placed.fingerprint)
        while len(_opened) > 1:
            _opened.pop(next(iter(_opened)))
        _opened[placed.fingerprint] = artifact
    return _opened[placed.fingerprint]


def _copy_to_disk(placed: Placed) -> Path:
    """Return the model's folder on this executor's disk; the first worker writes it."""
    root = Path(SparkFiles.getRootDirectory())
    folder = root / f"nfm-{placed.fingerprint}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with making(folder) as staging:
                for relative, piece in placed.pieces:
                    path = staging / relative
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("ab") as file:
                        file.write(piece.value)
                    vars(piece).pop("_value", None)  # else Spark keeps each piece in this worker's memory
    return folder
