"""Imports go one way: each package may import those below it, and what an executor imports stays small."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TENSORFLOW = ("tensorflow", "keras")
STAGES = ("nfm.features", "nfm.scoring", "nfm.training")
TOP = ("nfm.api", "nfm.arguments", "nfm.cli")  # they import the stages inside functions, when a job needs them
ABOVE_CONFIG = ("nfm.init", "nfm.reports", "nfm.table", *TOP, *STAGES)
# What a module may never load, neither itself nor through what it imports; the first prefix that fits holds.
WALLS: dict[str, tuple[str, ...]] = {
    "nfm.contract": ("pydantic", "yaml", "pandas", "numba", "pyspark", *TENSORFLOW),
    "nfm.kernels": ("pyarrow", "pydantic", "pandas", "pyspark", *TENSORFLOW),
    "nfm.config": ("pyspark", "numba", *TENSORFLOW, "nfm.kernels", *ABOVE_CONFIG),
    "nfm.init": ("pyspark", "pandas", "numba", *TENSORFLOW, "nfm.reports", "nfm.table", *TOP, *STAGES),
    "nfm.reports": ("pyspark", "numba", *TENSORFLOW, "nfm.table", *TOP, *STAGES),
    "nfm.table": (*TENSORFLOW, "nfm.reports", *TOP, *STAGES),
    "nfm.features": (*TENSORFLOW, "nfm.scoring", "nfm.training", *TOP),
    "nfm.scoring": (*TENSORFLOW, "nfm.features", "nfm.training", *TOP),
    "nfm.training": ("pyspark", "nfm.features", "nfm.scoring", *TOP),
    **dict.fromkeys(TOP, ("pyspark", "pandas", "numba", *TENSORFLOW, "nfm.kernels", "nfm.table", *STAGES)),
    "nfm": ("numpy", "pyarrow", "pydantic", "yaml", "pandas", "numba", "pyspark", *TENSORFLOW, *ABOVE_CONFIG),
}

# What the modules of a package may have from elsewhere, and nothing behind one of its walls. It is loaded once each.
NUMPY = ("numpy", "pyarrow.compute", "pyarrow.parquet")
SPARK = (*NUMPY, "pandas", "pydantic", "yaml", "numba", "pyspark.sql.functions")
KERAS = (*NUMPY, "pydantic", "yaml", "numba", "tensorflow", "keras", "sklearn", "optuna")
OFFERED = {
    "nfm.contract": NUMPY,
    "nfm.kernels": ("numpy", "numba"),
    "nfm.config": ("pydantic", "yaml"),
    "nfm.init": (*NUMPY, "pydantic", "yaml", "pyarrow.csv"),
    "nfm.reports": (),
    "nfm.table": SPARK,
    "nfm.features": SPARK,
    "nfm.scoring": SPARK,
    "nfm.training": KERAS,
    **dict.fromkeys(TOP, ("pydantic", "yaml")),
    "nfm": (),
}

# Loads what is offered; then imports each module in a fork, which has nothing else, and tells what is loaded there.
IMPORT = """
import importlib, json, os, sys
offered, *names = sys.argv[1:]
for name in offered.split():
    importlib.import_module(name)
for name in names:
    if (child := os.fork()) == 0:
        importlib.import_module(name)
        print(json.dumps([name, sorted(sys.modules)]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"importing {name} alone")
"""


def modules() -> list[str]:
    """Every module of the source tree; found without importing any."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "nfm").rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def walls_of(module: str) -> tuple[str, ...]:
    return next(walls for room, walls in WALLS.items() if inside(module, room))


def loaded_by(names: list[str], offered: tuple[str, ...]) -> dict[str, list[str]]:
    """All modules that are loaded in a fresh interpreter to which something was offered, after importing each."""
    command = [sys.executable, "-c", IMPORT, " ".join(offered), *names]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, f"importing {', '.join(names)}:\n{run.stderr}"
    # A library may print on import: only our lines count.
    return dict(json.loads(line) for line in run.stdout.splitlines() if line.startswith('["nfm'))


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """For each module of the source tree, what importing it loads, where it is the first of ours to be imported."""
    rooms: dict[str, list[str]] = {}
    for name in modules():
        rooms.setdefault(next(room for room in WALLS if inside(name, room)), []).append(name)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda room: loaded_by(rooms[room], OFFERED[room]), sorted(rooms, reverse=True)))
    return {name: found for result in results for name, found in result.items()}


