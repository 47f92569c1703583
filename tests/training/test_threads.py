"""A team of threads does each range once, however long it has waited, and hands errors over."""

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.training.threads import even, shared


@given(threads=st.integers(1, 5), count=st.integers(0, 20))
def test_every_range_is_worked_on_once_in_threads_of_their_own(threads: int, count: int) -> None:
    done: list[tuple[int, int, Any, int]] = []

    def loop(start: int, stop: int, what: str) -> None:
        time.sleep(0.001)  # none of them ends before the last begins
        done.append((start, stop, what, threading.get_ident()))

    bounds = even(count, threads)
    assert (bounds[0], bounds[-1]) == (0, count)
    assert max(b - a for a, b in itertools.pairwise(bounds)) <= -(-count // threads)
    shared(threads, bounds, loop, "of this call")
    ranges = sorted({(a, b) for a, b in itertools.pairwise(bounds) if a < b} or {(0, 0)})
    assert sorted(of[:2] for of in done) == ranges
    assert {of[2] for of in done} == {"of this call"}
    assert len({of[3] for of in done}) == len(ranges)


def test_helpers_that_have_gone_to_sleep_wake_up() -> None:
    total: list[int] = []
    for pause in (0.0, 0.05, 0.0, 0.001, 0.002, 0.003, 0.004, 0.1):
        time.sleep(pause)
        shared(3, [0, 1, 2, 3], lambda start, stop: total.append(start))
    assert sorted(total) == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize("where", [0, 1], ids=["the caller's thread", "another thread"])
def test_an_error_is_raised_and_the_team_goes_on(where: int) -> None:
    def fails(start: int, stop: int) -> None:
        if start == where:
            raise ValueError("in one of them")
        time.sleep(0.01)  # the other one is still at work

    for _ in range(2):
        with pytest.raises(ValueError, match="in one of them"):
            shared(2, [0, 1, 2], fails)
    done: list[int] = []
    shared(2, [0, 1, 2], lambda start, stop: done.append(start))
    assert sorted(done) == [0, 1]


def test_callers_in_two_threads_wait_for_each_other() -> None:
    done: list[tuple[str, int]] = []

    def loop(start: int, stop: int, whose: str) -> None:
        time.sleep(0.001)
        done.append((whose, start))

    def caller(whose: str) -> None:
        for _ in range(20):
            shared(2, [0, 1, 2], loop, whose)

    callers = [threading.Thread(target=caller, args=(whose,)) for whose in "ab"]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert sorted(done) == [(whose, start) for whose in "ab" for start in (0, 1) for _ in range(20)]


def test_more_ranges_than_threads_are_refused() -> None:
    done: list[int] = []
    with pytest.raises(ValueError, match="longer"):
        shared(2, [0, 1, 2, 3], lambda start, stop: done.append(start))


def test_a_forked_process_has_a_team_of_its_own() -> None:
    check = """
import os
from nfm.training.threads import shared

done = []
shared(2, [0, 1, 2], lambda start, stop: done.append(start))
child = os.fork()
if not child:
    shared(2, [2, 3, 4], lambda start, stop: done.append(start))
    os._exit(0 if sorted(done) == [0, 1, 2, 3] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60, cwd=Path(__file__).parents[2])
