"""How loops become machine code."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit

_OPTIONS: Any = {
    "nogil": True,
    "error_model": "numpy",
}  # other threads may run; without exceptions, loops become vectors


def when_called(function: Callable[..., Any]) -> Any:
    """A loop that is compiled for the types that it is called with.

    It is kept on the disk for the next process, where there is a place: a training's loops take some twenty seconds of
    a core.
    """
    if Path(__file__).exists():  # no archive, which lies elsewhere in each run
        with suppress(RuntimeError):  # no folder to write to
            return njit(cache=True, **_OPTIONS)(function)
    return njit(**_OPTIONS)(function)
