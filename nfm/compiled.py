"""How loops become machine code, which lets other threads run.

It is kept on the disk for the next process, where there is a place: to compile takes a second and memory that is not
given back, a training's loops some twenty seconds of a core. Not of an archive, which lies elsewhere in each run: each
would leave files of its own behind in the user's home.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit

_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}  # without exceptions, loops become vectors
_KEPT = Path(__file__).exists()


def compiled(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A loop for these types, compiled now."""
    machine_code: Callable[..., Any]
    options |= _OPTIONS
    if _KEPT:
        with suppress(RuntimeError, OSError):  # no place to write to, or no room
            machine_code = njit(signature, cache=True, **options)(function)
            return machine_code
    machine_code = njit(signature, **options)(function)
    return machine_code


def when_called(function: Callable[..., Any]) -> Any:
    """A loop that is compiled for the types that it is called with."""
    if _KEPT:
        with suppress(RuntimeError):  # no folder to write to
            return njit(cache=True, **_OPTIONS)(function)
    return njit(**_OPTIONS)(function)
