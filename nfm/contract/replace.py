"""Replace files and folders atomically: a reader sees the old content or the new, even if the writer is killed."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def temporary_path(target: Path) -> Path:
    """Return the hidden path that `replacing` writes to, unless it is `shared`."""
    return target.with_name(f".{target.name}")


@contextmanager
def replacing(target: Path, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to; rename it to `target` when the block ends, delete it when the block raises.

    Args:
        target: the file.
        shared: several processes may write at the same time; each gets its own path, and the last one wins.
        durable: write the content to the disk (fsync) before the old file is replaced.
    """
    attempt = target.with_name(f".{target.name}-{uuid.uuid4().hex}") if shared else temporary_path(target)
    try:
        yield attempt
        if durable:
            with attempt.open("rb") as file:
                os.fsync(file.fileno())
        attempt.replace(target)
    except BaseException:
        with suppress(OSError):
            attempt.unlink(missing_ok=True)
        raise


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """Yield a new folder; rename it to `target` when the block ends, delete it when the block raises.

    Several processes may create the same folder at the same time; the first one wins.
    """
    attempt = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    attempt.mkdir(parents=True)
    try:
        yield attempt
        try:
            attempt.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
