"""Limits that keep the source tree readable: few parameters, short functions and files, small packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.unit

FILES = sorted([*(ROOT / "nfm").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
MAX_PARAMETERS, MAX_LINES_OF_FILE, MAX_LINES_OF_FUNCTION, MAX_FILES = 8, 300, 60, 16


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    args = function.args
    named = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")]


def test_the_source_tree_is_found() -> None:
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_functions_and_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES_OF_FILE
    many = {function.name: parameters(function) for function in functions(path)}
    assert {name: names for name, names in many.items() if len(names) > MAX_PARAMETERS} == {}
    lines = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions(path)}
    assert {name: count for name, count in lines.items() if count > MAX_LINES_OF_FUNCTION} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: folder.name)
def test_packages_are_small(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MAX_FILES
