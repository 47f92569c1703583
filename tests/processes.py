"""Run jobs and clusters in their own processes, like users do."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
# A JVM of a test lives for seconds: the optimizing compiler, a multithreaded collector, the verification of Spark's
# bytecode and the web page of a job would cost more than the test itself.
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
NO_PAGE = "-Dspark.ui.enabled=false"


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Return variables with this environment's programs first on the PATH. The job sets PYSPARK_PYTHON itself."""
    env = {key: value for key, value in os.environ.items() if key != "PYSPARK_PYTHON"}
    return env | {"PATH": f"{BIN}:{env['PATH']}", "SPARK_CONF_DIR": str(ROOT / "nfm/table/spark_conf"), **(more or {})}


def bare(more: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a user who has set no variable of Java or Spark."""
    kept = environment()
    for name in ("JAVA_HOME", "SPARK_CONF_DIR", "SPARK_HOME"):
        kept.pop(name, None)
    return kept | {"PYTHONPATH": str(ROOT), **(more or {})}


def run(command: list[str], more: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends."""
    return subprocess.run(command, cwd=cwd, env=environment(more), capture_output=True, text=True, timeout=300)


# Runs several commands in this process and prints a list of their exit codes and outputs.
_COMMANDS = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from nfm.cli import main

done = []
for arguments in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        code = main(arguments)
    done.append([code, stdout.getvalue(), stderr.getvalue()])
print(json.dumps(done))
"""


def run_in_one_application(
    submit: list[str], commands: list[list[str]], folder: Path, more: dict[str, str]
) -> list[subprocess.CompletedProcess[str]]:
    """Run commands `nfm` one after another in one Spark application, in `folder`; return the results of each.

    Args:
        submit: spark-submit and its options.
        commands: arguments of each command.
        folder: where the application runs.
        more: variables of the environment.
    """
    program = folder / "commands.py"
    program.write_text(_COMMANDS)
    done = run([*submit, str(program), json.dumps(commands)], more, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    return [subprocess.CompletedProcess(*result) for result in zip(commands, *zip(*results, strict=True), strict=True)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def standalone_cluster(folder: Path) -> Iterator[str]:
    """Start a standalone cluster: a master and two workers with one core each. Executors run in `folder`/work*/."""
    port = _free_port()
    url = f"spark://127.0.0.1:{port}"
    classes = "org.apache.spark.deploy"
    master = ["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]
    worker = ["worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1", "--memory", "1g"]
    commands = [master] + [[*worker, "--work-dir", str(folder / f"work{i}"), url] for i in range(2)]
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "SPARK_LOCAL_IP": "127.0.0.1"}
    env["JAVA_TOOL_OPTIONS"] = JVM  # executors inherit it
    env.pop("SPARK_CONF_DIR", None)  # the loop below needs log messages of level INFO
    processes, logs = [], []
    try:
        for i, (name, *arguments) in enumerate(commands):
            logs.append(folder / f"log{i}")
            with logs[-1].open("w") as log:
                command = [str(BIN / "spark-class"), f"{classes}.{name}", *arguments]
                processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        for _ in range(120):
            if sum("Successfully registered with master" in log.read_text() for log in logs) == 2:
                break
            time.sleep(0.5)
        else:
            raise AssertionError("\n".join(log.read_text()[-2000:] for log in logs))
        yield url
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
