"""Publishing a folder: a reader sees the old one or the new one, never half of one."""

import ctypes
import errno
import fcntl
import glob
import json
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfm.contract.errors import DataError, NfmError
from nfm.contract.messages import listed

log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OLD = ".old"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFT_BY_OTHERS = ("._", ".DS_Store", ".nfs", ".fuse_hidden")
FILES = "_files.json"  # in each published folder: the files that the job wrote. Readers of tables ignore the name


class BusyError(NfmError):
    """Another run is publishing to the same folder."""


@contextmanager
def publish(target: Path, marker: str) -> Iterator[Path]:
    """`staged`, while no other run may write the target; raises BusyError if one does."""
    with locked(target), staged(target, marker) as staging:
        yield staging


@contextmanager
def staged(target: Path, marker: str) -> Iterator[Path]:
    """Yield an empty staging folder; swap it in when the block ends, delete it when the block raises.

    The target stays as it is until the new folder is complete. The next run deletes what a killed one left in staging.
    Call it while the target is `locked`. Every folder of this kind contains the file `marker`; a folder without it is
    never replaced. Raises DataError if the target contains files of others, or the new folder lacks the marker;
    NfmError if the target cannot be written, or the disk is full.
    """
    target = target.resolve()  # behind a symbolic link, the folder is replaced and the link stays
    with _translated(target):
        for stale in target.parent.glob(f".{glob.escape(target.name)}.staging-*"):
            if stale.suffix == _OLD and not target.exists():
                stale.rename(target)  # a run was killed between the two renames of _swap
                continue
            shutil.rmtree(stale, ignore_errors=True)
            if stale.exists():  # another user's, or held open on a network mount
                log.warning("what an earlier run left in %s cannot be deleted", stale)
        check_replaceable(target, marker)
        staging = target.parent / f".{target.name}.staging-{uuid.uuid4().hex}"
        staging.mkdir()
    try:
        yield staging
        if not (staging / marker).exists():
            raise DataError(f"{staging} was not completed: it contains no {marker}. {target} is left as it was.")
        check_replaceable(target, marker)  # again: hours may have passed
        (staging / FILES).write_text(json.dumps(sorted(_files(staging)), indent=0))
        _swap(staging, target)
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in _FULL):  # of a worker's error, Spark only passes the text
            raise _no_room(target) from error
        raise
    finally:
        # After the swap this is the old folder; after an error, the unfinished new one.
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other runs from writing this folder. The kernel releases the lock when the process ends in any way.

    Raises BusyError, which names the process and host of the other run; NfmError where nothing can be written.
    """
    target = target.resolve()
    with _translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = (target.parent / f".{target.name}.lock").open("ab+", buffering=0)
    with opened as file:
        with _translated(target):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                name = file.readline().decode().strip() or "its name is not known yet"
                raise BusyError(
                    f"Another run is writing {target}: {name}. Wait for it, or stop it, and start again."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def check_replaceable(target: Path, marker: str) -> None:
    """Raise DataError unless the folder may be replaced: absent, empty, or of this kind without files of others."""
    with _translated(target):
        foreign = target.exists() and (
            not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())
        )
        more = [] if foreign else _not_written(target.resolve())
    if foreign:
        raise DataError(
            f"{target} exists, and is not something this job made: it contains no {marker}. It is left as it is. "
            "Choose another folder, or move that one away."
        )
    if more:
        raise DataError(
            f"{target} contains {listed(more, most=1)}, which this job did not write, and is replaced as a whole. It "
            "is left as it is. Move your files to another folder, and run the job again."
        )


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(target) from error
        what = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise NfmError(
            f"{target} cannot be written, because of {error.filename or 'its lock'}: {what}. Choose a folder that this "
            "user may write, and run the job again."
        ) from error


def _no_room(target: Path) -> NfmError:
    return NfmError(
        f"A disk is full: there is no room for {target}, or for what is put aside on the way (TMPDIR, "
        "spark.local.dir). The old output was left as it was. Make room and run the job again."
    )


def _not_written(target: Path) -> list[str]:
    """Files that came into a folder after it was published; none if it does not list what was published.

    An empty file whose name readers of tables ignore is a mark such as _SUCCESS: nothing is lost with it. Files of
    file systems and desktops are ignored, and everything in a Delta table, which others maintain.
    """
    listing = target / FILES
    if not listing.exists() or (target / "_delta_log").exists():
        return []
    text = listing.read_text()
    try:
        written = set(json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{listing} is damaged ({error}): it lists the files that this job wrote and may replace. {target} is left "
            "as it is. Move it away, and run the job again."
        ) from error
    more = sorted(name for name in _files(target) - {*written, FILES} if not _is_ignorable(target / name))
    # If another run has published meanwhile, the listing was that of the folder before.
    return _not_written(target) if more and listing.read_text() != text else more


def _is_ignorable(path: Path) -> bool:
    # Hadoop's checksum of a mark, macOS's notes, a network mount's copy of a file that was deleted while it was read.
    if path.name.startswith(_LEFT_BY_OTHERS) or (path.name[0] == "." and path.suffix == ".crc"):
        return True
    try:
        return path.name[0] in "._" and not path.is_symlink() and path.stat().st_size == 0
    except FileNotFoundError:  # deleted since
        return True


def _files(folder: Path) -> set[str]:
    """All files below a folder, and links to anywhere, as relative paths."""

    def stop(error: OSError) -> None:
        raise error

    found = set()
    for inside, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if Path(inside, name).is_symlink()]
        found |= {str(Path(inside, name).relative_to(folder)) for name in (*names, *links)}
    return found


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        # Some network mounts cannot exchange two names in one step: for an instant neither folder has the name.
        old = new.with_name(new.name + _OLD)
        target.rename(old)
        new.rename(target)
        old.rename(new)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one atomic step (renameat2, Linux 3.15)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(a), None, str(b))
