"""Imports go one way: each package may import those below it, and executors import little."""

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
STAGES = ("nfm.features", "nfm.ranking", "nfm.scoring", "nfm.training")
TOP = ("nfm.api", "nfm.arguments", "nfm.cli", "nfm.results")  # they import the stages inside functions
ABOVE_CONFIG = ("nfm.forward", "nfm.init", "nfm.reports", "nfm.table", *TOP, *STAGES)
# Modules that a package may not import, directly or through other modules; the first matching package counts.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "nfm.contract": ("pydantic", "yaml", "pandas", "numba", "pyspark", *TENSORFLOW),
    "nfm.kernels": ("pyarrow", "pydantic", "pandas", "pyspark", *TENSORFLOW),
    "nfm.forward": (
        "pyspark",
        "pandas",
        "pydantic",
        *TENSORFLOW,
        "nfm.config",
        "nfm.init",
        "nfm.reports",
        "nfm.table",
        *TOP,
        *STAGES,
    ),
    "nfm.config": ("pyspark", "numba", *TENSORFLOW, "nfm.kernels", *ABOVE_CONFIG),
    "nfm.init": ("pyspark", "pandas", "numba", *TENSORFLOW, "nfm.reports", "nfm.table", *TOP, *STAGES),
    "nfm.reports": ("pyspark", "numba", *TENSORFLOW, "nfm.table", *TOP, *STAGES),
    "nfm.table": (*TENSORFLOW, "nfm.reports", *TOP, *STAGES),
    "nfm.features": (*TENSORFLOW, "nfm.ranking", "nfm.scoring", "nfm.training", *TOP),
    "nfm.ranking": (*TENSORFLOW, "nfm.features", "nfm.scoring", "nfm.training", *TOP),
    "nfm.scoring": (*TENSORFLOW, "nfm.features", "nfm.ranking", "nfm.training", *TOP),
    "nfm.training": ("pyspark", "nfm.features", "nfm.ranking", "nfm.scoring", *TOP),
    **dict.fromkeys(TOP, ("pyspark", "pandas", "numba", *TENSORFLOW, "nfm.kernels", "nfm.table", *STAGES)),
    "nfm": ("numpy", "pyarrow", "pydantic", "yaml", "pandas", "numba", "pyspark", *TENSORFLOW, *ABOVE_CONFIG),
}

# Libraries and settings that a package may import. They are loaded once, before its modules, to save time.
SETTINGS = ("pydantic", "yaml", "nfm.config.settings")
NUMPY = ("numpy", "pyarrow.compute", "pyarrow.parquet")
SPARK = (*NUMPY, *SETTINGS, "pandas", "numba", "pyspark.sql.functions")
KERAS = (*NUMPY, *SETTINGS, "numba", "tensorflow", "keras", "sklearn", "optuna")
PRELOADED = {
    "nfm.contract": NUMPY,
    "nfm.kernels": ("numpy", "numba"),
    "nfm.forward": (*NUMPY, "numba"),
    "nfm.config": ("pydantic", "yaml"),
    "nfm.init": (*NUMPY, *SETTINGS, "pyarrow.csv"),
    "nfm.reports": (),
    "nfm.table": SPARK,
    "nfm.features": SPARK,
    "nfm.ranking": SPARK,
    "nfm.scoring": SPARK,
    "nfm.training": KERAS,
    **dict.fromkeys(TOP, ("pydantic", "yaml")),
    "nfm": (),
}

# Preloads libraries, then imports each module in a fork without other modules, and prints the modules loaded there.
IMPORT = """
import importlib, json, os, sys
preloaded, *names = sys.argv[1:]
for name in preloaded.split():
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
    """Return the names of all modules, without importing any."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "nfm").rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def forbidden_for(module: str) -> tuple[str, ...]:
    return next(prefixes for package, prefixes in FORBIDDEN.items() if is_inside(module, package))


