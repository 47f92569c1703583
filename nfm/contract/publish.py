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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfm.contract.errors import DataError, NfmError

log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OLD = ".old"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFT_BY_OTHERS = ("._", ".DS_Store", ".nfs", ".fuse_hidden")
FILES = "_files.json"  # in each published folder: what it was published with. Readers of tables pass over the name


class BusyError(NfmError):
    """Another run is publishing to the same place."""


@contextmanager
def publish(target: Path, marker: str) -> Iterator[Path]:
    """`staged`, while no other run may write the target.

    Raises:
        BusyError: another run is at it; names the process and the host.
        DataError: as `staged` does.
    """
    with locked(target), staged(target, marker) as staging:
        yield staging


@contextmanager
def staged(target: Path, marker: str) -> Iterator[Path]:
    """Hand out an empty staging folder; swap it in when the block ends, remove it when the block raises.

    What a killed run left in staging is removed by the next one. Call it while the target is `locked`.

    Args:
        target: the folder to make or replace. It stays as it is until the new one is complete.
        marker: a file that every folder of this kind holds; a folder without it is not ours and is never replaced.

    Raises:
        DataError: the target holds what the job has not written, or the new folder lacks the marker.
        NfmError: the target cannot be written, or the disk is full.
    """
    target = target.resolve()  # behind a symbolic link, the folder is replaced and the link stays
    with _told(target):
        for stale in target.parent.glob(f".{glob.escape(target.name)}.staging-*"):
            if stale.suffix == _OLD and not target.exists():
                stale.rename(target)  # a run died between the two renames of _swap
                continue
            shutil.rmtree(stale, ignore_errors=True)
            if stale.exists():  # somebody else's, or held open on a network mount
                log.warning("what a run before this one has left in %s cannot be removed", stale)
        check_replaceable(target, marker)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=target.parent))
        staging.chmod(0o777 & ~_umask())
    try:
        yield staging
        if not (staging / marker).exists():
            raise DataError(f"{staging} was not completed: it holds no {marker}. {target} is left as it was.")
        check_replaceable(target, marker)  # hours may have gone by
        (staging / FILES).write_text(json.dumps(sorted(_files(staging)), indent=0))
        _swap(staging, target)
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in _FULL):  # of a worker's error, Spark hands over the text
            raise _no_room(target) from error
        raise
    finally:
        # After the swap this is the old folder; after an error, the unfinished new one.
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other runs from writing this folder. The kernel lets go of the lock when a run dies, however it dies.

    Raises:
        BusyError: another run is at it; names the process and the host.
        NfmError: nothing can be written there.
    """
    target = target.resolve()
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = (target.parent / f".{target.name}.lock").open("ab+", buffering=0)
    with opened as file:
        with _told(target):
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
    """A folder that is to be replaced is one of this kind, empty, or not there; and nobody has put more into it.

    Raises:
        DataError: it holds something else.
        NfmError: it cannot be looked into.
    """
    with _told(target):
        foreign = target.exists() and (
            not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())
        )
        more = [] if foreign else _not_written(target.resolve())
    if foreign:
        raise DataError(
            f"{target} exists, and is not something this job made: it holds no {marker}. It is left as it is. "
            "Choose another folder, or move that one away."
        )
    if more:
        others = f" (and {len(more) - 1} more)" if len(more) > 1 else ""
        raise DataError(
            f"{target} holds {more[0]}{others}, which this job has not written, and is replaced as a whole. It is left "
            "as it is. Move what is yours to another folder, and run the job again."
        )


@contextmanager
def _told(target: Path) -> Iterator[None]:
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
    """Files that have come into a folder since it was published: none if it does not tell what it was published with.

    An empty file is a mark such as _SUCCESS where readers of tables pass over its name: nothing is lost with it. What
    file systems and desktops leave is not looked at, and nothing in a Delta table, which is tended by others.
    """
    told = target / FILES
    if not told.exists() or (target / "_delta_log").exists():
        return []
    text = told.read_text()
    try:
        written = set(json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{told} is damaged ({error}): it tells which files of this folder were written by this job, and may be "
            f"replaced. {target} is left as it is. Move it away, and run the job again."
        ) from error
    more = sorted(name for name in _files(target) - {*written, FILES} if not _is_ignorable(target / name))
    # Where another run has published meanwhile, the list was of the folder before.
    return _not_written(target) if more and told.read_text() != text else more


def _is_ignorable(path: Path) -> bool:
    # Hadoop's checksum of a mark, macOS's notes, what network mounts keep of a file that was removed while it was read.
    if path.name.startswith(_LEFT_BY_OTHERS) or (path.name[0] == "." and path.suffix == ".crc"):
        return True
    try:
        return path.name[0] in "._" and not path.is_symlink() and path.stat().st_size == 0
    except FileNotFoundError:  # it has gone since
        return True


def _files(folder: Path) -> set[str]:
    """All files below a folder, and links to wherever; names with the folders they lie in."""

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
        # The file system cannot exchange two names in one step (some network mounts): for an instant there is none.
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
