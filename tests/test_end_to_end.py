"""All jobs from end to end, run like users do: spark-submit and python in their own processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from nfm.contract.artifact import Artifact
from nfm.contract.dataset import arrange_inputs
from nfm.training.layers import make_keras_inputs
from tests.forks import Forks
from tests.processes import ROOT, environment, run

pytestmark = pytest.mark.e2e

TITANIC = ROOT / "tests/data/titanic.csv"


def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = "python" if name in ("train", "tune") else "spark-submit"
    return run([program, f"jobs/{name}.py", "--config", "conf/titanic.yaml", *arguments])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder that the three jobs have filled."""
    folder = tmp_path_factory.mktemp("titanic")
    for name in ("features", "train", "score"):
        done = job(name, "--set", f"workdir={folder}", "score.columns=[Name]")
        assert done.returncode == 0, done.stderr
        assert str(folder) in done.stdout
    return folder


def read_scores(folder: Path) -> pd.DataFrame:
    tables = [pq.ParquetFile(path).read() for path in folder.glob("*.parquet")]
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame.sort_values("PassengerId").reset_index(drop=True)


def test_every_passenger_has_one_score(workdir: Path) -> None:
    scores, raw = read_scores(workdir / "scores"), pd.read_csv(TITANIC)
    assert scores.columns.tolist() == ["PassengerId", "Name", "score"]
    assert scores["PassengerId"].tolist() == raw["PassengerId"].tolist()
    assert scores["Name"].tolist() == raw["Name"].tolist()
    assert scores["score"].between(0, 1).all()


def test_the_model_predicts_survival(workdir: Path) -> None:
    # Well below the recipe's average; a broken pipeline has an AUC near 0.5.
    assert json.loads((workdir / "model/metadata.json").read_text())["metrics"]["test"]["auc"] > 0.78
    scores, raw = read_scores(workdir / "scores"), pd.read_csv(TITANIC)
    by_sex = scores["score"].groupby(raw["Sex"]).mean()
    assert by_sex["female"] > by_sex["male"] + 0.2


def test_scores_of_spark_equal_those_of_encoder_and_keras_in_one_process(workdir: Path) -> None:
    model = Artifact.load(workdir / "model")
    # Not read with Spark's CSV reader.
    table = pc.read_csv(TITANIC, convert_options=pc.ConvertOptions(strings_can_be_null=True)).combine_chunks()
    arranged = arrange_inputs(model.encoding.spec, model.encoding.encode(table.to_batches()[0]))
    loaded = keras.models.load_model(workdir / "model/keras/model.keras")
    logits = loaded.predict(make_keras_inputs(arranged, model.encoding.spec), batch_size=256, verbose=0)[:, 0]
    expected = 1 / (1 + np.exp(-logits.astype(float)))
    difference = np.abs(read_scores(workdir / "scores")["score"] - expected).max()
    assert difference <= 1e-5
    assert np.std(expected) > 0.1


def test_the_metrics_are_stored(workdir: Path) -> None:
    metadata = json.loads((workdir / "model/metadata.json").read_text())
    assert sum(metadata["rows"].values()) == 891
    assert {"auc", "log_loss", "accuracy", "rows", "constant", "linear"} <= set(metadata["metrics"]["test"])


def test_the_score_job_compares_its_scores_with_keras(workdir: Path, tmp_path: Path) -> None:
    settings = ["--set", f"workdir={workdir}", f"score.output={tmp_path}/scores"]
    done = job("score", "--parity", "2000", *settings)
    assert done.returncode == 0, done.stderr
    assert "Parity: 891 rows of tests/data/titanic.csv, from 1 split, have the same scores as in Keras" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["linked", "broadcast"])
def model(request: pytest.FixtureRequest, workdir: Path) -> Iterator[Path]:
    """The trained model; for "broadcast" on another disk, so that it cannot be linked beside the scores."""
    if request.param == "linked":
        yield workdir / "model"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield shutil.copytree(workdir / "model", Path(folder) / "model")


def test_a_standalone_cluster_gives_the_same_scores_for_the_shuffled_table(
    workdir: Path, cluster: str, model: Path, tmp_path: Path
) -> None:
    shuffled = pd.read_csv(TITANIC, dtype=str, keep_default_na=False).sample(frac=1, random_state=1)
    (tmp_path / "raw").mkdir()
    for i in range(3):
        shuffled.iloc[i::3].to_csv(tmp_path / f"raw/part{i}.csv", index=False)
    settings = ["--set", f"workdir={workdir}", f"source.path={tmp_path}/raw", f"score.output={tmp_path}/scores"]
    settings.append(f"score.model={model}")
    # Run outside the checkout: executors must import the package that the job sends.
    submit = ["spark-submit", "--master", cluster, "--conf", "spark.executor.memory=512m"]
    config = ["--config", str(ROOT / "conf/titanic.yaml")]
    done = run([*submit, str(ROOT / "jobs/score.py"), *config, *settings], {"SPARK_LOCAL_IP": "127.0.0.1"}, tmp_path)
    assert done.returncode == 0, done.stderr
    on_cluster, local = read_scores(tmp_path / "scores"), read_scores(workdir / "scores")
    assert on_cluster["PassengerId"].tolist() == local["PassengerId"].tolist()
    np.testing.assert_array_equal(on_cluster["score"], local["score"])


