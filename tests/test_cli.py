"""The command `nfm` in separate processes: help, mistakes, signals, Spark settings, and printed output."""

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import nfm
from nfm.contract.errors import NfmError
from nfm.table.java import java_home
from tests.forks import Forks
from tests.processes import ROOT, bare, run

pytestmark = pytest.mark.e2e

COMMANDS = ("features", "train", "tune", "score")
TITANIC = ("--config", "conf/titanic.yaml")
NFM = [sys.executable, "-m", "nfm.cli"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NFM, *arguments], cwd=ROOT, env=bare(), capture_output=True, text=True, timeout=300)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line that a refused command prints."""
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_a_screen_and_ends_with_two_examples(commands: Forks, name: str) -> None:
    done = commands.run(name, "--help")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[-3] == "examples:"
    assert all(line.startswith(f"  nfm {name} --config ") for line in lines[-2:])
    for option in ("--config FILE", "--set KEY=VALUE", "--plan"):
        assert option in done.stdout


def test_the_help_of_init_fits_a_screen_and_ends_with_two_examples(commands: Forks) -> None:
    lines = commands.run("init", "--help").stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[-3] == "examples:"
    assert all(line.startswith("  nfm init ") for line in lines[-2:])


def test_without_arguments_the_help_is_printed(commands: Forks) -> None:
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == commands.run("--help").stdout
    assert len(done.stdout.splitlines()) <= 24
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert commands.run("--version").stdout == f"nfm {nfm.__version__}\n"


def test_the_console_script_is_installed_with_the_package() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"nfm": "nfm.cli:main"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "error: unknown command trian. Did you mean 'train'? Commands: "),
        (["--verison"], "error: unknown option --verison. Did you mean '--version'? Commands: "),
        (["train", *TITANIC, "--pln"], "error: nfm train: unknown option --pln. Did you mean '--plan'? See nfm train"),
        (["train", *TITANIC, "--parity", "9"], "error: nfm train: unknown option --parity."),
        (["score", "--conf", "a.yaml"], "error: nfm score: unknown option --conf. Did you mean '--config'?"),
        (["score", "a.yaml"], "error: nfm score: unexpected argument a.yaml. Did you forget --config before it?"),
        (["score"], "error: nfm score: --config FILE is required. See nfm score --help"),
        (["tune", *TITANIC, "--trials", "many"], "error: nfm tune: argument --trials: invalid int value: 'many'."),
        (["tune", *TITANIC, "--trials", "0"], "error: --trials (trials) is 0, but must be at least 1"),
        (["features", *TITANIC, "--refresh-numbers"], "error: --refresh-numbers (refresh_numbers) needs --grow-from"),
        (["score", *TITANIC, "--parity", "0"], "error: --parity 0: the number of rows must be at least 1"),
        (
            ["train", *TITANIC, "--spark", "a=b"],
            "error: nfm train: unknown option --spark. nfm train does not use Spark. See",
        ),
        (["score", *TITANIC, "--spark", "master"], "error: --spark master: write it as KEY=VALUE, for example"),
        (["train", *TITANIC, "--set", "train.seed"], "error: --set train.seed: write it as section.key=value"),
    ],
)
def test_a_mistake_gives_one_line(commands: Forks, arguments: list[str], line: str) -> None:
    assert refusal(commands.run(*arguments)).startswith(line)


def test_a_new_interpreter_ends_with_the_code_and_the_line_of_a_mistake() -> None:
    assert refusal(command("trian")).startswith("error: unknown command trian. Did you mean 'train'? Commands: ")


def test_a_reader_that_ends_early_is_not_an_error() -> None:
    # The pipe is closed before the command writes.
    shell = f"set -o pipefail; {' '.join(NFM)} --help | true"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, env=bare(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def workdir(commands: Forks, trainings: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of three commands, and their output."""
    folder = tmp_path_factory.mktemp("titanic")
    spark = ["--spark", "master=local[2]", "spark.driver.memory=700m"]
    for name in ("features", "train", "score"):
        start, more = (trainings, ["train.epochs=2"]) if name == "train" else (commands, spark)
        done = start.run(name, *TITANIC, "--set", f"workdir={folder}", *more)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.stdout").write_text(done.stdout)
        (folder / f"{name}.stderr").write_text(done.stderr)
    return folder