def modules_after_import(names: list[str], preloaded: tuple[str, ...]) -> dict[str, list[str]]:
    """Return, for each name, the modules that are loaded after its import in an interpreter with `preloaded`."""
    command = [sys.executable, "-c", IMPORT, " ".join(preloaded), *names]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, f"importing {', '.join(names)}:\n{run.stderr}"
    # A library may print on import: ignore its lines.
    return dict(json.loads(line) for line in run.stdout.splitlines() if line.startswith('["nfm'))


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """For each module of the project, the modules that its import loads if it is the first one imported."""
    by_libraries: dict[tuple[str, ...], list[str]] = {}  # packages with the same libraries share an interpreter
    for name in modules():
        libraries = PRELOADED[next(package for package in FORBIDDEN if is_inside(name, package))]
        by_libraries.setdefault(libraries, []).append(name)
    with ThreadPoolExecutor(2) as pool:
        longest_first = sorted(by_libraries, key=len, reverse=True)
        results = list(
            pool.map(lambda libraries: modules_after_import(by_libraries[libraries], libraries), longest_first)
        )
    return {name: names for result in results for name, names in result.items()}


@pytest.mark.unit
@pytest.mark.parametrize("package", PRELOADED)
def test_preloaded_modules_are_allowed(package: str) -> None:
    assert [name for name in PRELOADED[package] for prefix in FORBIDDEN[package] if is_inside(name, prefix)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("module", modules())
def test_importing_a_module_loads_no_forbidden_module(loaded: dict[str, list[str]], module: str) -> None:
    forbidden = [name for name in loaded[module] for prefix in forbidden_for(module) if is_inside(name, prefix)]
    assert forbidden == [], f"{module} imports {forbidden[:5]}"


def packages_after_import(names: str) -> set[str]:
    """Return the top-level names of the modules in a new interpreter after an import."""
    script = f"import sys, {names}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.fixture(scope="module")
def base() -> set[str]:
    """Packages that NumPy and pyarrow load, such as cloudpickle."""
    return packages_after_import("numpy, pyarrow.compute, pyarrow.parquet")


@pytest.fixture(scope="module")
def base_of_kernels() -> set[str]:
    """Packages that NumPy and numba load."""
    return packages_after_import("numpy, numba, llvmlite")


@pytest.mark.e2e
@pytest.mark.parametrize("module", [name for name in modules() if is_inside(name, "nfm.contract")])
def test_the_contract_needs_only_numpy_and_pyarrow(loaded: dict[str, list[str]], base: set[str], module: str) -> None:
    assert "pandas" not in base  # pyarrow imports it later, when it makes an array from a list
    added = {name.split(".")[0] for name in loaded[module]} - base - set(sys.stdlib_module_names)
    assert added == {"nfm"}
    assert [name for name in loaded[module] if is_inside(name, "nfm") and not is_inside(name, "nfm.contract")] == [
        "nfm"
    ]


@pytest.mark.e2e
@pytest.mark.parametrize("module", [name for name in modules() if is_inside(name, "nfm.kernels")])
def test_the_kernels_need_only_numpy_and_numba(
    loaded: dict[str, list[str]], base_of_kernels: set[str], module: str
) -> None:
    added = {name.split(".")[0] for name in loaded[module]} - base_of_kernels - set(sys.stdlib_module_names)
    assert added == {"nfm"}
    assert [name for name in loaded[module] if is_inside(name, "nfm") and not is_inside(name, "nfm.kernels")] == ["nfm"]


def imported_names(module: str) -> Iterator[str]:
    """Yield the names in a module's import statements, including those inside functions."""
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
def test_no_import_inside_a_function_is_forbidden(module: str) -> None:
    forbidden = [name for name in imported_names(module) for prefix in forbidden_for(module) if is_inside(name, prefix)]
    assert forbidden == []


@pytest.mark.unit
def test_the_contract_works_without_other_packages() -> None:
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
