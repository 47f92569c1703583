"""Loops that let other threads run, shared among some."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any


def shared(threads: int, bounds: Sequence[int], loop: Callable[..., object], *arguments: Any) -> None:
    """Call loop(start, stop, *arguments) for the ranges between bounds, each in a thread; wait for all."""
    first, *rest = [(a, b) for a, b in itertools.pairwise(bounds) if a < b] or [(0, 0)]
    others = [_pool(threads).submit(loop, *of, *arguments) for of in rest]
    loop(*first, *arguments)
    for other in others:
        other.result()


def later(threads: int, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Call a function in another thread."""
    return _pool(threads).submit(function, *arguments)


def even(count: int, threads: int) -> list[int]:
    """Bounds of about equal ranges of so many."""
    return [count * i // threads for i in range(threads + 1)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "rows")
