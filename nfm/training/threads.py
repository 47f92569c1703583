"""Loops that let other threads run, shared among a team of threads.

A step has some ten of them, a millisecond or two each, and between two of them no more than a little Python. To put a
thread to sleep and to wake it takes about as long, on a virtual machine at times longer: so a thread that waits looks
for a while whether there is something to do, and sleeps only then.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from nfm.kernels.compile import when_called
from nfm.kernels.registers import loaded_anew, pause

_LOOKS = 50_000  # about two milliseconds
_LINE = 8  # numbers apart, so that no two threads' are in one cache line
_ALONE = threading.Lock()  # two trainings in one process have one team


def shared(threads: int, bounds: Sequence[int], loop: Callable[..., object], *arguments: Any) -> None:
    """Call loop(start, stop, *arguments) for the ranges between bounds, each in a thread; wait for all.

    Args:
        threads: one is the caller's. There are no more ranges that are not empty.
        bounds: ascending.
        loop: compiled, and without the interpreter's lock.
        arguments: of all calls.
    """
    first, *others = [(a, b) for a, b in itertools.pairwise(bounds) if a < b] or [(0, 0)]
    with _ALONE:
        team = _team(threads)[: len(others)]
        for helper, of in zip(team, others, strict=True):
            helper.begin(loop, *of, *arguments)
        try:
            loop(*first, *arguments)
        finally:
            for helper in team:
                helper.finish()


def even(count: int, threads: int) -> list[int]:
    """Bounds of about equal ranges of so many."""
    return [count * i // threads for i in range(threads + 1)]


@cache
def _team(threads: int) -> list["_Helper"]:
    return [_Helper() for _ in range(threads - 1)]


os.register_at_fork(after_in_child=_team.cache_clear)  # a forked process has none of its parent's threads


class _Helper:
    """A thread that calls what it is given."""

    def __init__(self) -> None:
        self._begun, self._ended = np.zeros(_LINE, np.int64), np.zeros(_LINE, np.int64)  # calls so far
        self._call: tuple[Any, ...] = ()
        self._error: BaseException | None = None
        self._asleep, self._wake = False, threading.Semaphore(0)
        threading.Thread(target=self._work, daemon=True).start()

    def begin(self, *call: Any) -> None:
        """Call the first argument with the others; not before the last call is finished."""
        self._call = call
        self._begun[0] += 1
        if self._asleep:
            self._wake.release()

    def finish(self) -> None:
        """Wait for the call; raises what it raised."""
        while not look(self._ended, int(self._begun[0]), _LOOKS):
            os.sched_yield()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        for number in itertools.count(1):
            if not look(self._begun, number, _LOOKS):
                self._asleep = True  # `begin` sees that, or was before what is asked next
                while self._begun[0] < number:
                    self._wake.acquire()
                self._asleep = False
            loop, *arguments = self._call
            try:
                loop(*arguments)
            except BaseException as error:
                self._error = error
            self._call = ()
            self._ended[0] = number


@when_called
def look(count: Any, wanted: int, looks: int) -> bool:
    """Whether another thread's count gets there while one looks so many times."""
    for _ in range(looks):
        if loaded_anew(count) >= wanted:
            return True
        pause()
    return False
