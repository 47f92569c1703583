"""Compile loops to machine code that releases the GIL, and cache it on disk.

Compiling a loop takes a second, and memory that is not freed; the loops of a training take about twenty seconds of one
core. Machine code is therefore cached for the next process, next to the sources if that folder is writable. It is not
cached when the package is an archive (`spark.submit.pyFiles`), which has a different path in each run: every run would
leave files in the user's home.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# NumPy's error model: LLVM vectorizes loops only without checks that may raise.
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}
_FOLDER = Path(__file__).parent
_IS_CACHED = Path(__file__).exists()


def compile_now(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a loop now and only for these types."""
    loop = compile_when_called(function, **options)
    loop.compile(signature)
    loop.disable_compile()
    machine_code: Callable[..., Any] = loop
    return machine_code


def compile_when_called(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a loop at its first call, for the types of the arguments."""
    loop: Any = njit(**_OPTIONS, **options)(function)
    if _IS_CACHED:
        with suppress(RuntimeError):  # numba found no writable folder
            loop._cache = _Cache(function)
    return loop


class _Cache(FunctionCache):
    """numba's cache with two changes: any edit in this package invalidates it, and a full disk does not end a job.

    numba itself checks only the file of the function, not those of functions that were inlined into it.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), _hash_sources()

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with suppress(OSError):
            return super().load_overload(sig, target_context)
        return None


@cache
def _hash_sources() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))).hexdigest()