@pytest.mark.parametrize("name", ["features", "train", "score"])
def test_a_run_prints_only_its_summary_and_the_log_of_nfm(workdir: Path, name: str) -> None:
    title = {"features": "Features of titanic: 891 rows", "train": "Model of titanic", "score": "Scores of titanic"}
    lines = (workdir / f"{name}.stdout").read_text().splitlines()
    assert lines[0].startswith(title[name])
    assert lines[-1].startswith("Done in ")
    log = (workdir / f"{name}.stderr").read_text().splitlines()
    assert log
    assert [line for line in log if " INFO " not in line] == []


def test_the_command_and_the_script_write_the_same_scores(workdir: Path, tmp_path: Path) -> None:
    settings = ["--set", f"workdir={workdir}", f"score.output={tmp_path}/scores"]
    done = run(["spark-submit", "jobs/score.py", *TITANIC, *settings])
    assert done.returncode == 0, done.stderr
    # spark-submit writes the log of its Python program to its own stdout.
    assert done.stderr == ""
    from_command, from_script = (
        pq.ParquetFile(next(folder.glob("*.parquet"))).read() for folder in (workdir / "scores", tmp_path / "scores")
    )
    assert from_command.equals(from_script)


def test_a_plan_previews_and_writes_nothing(workdir: Path, tmp_path: Path, commands: Forks, trainings: Forks) -> None:
    settings = ["--set", f"workdir={workdir}", f"score.output={tmp_path}/scores"]
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    for name in ("features", "train", "score"):
        done = (trainings if name == "train" else commands).run(name, *TITANIC, "--plan", *settings)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.startswith("Plan of titanic: ")
        assert ("nothing was trained" in done.stdout) == (name == "train")
        assert "Done in" not in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    shown = trainings.run("train", *TITANIC, "--summary", *settings)
    assert shown.stdout.startswith("Network of titanic: task binary")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["features", "train", "score"])
def test_a_signal_ends_a_job_with_its_code_and_without_a_traceback(
    workdir: Path, tmp_path: Path, commands: Forks, trainings: Forks, name: str, number: signal.Signals, code: int
) -> None:
    for folder in ("dataset", "encoding", "model"):
        (tmp_path / folder).symlink_to(workdir / folder)
    # Long enough that the job still runs when the signal comes.
    settings = {
        "features": [f"workdir={tmp_path}/new"],
        "train": [f"workdir={tmp_path}", "train.epochs=100000", "train.early_stopping=null"],
        "score": [f"workdir={tmp_path}"],
    }[name]
    started = {"features": "counting the values", "train": "epoch 1 of", "score": "scoring tests/data"}[name]
    job = (trainings if name == "train" else commands).start(name, *TITANIC, "--set", *settings)
    while started not in job.stderr():
        assert not job.has_ended(), job.stderr()
        time.sleep(0.02)
    job.send_signal(number)
    done = job.wait()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: stopped by {number.name}"
    assert done.stdout == ""
    assert not (tmp_path / "new/dataset").exists()
    assert not (tmp_path / "scores").exists()


def run_program(text: str, more: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env=bare(more), capture_output=True, text=True, timeout=120
    )


def test_spark_settings_take_effect_or_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text("spark.nfm.test 7\n")
    done = run_program(
        """
from nfm.contract.errors import ConfigError
from nfm.table.session import start_session
settings = {"spark.driver.memory": "700m", "spark.master": "local[1]", "spark.sql.shuffle.partitions": "3"}
spark = start_session("test", settings)
print(spark._jvm.java.lang.Runtime.getRuntime().maxMemory() >> 20, spark.sparkContext.master)
print(spark.conf.get("spark.sql.shuffle.partitions"), spark.sparkContext.getConf().get("spark.nfm.test"))
assert start_session("test", settings) is spark
for key, value in (("spark.driver.memory", "900m"), ("spark.master", "local[2]")):
    try:
        start_session("test", {key: value})
    except ConfigError as error:
        print(error)
""",
        {"SPARK_CONF_DIR": str(tmp_path)},
    )
    memory, values, *refused = done.stdout.splitlines()
    megabytes, master = memory.split()
    assert 600 <= int(megabytes) <= 700, done.stderr  # a garbage collector may reserve some of it
    assert (master, values) == ("local[1]", "3 7")
    assert refused == [
        "--spark spark.driver.memory=900m cannot take effect: Spark's JVM already runs with 700m. Give the setting "
        "where the JVM is started: spark-submit --conf spark.driver.memory=900m",
        "--spark spark.master=local[2] cannot take effect: a Spark session already runs with local[1]. Stop that "
        "session first, or start it with this setting",
    ]


