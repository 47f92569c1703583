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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import nfm
from nfm.contract.artifact import Artifact
from nfm.contract.dataset import arrange_inputs
from nfm.training.layers import make_keras_inputs
from tests.forks import Forks
from tests.processes import ROOT, environment, run, run_in_one_application

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


@pytest.fixture(scope="module")
def elsewhere(workdir: Path) -> Iterator[Path]:
    """The trained model on another disk, where it cannot be linked beside the scores."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield shutil.copytree(workdir / "model", Path(folder) / "model")


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The passengers in another order, in three files."""
    folder = tmp_path_factory.mktemp("shuffled")
    table = pd.read_csv(TITANIC, dtype=str, keep_default_na=False).sample(frac=1, random_state=1)
    for i in range(3):
        table.iloc[i::3].to_csv(folder / f"part{i}.csv", index=False)
    return folder


LOCAL_IP = {"SPARK_LOCAL_IP": "127.0.0.1"}
CONFIG = ("--config", str(ROOT / "conf/titanic.yaml"))


def submit(cluster: str) -> list[str]:
    # An overhead of 400m is less than the reserve alone, rounded up: a plan warns about it.
    memory = ["--conf", "spark.executor.memory=512m", "--conf", "spark.executor.memoryOverhead=400m"]
    return ["spark-submit", "--master", cluster, *memory]


def assert_same_scores(output: Path, other: Path) -> None:
    found, expected = read_scores(output), read_scores(other)
    assert found["PassengerId"].tolist() == expected["PassengerId"].tolist()
    np.testing.assert_array_equal(found["score"], expected["score"])


def test_a_standalone_cluster_gives_the_same_scores_for_the_shuffled_table(
    workdir: Path, cluster: str, shuffled: Path, tmp_path: Path
) -> None:
    settings = ["--set", f"workdir={workdir}", f"source.path={shuffled}", f"score.output={tmp_path}/scores"]
    # Run outside the checkout: executors must import the package that the job sends.
    done = run([*submit(cluster), str(ROOT / "jobs/score.py"), *CONFIG, *settings], LOCAL_IP, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_scores(tmp_path / "scores", workdir / "scores")


@dataclass(frozen=True)
class OnCluster:
    """Results of commands in one application on the cluster; each command writes into a folder of its own."""

    folder: Path
    done: dict[str, subprocess.CompletedProcess[str]]

    def result(self, name: str) -> tuple[Path, str]:
        """Return the folder and the output of a command, which succeeded."""
        assert self.done[name].returncode == 0, self.done[name].stderr
        return self.folder / name, self.done[name].stdout


@pytest.fixture(scope="module")
def on_cluster(
    workdir: Path, cluster: str, elsewhere: Path, shuffled: Path, tmp_path_factory: pytest.TempPathFactory
) -> OnCluster:
    folder = tmp_path_factory.mktemp("on_cluster")
    table = pc.read_csv(TITANIC, convert_options=pc.ConvertOptions(strings_can_be_null=True))
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    (folder / "raw").mkdir()
    for i in range(3):
        pq.write_table(table.slice(i * 300, 300), folder / f"raw/{i}.parquet", row_group_size=100)
    outputs = {name: folder / name for name in ("sent", "plan of sent", "plan of linked", "parity", "features")}
    for output in outputs.values():
        output.mkdir()

    def score(name: str, table: Path, model: Path, *options: str) -> list[str]:
        settings = [f"workdir={workdir}", f"source.path={table}", f"score.model={model}"]
        return ["score", *options, *CONFIG, "--set", *settings, f"score.output={outputs[name]}/scores"]

    source = f"source={{path: {folder}/raw, scan: parquet}}"
    commands = [
        score("sent", shuffled, elsewhere),
        score("plan of sent", TITANIC, elsewhere, "--plan"),
        score("plan of linked", TITANIC, workdir / "model", "--plan"),
        score("parity", TITANIC, workdir / "model", "--parity", "2000"),
        ["features", *CONFIG, "--set", f"workdir={outputs['features']}", source],
    ]
    done = run_in_one_application(submit(cluster), commands, folder, LOCAL_IP)
    return OnCluster(folder, dict(zip(outputs, done, strict=True)))


def test_a_model_on_another_disk_is_sent_to_the_executors_and_gives_the_same_scores(
    workdir: Path, on_cluster: OnCluster
) -> None:
    folder, _ = on_cluster.result("sent")
    assert_same_scores(folder / "scores", workdir / "scores")


def test_the_score_job_compares_its_scores_with_keras(on_cluster: OnCluster) -> None:
    folder, shown = on_cluster.result("parity")
    assert f"Parity: 891 rows of {TITANIC}, from 1 split, have the same scores as in Keras" in shown
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "placement"),
    [("linked", "mapped from its folder, which"), ("sent", "sent by Spark, once for each")],
)
def test_a_plan_on_the_cluster_shows_the_memory_of_an_executor(
    on_cluster: OnCluster, model: str, placement: str
) -> None:
    folder, shown = on_cluster.result(f"plan of {model}")
    (memory,) = re.findall(r"  memory    (.*)", shown)
    assert memory.startswith("for each executor, 1 worker of ")
    assert memory.endswith("it is 400m now, TOO LITTLE: executors may be killed")
    assert f"index, {placement}" in shown
    assert "on 891 rows)" in shown
    assert list(folder.iterdir()) == []


def test_features_of_parquet_on_a_cluster_equal_those_of_csv_in_one_process(
    workdir: Path, on_cluster: OnCluster
) -> None:
    folder, _ = on_cluster.result("features")
    fingerprints = [
        json.loads((place / "encoding/spec.json").read_text())["fingerprint"] for place in (workdir, folder)
    ]
    assert fingerprints[0] == fingerprints[1]
    datasets = []
    for place in (workdir / "dataset", folder / "dataset"):
        parts = [pq.ParquetFile(p).read().to_pandas().assign(fold=p.parent.name) for p in place.glob("*/*.parquet")]
        datasets.append(pd.concat(parts).sort_values("PassengerId").reset_index(drop=True))
    # Spark's CSV reader makes the key an int32, and pyarrow's an int64.
    pd.testing.assert_frame_equal(datasets[0], datasets[1], check_dtype=False)


def test_a_killed_feature_job_leaves_the_old_dataset_and_a_rerun_replaces_it(
    spark: SparkSession, workdir: Path, tmp_path: Path
) -> None:
    settings = [f"workdir={tmp_path}", f"source.path={TITANIC}", "split.seed=2"]
    for name in ("dataset", "encoding"):
        shutil.copytree(workdir / name, tmp_path / name)
    before = {path: path.read_bytes() for path in tmp_path.glob("*/**/*") if path.is_file()}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = ["spark-submit", "jobs/features.py", *CONFIG, "--set", *settings]
    killed = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **quiet)
    while not list(tmp_path.glob(".dataset.staging-*/_written/*")):  # during its last pass
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert {path: path.read_bytes() for path in before} == before
    nfm.build_features(nfm.load_config(CONFIG[1], settings), spark)
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
