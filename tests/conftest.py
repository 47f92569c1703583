"""Tiers of the tests, and fixtures that several packages share."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from pyspark.sql import SparkSession

import nfm.contract.publishing.replace
from tests.forks import Forks, forks
from tests.processes import JVM, NO_PAGE, standalone_cluster
from tests.settings import MINIMAL

# No test asserts a time; and a failure in CI is one that anybody can repeat.
hypothesis.settings.register_profile("project", deadline=None, max_examples=50, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("project")

# Both of spark-submit's machines, for the sessions here and for the jobs that tests start; they print nothing about it.
for name, options in (("SPARK_SUBMIT_OPTS", f"{JVM} {NO_PAGE}"), ("SPARK_LAUNCHER_OPTS", JVM)):
    if options not in os.environ.get(name, ""):  # processes of tests that import this file
        os.environ[name] = f"{options} {os.environ.get(name, '')}"

ROOT = Path(__file__).parent.parent

LONGEST = (
    "test_killed.py",
    "test_end_to_end.py",
    "test_recommend.py",
    "test_ranking_features.py",
    "test_resume.py",
    "test_tune.py",
    "test_cli.py",
    "test_documents.py",
)

TIERS = ("unit", "spark", "train", "e2e")  # pyproject.toml describes them
FOLDERS = {
    **dict.fromkeys(
        ("config", "contract", "features", "forward", "init", "kernels", "ranking", "reports", "scoring", "table"),
        "unit",
    ),
    "training": "train",
    "fuzz": "e2e",
}


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test: that of its own marker; `spark` if it uses the session; else that of its folder."""
    marked = [tier for tier in TIERS if item.get_closest_marker(tier)]
    if len(marked) > 1:
        raise pytest.UsageError(f"{item.nodeid} has {len(marked)} tiers: {', '.join(marked)}. Keep one of the markers.")
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    if not marked and "spark" in getattr(item, "fixturenames", ()):
        marked = ["spark"]
    if not marked and folder not in FOLDERS:
        raise pytest.UsageError(
            f"{item.nodeid} has no tier. Mark it with one of {', '.join(TIERS)} (pytestmark = pytest.mark.unit), "
            "or add its folder to FOLDERS in tests/conftest.py."
        )
    return marked[0] if marked else FOLDERS[folder]


@pytest.hookimpl(tryfirst=True)  # -m selects tests by these markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and put the longest files first: nothing long is left to start at the end.

    xdist keeps this order with --no-loadscope-reorder; else files with few tests, which these are, would come last.
    """
    for item in items:
        item.add_marker(tier_of(item))
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _delete_replaced_folders_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for readers: half a second for each folder that a test replaces would add up to minutes."""
    monkeypatch.setattr(nfm.contract.publishing.replace, "_GRACE", 0)


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A real session with two cores; one task failure is tolerated, as little is drawn or shuffled as possible."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2, 1]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled", "false")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Runs commands `nfm` in their own processes."""
    with forks(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Runs commands `nfm` in their own processes, in which TensorFlow is already imported."""
    with forks(tmp_path_factory.mktemp("trainings"), "nfm.training.train") as server:
        yield server


@pytest.fixture(scope="session")
def cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cluster's executors run."""
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="session")
def cluster(cluster_folder: Path) -> Iterator[str]:
    """The URL of a real standalone cluster with two workers of one core each."""
    with standalone_cluster(cluster_folder) as url:
        yield url


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files that examples read; they write into its build/."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("conf", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr!r}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small configuration."""
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path
