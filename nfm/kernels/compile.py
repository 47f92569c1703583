"""Compilation of loops to machine code that releases the GIL, and its cache on disk.

Compiling takes a second and memory that is not given back; the loops of a training take some twenty seconds of a core.
So machine code is cached for the next process, next to the sources where that folder is writable. It is not cached when
the package is an archive (`spark.submit.pyFiles`), which has another place in each run: each would leave files in the
user's home.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# numba's error model: without checks that may raise, LLVM vectorizes loops.
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}
_FOLDER = Path(__file__).parent
_IS_CACHED = Path(__file__).exists()


def compiled(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a loop now, for these types only."""
    loop = when_called(function, **options)
    loop.compile(signature)
    loop.disable_compile()
    machine_code: Callable[..., Any] = loop
    return machine_code


def when_called(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a loop when it is called, for the types of the arguments."""
    loop: Any = njit(**_OPTIONS, **options)(function)
    if _IS_CACHED:
        with suppress(RuntimeError):  # no folder is writable
            loop._cache = _Cache(function)
    return loop


class _Cache(FunctionCache):
    """numba's cache with two changes: any edit in this package makes it stale, and a full disk does not end a job.

    numba itself looks only at the file of the function, and not at the files of what was inlined into it.
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
