"""Writing aside, then replacing: a reader sees the old file or the new one, and a killed writer harms neither."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def aside(target: Path) -> Path:
    """The hidden path that `replacing` writes to, unless several processes may write at once."""
    return target.with_name(f".{target.name}")


@contextmanager
def replacing(target: Path, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to; rename it to `target` when the block ends, delete it when the block raises.

    `shared`: several processes may write it at once: each gets its own path, and the last one wins. `durable`: the
    content is on the disk before the old file is replaced (fsync).
    """
    attempt = target.with_name(f".{target.name}-{uuid.uuid4().hex}") if shared else aside(target)
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

    Several processes may make the same folder at once; the first one wins.
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
