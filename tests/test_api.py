"""Functions that `nfm` exports: their examples, results and errors, and the libraries that importing them loads."""

import dataclasses
import doctest
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct

import nfm
import nfm.scoring
from nfm.contract.schema import canonical_json
from tests.processes import ROOT, run

pytestmark = pytest.mark.e2e

JOBS = ("build_features", "train", "tune", "score_table")
SCORING = ("load_model", "score_udf")


@pytest.fixture
def here(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(checkout)
    yield checkout


def run_program(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter."""
    return run([sys.executable, *flags, "-c", program])


def test_importing_nfm_loads_no_library() -> None:
    program = """
import sys
before = set(sys.modules)
import nfm
print(*sorted({name.split(".")[0] for name in sys.modules.keys() - before} - set(sys.stdlib_module_names)))
"""
    done = run_program(program)
    assert done.stdout.split() == ["nfm"], done.stderr


def test_every_exported_name_exists_and_loads_neither_spark_nor_tensorflow() -> None:
    program = """
import sys
import nfm
for name in nfm.__all__:
    assert getattr(nfm, name).__name__.startswith(name.split("_")[0]), name
    assert name in dir(nfm)
assert not {"pyspark", "tensorflow", "pandas"} & sys.modules.keys(), sys.modules.keys()
import nfm.features, nfm.scoring, nfm.table, nfm.reports
assert nfm.scoring.load is nfm.load_model
try:
    nfm.frobnicate
except AttributeError as error:
    print(error)
"""
    done = run_program(program)
    assert done.stdout == "module 'nfm' has no attribute 'frobnicate'\n", done.stderr


def test_type_checkers_see_the_exported_names() -> None:
    shown = (ROOT / "nfm/__init__.py").read_text().split("if TYPE_CHECKING:")[1].split("__version__")[0]
    typed = {name.strip(" ,()") for line in shown.splitlines() for name in line.split("import")[-1].split(",")} - {""}
    assert typed == set(nfm.__all__)
    assert (ROOT / "nfm/py.typed").exists()


# In the order in which a user calls them: each needs the files that the earlier ones write.
@pytest.mark.parametrize("name", ["load_config", *JOBS, *SCORING, "Scorer.score"])
def test_the_example_in_each_docstring_runs(here: Path, spark: SparkSession, name: str) -> None:
    function = nfm.Scorer.score if name == "Scorer.score" else getattr(nfm, name)
    text = function.__doc__ or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text, section
    known = {"nfm": nfm, "pandas": pd, "polars": pl, "spark": spark, "struct": struct}
    test = doctest.DocTestParser().get_doctest(text, known, name, None, None)
    assert test.examples
    results = doctest.DocTestRunner().run(test)
    assert results.failed == 0


def test_results_describe_the_files_written(here: Path, spark: SparkSession, tmp_path: Path) -> None:
    titanic = yaml.safe_load((ROOT / "conf/titanic.yaml").read_text())
    content = titanic | {"workdir": str(tmp_path), "train": titanic["train"] | {"epochs": 1}}
    before = {key: spark.conf.get(key) for key in ("spark.sql.session.timeZone", "spark.sql.shuffle.partitions")}
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")

    features = nfm.build_features(content, spark)
    spec = json.loads((features.encoding / "spec.json").read_text())
    assert (features.dataset, features.encoding) == (tmp_path / "dataset", tmp_path / "encoding")
    assert features.fingerprint == spec["fingerprint"]
    assert features.report.is_file()
    assert sum(features.rows.values()) == 891
    assert features.summary.startswith("Features of titanic: 891 rows of tests/data/titanic.csv")

    trained = nfm.train(nfm.load_config(content))
    metadata = json.loads((trained.model / "metadata.json").read_text())
    assert trained.fingerprint == metadata["fingerprint"]
    assert trained.rows == features.rows == metadata["rows"]
    assert canonical_json(trained.metrics) == canonical_json(metadata["metrics"])
    assert trained.report.is_file()

    scored = nfm.score_table(nfm.load_config(content))  # in the active session
    report = json.loads((scored.scores / "_report.json").read_text())
    assert (scored.rows, scored.fingerprint) == (891, trained.fingerprint)
    assert report["model_fingerprint"] == scored.fingerprint
    assert scored.report.is_file()
    scores = pd.read_parquet(scored.scores).sort_values("PassengerId")["score"]
    local = nfm.load_model(trained.model).score(pl.read_csv("tests/data/titanic.csv"))
    assert local.to_list() == pytest.approx(scores.tolist(), abs=1e-6)

    # The session's settings are restored; results are frozen and their repr is short.
    assert spark.conf.get("spark.sql.session.timeZone") == "America/New_York"
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert {key: spark.conf.get(key) for key in before} == before
    for result in (features, trained, scored):
        assert result.seconds > 0
        assert "summary" not in repr(result)
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.seconds = 0.0  # type: ignore[misc]


def test_tune_keeps_the_passwords_of_a_loaded_configuration(here: Path, tmp_path: Path) -> None:
    overrides = [f"workdir={tmp_path}", "source.options.password=secret", "train.epochs=1", "train.early_stopping=null"]
    config = nfm.load_config("conf/titanic.yaml", [*overrides, "tune.space={model.embedding_dim: [4, 8]}"])
    for name in ("dataset", "encoding"):
        (tmp_path / name).symlink_to(here / "build/titanic" / name)
    result = nfm.tune(config, trials=1)
    assert (result.trials, result.metric, result.config) == (1, "val_loss", tmp_path / "tune/best.yaml")
    written = nfm.load_config(result.config)
    assert written.source.options["password"] == "secret"
    assert written.model_dump() == config.model_dump()
    assert result.config.stat().st_mode & 0o077 == 0


def test_errors_have_the_exit_code_of_the_command(here: Path, spark: SparkSession, tmp_path: Path) -> None:
    def refused(error: type[nfm.NfmError], code: int, call: Any, *arguments: Any, **options: Any) -> str:
        with pytest.raises(error) as raised:
            call(*arguments, **options)
        assert type(raised.value) is error
        assert raised.value.exit_code == code
        return str(raised.value)

    path = "conf/titanic.yaml"
    assert "train.sed: unknown key" in refused(nfm.ConfigError, 2, nfm.load_config, path, ["train.sed=2"])
    assert "the configuration is invalid" in refused(nfm.ConfigError, 2, nfm.load_config, {"name": "x"})
    config = nfm.load_config(path, [f"workdir={tmp_path}"])
    assert "cannot change a loaded configuration" in refused(
        nfm.ConfigError, 2, nfm.load_config, config, ["train.seed=2"]
    )
    assert "There is no encoding" in refused(nfm.DataError, 3, nfm.train, config)
    assert "There is no model" in refused(nfm.DataError, 3, nfm.score_table, config)
    assert "There is no model" in refused(nfm.DataError, 3, nfm.load_model, tmp_path)
    assert "refresh" in refused(nfm.ConfigError, 2, nfm.build_features, config, spark, refresh_numbers=True)
    assert "at least 1" in refused(nfm.ConfigError, 2, nfm.tune, {**_content(path), "tune": _SPACE}, trials=0)
    gates = nfm.load_config(path, [f"score.output={tmp_path}/scores", "score.gates.min_rows=1000"])
    assert "min_rows" in refused(nfm.GateError, 4, nfm.score_table, gates)


_SPACE = {"space": {"model.embedding_dim": [4, 8]}}


def _content(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(path).read_text())
    return content


MISSING = (
    ("tensorflow", "nfm.train(c)", "training needs TensorFlow: pip install 'nfm-batch[train]'"),
    ("optuna", "nfm.tune(c)", "tuning needs Optuna: pip install 'nfm-batch[train]'"),
    ("pyspark", "nfm.build_features(c)", "making features needs Spark: pip install 'nfm-batch[spark]'"),
    ("pyspark", "nfm.score_table(c)", "scoring a table needs Spark: pip install 'nfm-batch[spark]'"),
    ("pyspark", "nfm.score_udf('model')", "score_udf needs Spark: pip install 'nfm-batch[spark]'"),
)


def test_a_missing_extra_gives_one_line() -> None:
    """Each call is in a fork of an interpreter that has not imported nfm."""
    program = f"""
import importlib.util, os, sys
import numpy, pydantic, yaml

def call_without(library, call):
    class NotInstalled:
        def find_spec(self, name, path=None, target=None):
            if name == library:
                raise ModuleNotFoundError(name)
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name == library else found(name, package)
    sys.meta_path.insert(0, NotInstalled())
    import nfm
    c = nfm.load_config("conf/titanic.yaml", ["tune.space={{model.embedding_dim: [4, 8]}}"])
    try:
        eval(call)
    except nfm.ConfigError as error:
        print(error, flush=True)

for library, call, _ in {MISSING!r}:
    if (child := os.fork()) == 0:
        call_without(library, call)
        os._exit(0)
    os.waitpid(child, 0)
"""
    done = run_program(program)
    assert done.stdout.splitlines() == [message for _, _, message in MISSING], done.stderr
