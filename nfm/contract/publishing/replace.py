"""Replace files and folders atomically: a reader sees the old content or the new, even if the writer is killed."""

import ctypes
import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OLD = ".old"  # ending of a folder's name between the two renames of `swap`
_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_GRACE = 0.5  # seconds that a replaced folder stays, for readers that have opened it and not listed it yet


def hidden_path(target: Path, ending: str) -> Path:
    """Return the path of a hidden file or folder that belongs to an output: `.scores.lock` beside `scores`.

    For the output `scores/ds=1` it is beside `scores`: DuckDB and polars also read the hidden folders in a folder, so
    one in `scores` would be read as a part of that table. The output must be an absolute path.
    """
    table = next(folder for folder in (target, *target.parents) if "=" not in folder.name)
    is_other_disk = table.exists() and table.stat().st_dev != table.parent.stat().st_dev
    folder = target.parent if is_other_disk or not os.access(table.parent, os.W_OK) else table.parent
    return folder / f".{'.'.join(target.relative_to(folder).parts)}.{ending}"


def hidden_paths(target: Path, pattern: str) -> list[Path]:
    """Return the existing hidden paths of an output whose endings match the pattern."""
    prefix = hidden_path(target, "")
    return list(prefix.parent.glob(f"{glob.escape(prefix.name)}{pattern}"))


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


def swap(new: Path, target: Path) -> bool:
    """Put a new folder in the target's place; return whether `new` is the replaced folder then."""
    if not target.exists():
        new.rename(target)
        return False
    if not _exchange(new, target):
        # Some network mounts cannot exchange two names in one step: for a moment the target does not exist.
        old = new.with_name(new.name + OLD)
        target.rename(old)
        new.rename(target)
        old.rename(new)
    return True


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one atomic step, with renameat2 (Linux 3.15) or renamex_np (macOS); False if impossible."""
    libc, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(a), os.fsencode(b))
    if renameat2 := getattr(libc, "renameat2", None):
        failed = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    elif renamex_np := getattr(libc, "renamex_np", None):
        failed = renamex_np(*names, _EXCHANGE)
    else:
        return False
    code = ctypes.get_errno()
    if not failed or code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return not failed
    raise OSError(code, os.strerror(code), str(a), None, str(b))


def delete_replaced(folders: Sequence[Path]) -> None:
    """Delete replaced folders so that a reader that still lists one never mistakes the remaining files for all.

    Readers that have just opened a folder get time to list it. For others, such as a long copy, each folder gets a link
    to nothing that looks like a data file, and is deleted last: opening it fails.
    """
    if folders:
        time.sleep(_GRACE)
    for folder in folders:
        with suppress(OSError):  # some network mounts have no symbolic links
            files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
            for parent, suffix in {(file.parent, file.suffix) for file in files if file.name[0] not in "._"}:
                (parent / f"part-replaced{suffix}").symlink_to("replaced by a newer publication")
            for file in files:
                file.unlink()
        shutil.rmtree(folder, ignore_errors=True)
