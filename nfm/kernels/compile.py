"""How loops become machine code, which lets other threads run.

It is kept on the disk for the next process, where there is a place: to compile takes a second and memory that is not
given back, a training's loops some twenty seconds of a core. Not of an archive, which lies elsewhere in each run: each
would leave files of its own behind in the user's home.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}  # without exceptions, loops become vectors
_PACKAGE = Path(__file__).parents[1]
_KEPT = Path(__file__).exists()


def compiled(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A loop for these types, compiled now."""
    loop = when_called(function, **options)
    loop.compile(signature)
    loop.disable_compile()
    machine_code: Callable[..., Any] = loop
    return machine_code


def when_called(function: Callable[..., Any], **options: Any) -> Any:
    """A loop that is compiled for the types that it is called with."""
    loop: Any = njit(**_OPTIONS, **options)(function)
    if _KEPT:
        with suppress(RuntimeError):  # no folder to write to
            loop._cache = _Cache(function)
    return loop


class _Cache(FunctionCache):
    """Numba's, which looks at the loop's own file alone to see whether machine code is stale, and raises when the disk
    is full."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), _sources()

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with suppress(OSError):
            return super().load_overload(sig, target_context)
        return None


@cache
def _sources() -> str:
    """A hash of the package's files that have loops, or what loops are inlined from."""
    texts = (path.read_bytes() for path in sorted(_PACKAGE.rglob("*.py")))
    return hashlib.sha256(b"".join(text for text in texts if b"numba" in text or b"nfm.kernels" in text)).hexdigest()