@pytest.mark.unit
@pytest.mark.parametrize("room", OFFERED)
def test_what_is_offered_is_behind_no_wall(room: str) -> None:
    assert [name for name in OFFERED[room] for wall in WALLS[room] if inside(name, wall)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("module", modules())
def test_importing_a_module_loads_nothing_behind_a_wall(loaded: dict[str, list[str]], module: str) -> None:
    found = [name for name in loaded[module] for wall in walls_of(module) if inside(name, wall)]
    assert found == [], f"{module} drags in {found[:5]}"


@pytest.fixture(scope="module")
def base() -> set[str]:
    """Top-level names of what NumPy and pyarrow themselves load: cloudpickle is pyarrow's."""
    script = "import sys, numpy, pyarrow.compute, pyarrow.parquet; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.e2e
@pytest.mark.parametrize("module", [name for name in modules() if inside(name, "nfm.contract")])
def test_the_contract_needs_numpy_and_pyarrow_only(loaded: dict[str, list[str]], base: set[str], module: str) -> None:
    assert "pandas" not in base  # pyarrow looks for it later, when it makes an array of a list
    ours = {name.split(".")[0] for name in loaded[module]} - base - set(sys.stdlib_module_names)
    assert ours == {"nfm"}
    assert [name for name in loaded[module] if inside(name, "nfm") and not inside(name, "nfm.contract")] == ["nfm"]


@pytest.mark.e2e
@pytest.mark.parametrize("module", [name for name in modules() if inside(name, "nfm.kernels")])
def test_the_kernels_need_numpy_and_numba_only(loaded: dict[str, list[str]], module: str) -> None:
    script = "import sys, numpy, numba, llvmlite; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    base = {name.split(".")[0] for name in run.stdout.split()}
    assert {name.split(".")[0] for name in loaded[module]} - base - set(sys.stdlib_module_names) == {"nfm"}
    assert [name for name in loaded[module] if inside(name, "nfm") and not inside(name, "nfm.kernels")] == ["nfm"]


def imports_of(module: str) -> Iterator[str]:
    """What a module's import statements name, those inside functions too."""
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.unit
@pytest.mark.parametrize("module", [name for name in modules() if name not in (*TOP, "nfm")])
def test_no_import_inside_a_function_reaches_over_a_wall(module: str) -> None:
    found = [name for name in imports_of(module) for wall in walls_of(module) if inside(name, wall)]
    assert found == []


@pytest.mark.unit
def test_the_contract_works_where_nothing_else_is_installed() -> None:
    script = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("pandas", "pydantic", "yaml", "pyspark", "tensorflow", "keras", "numba"):
            raise ImportError(name)

sys.meta_path.insert(0, NotInstalled())

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from nfm.contract import artifact
from nfm.contract.encoder import Encoding
from nfm.contract.schema import Field, Number, Spec
from nfm.contract.vocabulary import Vocabulary, write_vocabulary

counts = pa.table({"value": pa.array(["3", "0.5"], pa.large_string()), "count": [2, 1]})
with TemporaryDirectory() as folder:
    digest = write_vocabulary(Path(folder), 0, "f", 2, 2, [counts])
    vocabulary = Vocabulary.load(Path(folder), {"f": 2})
number = Number("x", "x", "dense", 0.0, True, None, "none", 0.0, 1.0)
encoding = Encoding(Spec((), (Field("f", ("f",), ("number",), 1, 2, "f"),), (number,), (digest,)), vocabulary)
batch = pa.record_batch({"f": [0.5, None, 3.0, 9.0], "x": ["1", "", None, "2"]})
encoding.check(batch.schema, "the table")
print({name: array.tolist() for name, array in encoding.encode(batch).items()})
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.stderr == ""
    assert run.stdout.strip() == "{'f': [3, 0, 2, 1], 'x': [1.0, 0.0, 0.0, 2.0], 'x_missing': [0.0, 1.0, 1.0, 0.0]}"
