"""Read folders that another process may replace meanwhile: all files are of one publication."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from nfm.contract.errors import ReplacedError
from nfm.contract.messages import listed
from nfm.contract.paths import without_loop
from nfm.contract.publishing.replace import OLD, hidden_paths

Result = TypeVar("Result")
_ATTEMPTS = 10


def read_published(folders: Sequence[Path], read: Callable[[], Result]) -> Result:
    """Call `read`, which reads several files, until no folder was replaced meanwhile: each is of one publication then.

    Raises what `read` raises if no folder was replaced; ReplacedError if one was replaced during every attempt.
    """
    folders = [without_loop(folder) for folder in folders]
    for _ in range(_ATTEMPTS):
        with ExitStack() as stack:
            opened = [(folder, _open_folder(folder, stack)) for folder in folders]
            try:
                result = read()
            except Exception:
                if all(_is_same_folder(folder, descriptor) for folder, descriptor in opened):
                    raise
            else:
                if all(_is_same_folder(folder, descriptor) for folder, descriptor in opened):
                    return result
    raise ReplacedError(
        f"{listed(folders)} was replaced {_ATTEMPTS} times while it was read. Stop the job that writes it again and "
        "again, and run this one again."
    )


def _open_folder(folder: Path, stack: ExitStack) -> int | None:
    """Open a folder, so that its inode is not used again before the stack is closed; return None if it is absent."""
    for _ in range(100):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
            stack.callback(os.close, descriptor)
            return descriptor
        if not hidden_paths(folder.resolve(), f"staging-*{OLD}"):
            break
        time.sleep(0.01)  # another process is between the two renames of `swap`, unless it was killed there
    return None


def _is_same_folder(folder: Path, descriptor: int | None) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(-1 if descriptor is None else descriptor))
    except OSError:
        return descriptor is None and not folder.exists()


def check_fingerprint(folder: Path, what: str, found: str, expected: str) -> None:
    """Raise ReplacedError if the encoding or the model in a folder is not the one that the job has read before."""
    if found != expected:
        raise ReplacedError(
            f"The {what} in {folder} was replaced while the job ran: {found[:12]}… instead of {expected[:12]}…. "
            "Run the job again when the new one is complete."
        )