def test_a_plan_on_the_cluster_shows_the_memory_of_an_executor(
    workdir: Path, cluster: str, model: Path, tmp_path: Path
) -> None:
    settings = ["--set", f"workdir={workdir}", f"score.output={tmp_path}/scores", f"score.model={model}"]
    submit = ["spark-submit", "--master", cluster, "--conf", "spark.executor.memory=512m"]
    submit += ["--conf", "spark.executor.memoryOverhead=400m"]  # less than the reserve alone, rounded up
    config = ["--config", "conf/titanic.yaml", "--plan"]
    done = run([*submit, str(ROOT / "jobs/score.py"), *config, *settings], {"SPARK_LOCAL_IP": "127.0.0.1"})
    assert done.returncode == 0, done.stderr
    (memory,) = re.findall(r"  memory    (.*)", done.stdout)
    assert memory.startswith("for each executor, 1 worker of ")
    assert memory.endswith("it is 400m now, TOO LITTLE: executors may be killed")
    placement = "sent by Spark, once for each" if model.is_relative_to("/dev/shm") else "mapped from its folder, which"
    assert f"index, {placement}" in done.stdout
    assert "on 891 rows)" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_features_of_parquet_on_a_cluster_equal_those_of_csv_in_one_process(
    workdir: Path, cluster: str, tmp_path: Path
) -> None:
    table = pc.read_csv(TITANIC, convert_options=pc.ConvertOptions(strings_can_be_null=True))
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    (tmp_path / "raw").mkdir()
    for i in range(3):
        pq.write_table(table.slice(i * 300, 300), tmp_path / f"raw/{i}.parquet", row_group_size=100)
    source = f"source={{path: {tmp_path}/raw, scan: parquet}}"
    submit = ["spark-submit", "--master", cluster, "--conf", "spark.executor.memory=512m"]
    config = ["--config", str(ROOT / "conf/titanic.yaml"), "--set", f"workdir={tmp_path}/work", source]
    done = run([*submit, str(ROOT / "jobs/features.py"), *config], {"SPARK_LOCAL_IP": "127.0.0.1"}, tmp_path)
    assert done.returncode == 0, done.stderr
    fingerprints = [
        json.loads((folder / "encoding/spec.json").read_text())["fingerprint"]
        for folder in (workdir, tmp_path / "work")
    ]
    assert fingerprints[0] == fingerprints[1]
    datasets = []
    for folder in (workdir / "dataset", tmp_path / "work/dataset"):
        parts = [pq.ParquetFile(p).read().to_pandas().assign(fold=p.parent.name) for p in folder.glob("*/*.parquet")]
        datasets.append(pd.concat(parts).sort_values("PassengerId").reset_index(drop=True))
    # Spark's CSV reader makes the key an int32, and pyarrow's an int64.
    pd.testing.assert_frame_equal(datasets[0], datasets[1], check_dtype=False)


def test_a_killed_feature_job_leaves_the_old_dataset_and_a_rerun_replaces_it(workdir: Path, tmp_path: Path) -> None:
    arguments = ["jobs/features.py", "--config", "conf/titanic.yaml", "--set", f"workdir={tmp_path}"]
    for name in ("dataset", "encoding"):
        shutil.copytree(workdir / name, tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/**/*") if path.is_file()}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = ["spark-submit", *arguments, "split.seed=2"]
    killed = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **quiet)
    while not list(tmp_path.glob(".dataset.staging-*/_written/*")):  # during its last pass
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert {path: path.read_bytes() for path in before} == before
    done = run(["spark-submit", *arguments, "split.seed=2"])
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "encoding/spec.json").exists()
    assert not list(tmp_path.glob(".*staging*"))
    rows = [pq.read_metadata(path).num_rows for path in tmp_path.glob("dataset/fold=*/*.parquet")]
    assert sum(rows) == 891


def output_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that a job prints, except those of its log."""
    # spark-submit prints its Python program's stderr to its own stdout.
    return [line for line in (done.stdout + done.stderr).splitlines() if line and " INFO " not in line]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "train.optimiser=adam"], 2, "train.optimiser: unknown key. Did you mean 'optimizer'?"),
        (["--set", "split.test=yes"], 2, "split.test: True given"),
        (["--config", "nowhere.yaml"], 2, "error: nowhere.yaml cannot be read: No such file or directory"),
        (["--set", "workdir={tmp}"], 3, "error: There is no encoding in {tmp}/encoding"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    trainings: Forks, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    config = [] if "--config" in arguments else ["--config", "conf/titanic.yaml"]
    done = trainings.run("train", *config, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == code
    assert words.format(tmp=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["train", "tune"])
def test_a_script_exits_with_the_code_of_its_command(name: str) -> None:
    done = job(name, "--frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: nfm {name}: unknown option --frobnicate. See nfm {name} --help\n"


def test_spark_jobs_exit_with_their_code_and_a_line(workdir: Path, tmp_path: Path) -> None:
    missing = pd.read_csv(TITANIC).drop(columns="Sex")
    missing.to_csv(tmp_path / "raw.csv", index=False)
    settings = ["--set", f"workdir={workdir}", f"source.path={tmp_path}/raw.csv", f"score.output={tmp_path}/scores"]
    done = job("score", *settings)
    assert done.returncode == 3
    (line,) = output_lines(done)
    assert line.startswith(
        f"error: Column 'Sex' is missing from {tmp_path}/raw.csv; the table has PassengerId, Survived"
    )

    wrong = pd.read_csv(TITANIC).replace({"Survived": {1: 2}})
    wrong.to_csv(tmp_path / "raw.csv", index=False)
    done = job("features", "--set", f"workdir={tmp_path}/work", f"source.path={tmp_path}/raw.csv")
    assert done.returncode == 3
    (line,) = output_lines(done)
    assert "342 other labels, for example '2'" in line
    assert not (tmp_path / "work/dataset").exists()
