"""Commands in processes that are forked from one which has imported their libraries, because imports take seconds.

TensorFlow alone takes about eight seconds of a core. A forked process runs the command and ends as any other does.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import ROOT, bare

# Reads a request a line: start a command, or wait for one. Answers with the id or the exit code of its process.
_SERVER = """
import importlib, json, os, sys
from nfm.cli import main

for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    elif (answer := os.fork()) == 0:
        os.setsid()
        os.chdir(request["folder"])
        for number, path in enumerate(request["output"], start=1):
            os.dup2(os.open(path, os.O_WRONLY), number)
        sys.exit(main(request["arguments"]))
    print(answer, flush=True)
"""


class Command:
    """A command `nfm` in its own process."""

    def __init__(self, server: "Forks", arguments: list[str], process: int, output: list[Path]) -> None:
        self._server, self._arguments, self._process, self._output = server, arguments, process, output

    def stderr(self) -> str:
        """Return what the command has written to stderr so far."""
        return self._output[1].read_text()

    def has_ended(self) -> bool:
        """Return whether the process has ended; its exit code is kept until `wait`."""
        return Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self._process, number)

    def wait(self, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Return the exit code and the output once the process has ended."""
        end = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > end:
                os.killpg(self._process, signal.SIGKILL)
                raise AssertionError(f"{self._arguments} has not ended after {seconds} s: {self.stderr()}")
            time.sleep(0.01)
        code = int(self._server.ask(wait=self._process))
        stdout, stderr = (path.read_text() for path in self._output)
        return subprocess.CompletedProcess(self._arguments, code, stdout, stderr)


class Forks:
    """The process that commands are forked from."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder, self._count = process, folder, 0

    def ask(self, **request: object) -> str:
        """Send a request, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def start(self, *arguments: str, cwd: Path = ROOT) -> Command:
        """Start `nfm` with these arguments."""
        self._count += 1
        output = [self._folder / f"{self._count}.{name}" for name in ("stdout", "stderr")]
        for path in output:
            path.write_text("")
        process = int(self.ask(arguments=arguments, folder=str(cwd), output=list(map(str, output))))
        return Command(self, list(arguments), process, output)

    def run(self, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run `nfm` with these arguments until it ends."""
        return self.start(*arguments, cwd=cwd).wait()


@contextmanager
def forks(folder: Path, *preloaded: str) -> Iterator[Forks]:
    """Start the process and import the modules `preloaded` there; the output of commands is written into `folder`."""
    command = [sys.executable, "-c", _SERVER, *preloaded]
    pipe, env = subprocess.PIPE, bare({"COLUMNS": "200"})
    with (
        (folder / "stderr").open("w") as stderr,
        subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            # A command that imported the modules itself would print what their imports print.
            assert (ready, (folder / "stderr").read_text()) == ("ready\n", "")
            yield Forks(process, folder)
        finally:
            process.kill()
