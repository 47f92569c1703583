"""Publish a folder in one step: a reader sees the complete old folder or the complete new one.

A reader sees the complete old folder or the complete new one. Readers of tables list a folder and then open its files
by their names, so the name of each data file contains the publication's id: a reader that has listed the old folder
gets "file not found", never a file of the new one.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nfm.contract.errors import DataError, NfmError
from nfm.contract.messages import listed
from nfm.contract.paths import without_loop
from nfm.contract.publishing.replace import OLD, delete_replaced, hidden_path, hidden_paths, swap
from nfm.contract.publishing.table_formats import find_table, look_on_disk

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SYSTEM_FILES = ("._", ".DS_Store", ".nfs", ".fuse_hidden")
FILES = "_files.json"  # lists the files that the job wrote; readers of tables ignore this name


class BusyError(NfmError):
    """Another run is publishing to the same folder."""


@contextmanager
def publish(target: Path, marker: str) -> Iterator[Path]:
    """Lock the target and yield a staging folder, see `staged`; BusyError if another run writes the target."""
    with locked(target), staged(target, marker) as staging:
        yield staging


@contextmanager
def publish_together(*outputs: tuple[Path, str]) -> Iterator[list[Path]]:
    """Publish several folders, given by target and marker, one right after the other; otherwise like `publish`."""
    with ExitStack() as stack:
        for target, _ in outputs:
            stack.enter_context(locked(target))
        yield stack.enter_context(_staged(outputs))


@contextmanager
def staged(target: Path, marker: str) -> Iterator[Path]:
    """Yield an empty staging folder; swap it in when the block ends, delete it when the block raises.

    The target does not change until the new folder is complete. The target must be `locked`. Every folder of this kind
    contains the file `marker`; a folder without it is never replaced. Raises DataError if the target contains files
    that the job did not write, or the new folder lacks the marker; NfmError if the target cannot be written, or the
    disk is full.
    """
    with _staged([(target, marker)]) as (staging,):
        yield staging


@contextmanager
def _staged(outputs: Sequence[tuple[Path, str]]) -> Iterator[list[Path]]:
    # Replace the folder that a symbolic link points to, and keep the link.
    outputs = [(target.resolve(), marker) for target, marker in outputs]
    with _staging_folders([target for target, _ in outputs]) as (stagings, replaced):
        for target, marker in outputs:
            check_replaceable(target, marker)
        yield stagings
        for staging, (target, marker) in zip(stagings, outputs, strict=True):
            if not (staging / marker).exists():
                raise DataError(f"{staging} is not complete: it contains no {marker}. {target} was not changed.")
            check_replaceable(target, marker)  # again, because writing may have taken hours
            (staging / FILES).write_text(json.dumps(sorted(_list_files(staging)), indent=0))
        for staging, (target, _) in zip(stagings, outputs, strict=True):
            if swap(staging, target):
                replaced.append(staging)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield a new hidden folder for an output, which must be `locked`; delete the folder when the block ends.

    The next run deletes the folder of a killed run. Raises NfmError if the target cannot be written, or the disk is
    full.
    """
    with _staging_folders([target.resolve()]) as ((staging,), _):
        yield staging


