"""The cache of machine code is reused, invalidated when an inlined function changes, and never required."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OUTER = """
import resource, sys
from numba import types
from nfm.kernels.compile import compile_now, compile_when_called
from nfm.kernels.inner import scaled

def _outer(x):
    return scaled(x) + 1

if __name__ == "__main__":
    if "full" in sys.argv:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for loop in compile_now(types.int64(types.int64), _outer), compile_when_called(_outer):
        print(loop(10), sum(loop.stats.cache_hits.values()))
"""
INNER = """
from numba import njit

@njit(inline="always")
def scaled(x):
    return {factor} * x
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy of the package with two more files; a function of one is inlined into the loop of the other."""
    folder = tmp_path / "nfm" / "kernels"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "kernels/__init__.py", "kernels/compile.py"):
        shutil.copy(ROOT / "nfm" / name, tmp_path / "nfm" / name)
    (folder / "outer.py").write_text(OUTER)
    (folder / "inner.py").write_text(INNER.format(factor=2))
    return tmp_path


def run(package: Path, *arguments: str) -> list[str]:
    """Return the results of two loops for 10, and for each whether it came from the cache."""
    command = [sys.executable, "-m", "nfm.kernels.outer", *arguments]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_loops_come_from_the_cache_until_an_inlined_function_changes(package: Path) -> None:
    assert run(package) == ["21 0", "21 0"]
    assert run(package) == ["21 1", "21 1"]
    (package / "nfm" / "kernels" / "inner.py").write_text(INNER.format(factor=3))
    assert run(package) == ["31 0", "31 0"]
    (package / "nfm" / "kernels" / "inner.py").write_text(INNER.format(factor=2))
    assert run(package) == ["21 1", "21 1"]


def test_a_full_disk_does_not_end_a_job(package: Path) -> None:
    assert run(package, "full") == ["21 0", "21 0"]
    assert run(package) == ["21 0", "21 0"]


def test_an_unreadable_cache_is_ignored(package: Path) -> None:
    run(package)
    for kept in package.rglob("*.nbi"):
        kept.unlink()
        kept.mkdir()
    assert run(package) == ["21 0", "21 0"]


def test_no_loop_is_compiled_outside_the_package() -> None:
    """The cache detects changes in this package only."""
    others = [path for path in (ROOT / "nfm").rglob("*.py") if path.parent != ROOT / "nfm" / "kernels"]
    found = {path.name for path in others if "numba" in (text := path.read_text()) or "kernels.compile" in text}
    assert found == set()