def test_wrong_spark_settings_give_one_line(commands: Forks) -> None:
    done = commands.run("features", *TITANIC, "--plan", "--spark", "master=lokal")
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: Spark did not start with --spark spark.master=lokal: ")
    assert "lokal" in line.partition(": ")[2]
    assert "Traceback" not in done.stderr
    for value in ("zzz", "4"):
        done = commands.run("features", *TITANIC, "--plan", "--spark", f"driver.memory={value}")
        assert refusal(done) == (
            f"error: --spark spark.driver.memory={value}: write an integer with a unit, for example --spark "
            "spark.driver.memory=4g"
        )
    line = refusal(commands.run("features", *TITANIC, "--plan", "--spark", "sql.session.timeZone=Mars/Olympus"))
    assert line.startswith("error: Spark did not start with --spark spark.sql.session.timeZone=Mars/Olympus: ")
    submitted = run(["spark-submit", "jobs/features.py", *TITANIC, "--plan", "--spark", "driver.memory=4g"])
    assert submitted.returncode == 2
    assert "--spark spark.driver.memory=4g cannot take effect: Spark's JVM already runs." in submitted.stdout


def test_a_missing_extra_gives_one_line_and_exit_code_2() -> None:
    for library, name, line in (
        ("tensorflow", "train", "error: training needs TensorFlow: pip install 'nfm-batch[train]'"),
        ("pyspark", "score", "error: the score job needs Spark: pip install 'nfm-batch[spark]'"),
        (
            "tensorflow",
            "score --parity 9",
            "error: --parity compares with Keras on the driver (executors do not need Keras), so it needs TensorFlow: "
            "pip install 'nfm-batch[train]'",
        ),
    ):
        done = run_program(
            f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {library!r} else found(name, package)
from nfm.cli import main
sys.exit(main([*{name!r}.split(), "--config", "conf/titanic.yaml"]))
"""
        )
        assert refusal(done) == line


def test_without_java_the_message_names_the_package_to_install() -> None:
    done = run_program(
        """
import sys
from pathlib import Path
import nfm.table.session
from nfm.cli import main
from nfm.table.java import java_home
nfm.table.session.java_home = lambda: java_home({"PATH": ""}, Path("nowhere"))
sys.exit(main(["score", "--config", "conf/titanic.yaml"]))
"""
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: Spark needs Java 17 or newer, but there is none on the PATH. "
        "Install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME.\n"
    )


def fake_java(home: Path, version: str) -> Path:
    """Write a program that prints a version as Java does; return its Java home."""
    (home / "bin").mkdir(parents=True)
    java = home / "bin/java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(0o755)
    return home


def test_the_first_recent_java_is_used(tmp_path: Path) -> None:
    old, new = fake_java(tmp_path / "old", "11.0.2"), fake_java(tmp_path / "new", "21.0.1")
    system = fake_java(tmp_path / "jvm/java-17-openjdk-amd64", "17.0.15").parent
    ancient, broken = fake_java(tmp_path / "ancient", "1.8.0_292"), tmp_path / "broken"
    (broken / "bin").mkdir(parents=True)

    def found(home: Path | None, path: Path | None, folder: Path = system) -> Path:
        variables = {} if home is None else {"JAVA_HOME": str(home)}
        return java_home(variables | {"PATH": f"{path}/bin" if path else ""}, folder)

    assert found(new, old) == new
    assert found(old, new) == new
    assert found(None, new) == new
    assert found(broken, ancient) == system / "java-17-openjdk-amd64"
    nowhere = tmp_path / "nowhere"
    advice = "Install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME."
    with pytest.raises(NfmError) as none:
        found(None, None, nowhere)
    assert str(none.value) == f"Spark needs Java 17 or newer, but there is none on the PATH. {advice}"
    with pytest.raises(NfmError) as too_old:
        found(broken, ancient, nowhere)
    assert str(too_old.value) == (
        f"Spark needs Java 17 or newer, but JAVA_HOME is {broken}, which has no bin/java; "
        f"the PATH ({ancient}/bin/java) has Java 1. {advice}"
    )