@contextmanager
def _staging_folders(targets: Sequence[Path]) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yield new folders for the targets, and a list for those that contain a replaced target in the end."""
    stagings, replaced = [_make_staging(target) for target in targets], list[Path]()
    try:
        yield stagings, replaced
    except Exception as error:
        if any(os.strerror(code) in str(error) for code in _FULL):  # Spark passes on only the text of a worker's error
            raise _disk_full_error(targets[-1]) from error
        raise
    finally:
        for staging in stagings:
            if staging not in replaced:  # incomplete after an error, else swapped in
                shutil.rmtree(staging, ignore_errors=True)
        delete_replaced(replaced)


def publication_id(staging: Path) -> str:
    """Return the id of the publication that is written to a staging folder: 16 hexadecimal digits."""
    return staging.name[-16:]


def without_publication(name: str) -> str:
    """Return the name of a data file without the id of its publication, if it has one."""
    return re.sub(r"-[0-9a-f]{16}(?=\.\w+$)", "", name)


def _make_staging(target: Path) -> Path:
    with translate_os_errors(target):
        for stale in hidden_paths(target, "staging-*"):
            if stale.suffix == OLD and not target.exists():
                stale.rename(target)  # a run was killed between the two renames of `swap`
                continue
            shutil.rmtree(stale, ignore_errors=True)
            if stale.exists():  # owned by another user, or a file is open on a network mount
                log.warning("the staging folder of an earlier run, %s, cannot be deleted", stale)
        staging = hidden_path(target, f"staging-{uuid.uuid4().hex[:16]}")
        staging.mkdir()
    return staging


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lock a folder against other runs; the kernel releases the lock when the process ends, even if it is killed.

    Raises BusyError, which names the process and host of the other run; NfmError if the folder cannot be written.
    """
    target = without_loop(target).resolve()
    with translate_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        opened = hidden_path(target, "lock").open("ab+", buffering=0)
    with opened as file:
        with translate_os_errors(target):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                name = file.readline().decode().strip() or "its process is not known yet"
                raise BusyError(
                    f"Another run is writing {target}: {name}. Wait until it ends or stop it. Then run the job again."
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def check_replaceable(target: Path, marker: str) -> None:
    """Raise DataError unless the folder is absent, empty, or has the marker and only files that the job wrote.

    A Delta table has a history, and perhaps other writers: neither the table nor a folder in it is replaced.
    """
    if table := find_delta_table(target):
        where = "a Delta table" if table == target.resolve() else f"in {table}, which is a Delta table"
        raise DataError(
            f"{target} is {where}; the job would replace the folder, and the table would lose its history. It was not "
            "changed. Choose another folder, or move the existing one; to write scores into the table, set "
            "score.format: delta."
        )
    with translate_os_errors(target):
        is_foreign = target.exists() and (
            not target.is_dir() or (any(target.iterdir()) and not (target / marker).exists())
        )
        foreign_files = [] if is_foreign else _list_foreign_files(target.resolve())
    if is_foreign:
        raise DataError(
            f"{target} already exists and was not written by this job: it contains no {marker}. It was not changed. "
            "Choose another folder, or move the existing one."
        )
    if foreign_files:
        raise DataError(
            f"{target} contains {listed(foreign_files, most=1)}, which this job did not write, and the job replaces "
            "the whole folder. It was not changed. Move your files to another folder, and run the job again."
        )


def find_delta_table(target: Path) -> Path | None:
    """Return the folder of the Delta table that the target is, or whose data may be in the target; None if none."""
    found = find_table([str(target.resolve())], look_on_disk, ["delta"])
    return Path(found.folder) if found else None


@contextmanager
def translate_os_errors(target: Path) -> Iterator[None]:
    """Raise an OSError as a one-line NfmError about the target."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full_error(target) from error
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise NfmError(
            f"Cannot write {target} ({error.filename or 'its lock'}: {reason}). Choose a folder that you can write to, "
            "and run the job again."
        ) from error


def _disk_full_error(target: Path) -> NfmError:
    return NfmError(
        f"A disk is full: there is no space left for {target}, or for temporary files (TMPDIR, spark.local.dir). The "
        "old output was not changed. Free some space and run the job again."
    )


def _list_foreign_files(target: Path) -> list[str]:
    """Return the files that were added to a folder after it was published; empty if it has no `_files.json`.

    Empty files with a name that readers of tables ignore are markers such as _SUCCESS, and are safe to delete.
    They are ignored, and so are files of file systems and desktops.
    """
    listing = target / FILES
    if not listing.exists():
        return []
    text = listing.read_text()
    try:
        written = set(json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"Cannot parse {listing} ({error}), which lists the files that this job wrote. {target} was not changed. "
            f"Move {target} away and run the job again."
        ) from error
    foreign_files = sorted(name for name in _list_files(target) - {*written, FILES} if not _is_ignorable(target / name))
    # Another run may have published meanwhile: then compare with its new list.
    return _list_foreign_files(target) if foreign_files and listing.read_text() != text else foreign_files


def _is_ignorable(path: Path) -> bool:
    # Checksums of Hadoop, metadata of macOS, files that a network mount keeps because they were deleted while open.
    if path.name.startswith(_SYSTEM_FILES) or (path.name[0] == "." and path.suffix == ".crc"):
        return True
    try:
        return path.name[0] in "._" and not path.is_symlink() and path.stat().st_size == 0
    except FileNotFoundError:  # deleted since
        return True


def _list_files(folder: Path) -> set[str]:
    """Return all files and symbolic links below a folder as relative paths."""

    def fail(error: OSError) -> None:
        raise error

    found = set()
    for parent, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found |= {str(Path(parent, name).relative_to(folder)) for name in (*names, *links)}
    return found
