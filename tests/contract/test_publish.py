"""Publishing: a reader sees the complete old folder or the complete new one, whatever happens to the writer."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nfm.contract.publishing.replace as module
from nfm.contract.errors import DataError, NfmError
from nfm.contract.publishing.publish import BusyError, locked, publish
from tests.contract.published import MARKER, files, neighbours, write

# A process that waits in the middle of writing, and completes when its standard input ends.
WRITER = """
import sys
from pathlib import Path
from nfm.contract.publishing.publish import publish

with publish(Path(sys.argv[1]), "_done.json") as staging:
    (staging / "half").write_text("half")
    print("staging", flush=True)
    sys.stdin.read()
    (staging / "_done.json").write_text("by the other process")
"""

# A process that reads one version after the other. It opens the folder once and its files through that handle: a folder
# that was replaced meanwhile may lose files, but the published one never does.
READER = """
import os
import sys

target, names = sys.argv[1], [f"part-{i}" for i in range(20)]
complete = set()
print("reading", flush=True)
while not os.path.exists(sys.argv[2]):
    folder = os.open(target, os.O_RDONLY)  # the target always exists
    versions = set()
    try:
        for name in names:
            file = os.open(name, os.O_RDONLY, dir_fd=folder)
            versions.add(os.read(file, 99))
            os.close(file)
        complete |= versions
    except FileNotFoundError:
        assert os.stat(target).st_ino != os.fstat(folder).st_ino, "the published folder lacks a file"
    assert len(versions) <= 1, f"a folder of several versions: {versions}"
    os.close(folder)
print(len(complete))
"""


@contextmanager
def other_process(script: str, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a script in another process, and yield after its first line of output."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "the process died"
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("any_file_system")
def test_a_folder_is_created_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "not/there/yet/scores"
    for version in ("one", "two", "three"):
        write(target, version)
        assert files(target) == {"part-0": version, MARKER: version}
        assert neighbours(target) == set()


@pytest.mark.usefixtures("any_file_system")
def test_the_old_folder_stays_until_the_block_ends(target: Path) -> None:
    write(target, "old")
    with publish(target, MARKER) as staging:
        assert list(staging.iterdir()) == []
        (staging / MARKER).write_text("new")
        assert files(target) == {"part-0": "old", MARKER: "old"}
    assert files(target) == {MARKER: "new"}


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_only_the_old_folder(target: Path, error: type[BaseException]) -> None:
    write(target, "old")
    with pytest.raises(error), publish(target, MARKER) as staging:
        (staging / MARKER).write_text("new")
        raise error
    assert files(target) == {"part-0": "old", MARKER: "old"}
    assert neighbours(target) == set()


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize("how", ["publish", "locked"])
def test_a_target_that_cannot_be_written_is_refused(tmp_path: Path, how: str) -> None:
    (tmp_path / "file").write_text("mine")
    for target, reason in (
        (tmp_path / "file/scores", rf"{tmp_path}/file: it is a file"),
        (tmp_path / "file/below/scores", rf"{tmp_path}/file/below: Not a directory"),
        (Path("/proc/scores"), r"/proc/\.scores\.lock: No such file or directory"),
    ):
        message = rf"^Cannot write {target} \({reason}\)\. Choose a folder that you can write to, and run"
        with pytest.raises(NfmError, match=message), publish(target, MARKER) if how == "publish" else locked(target):
            raise AssertionError("the block was run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_reported_and_leaves_the_old_folder(small_disk: Path) -> None:
    target = small_disk / "scores"
    write(target, "old")
    with pytest.raises(
        NfmError, match=rf"^A disk is full: there is no space left for {target}, or .* Free some space and run the"
    ):
        write(target, "new" * 400_000)
    assert files(target) == {"part-0": "old", MARKER: "old"}
    assert neighbours(target) == set()
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "others").write_bytes(bytes(1 << 20))
    with pytest.raises(NfmError, match=rf"^A disk is full: there is no space left for {small_disk}/first, or"):
        write(small_disk / "first", "not even its lock")


def test_a_staging_folder_that_cannot_be_deleted_does_not_prevent_publishing(
    target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stale = target.parent / ".scores.staging-abc"
    (stale / "mounted").mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(stale / "mounted")], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr!r}")
    try:
        for version in ("one", "two"):
            write(target, version)
            assert files(target) == {"part-0": version, MARKER: version}
            assert caplog.messages[-1] == f"the staging folder of an earlier run, {stale}, cannot be deleted"
    finally:
        subprocess.run(["umount", str(stale / "mounted")], check=True)
    write(target, "three")
    assert neighbours(target) == set()


@pytest.mark.parametrize("old", [True, False])
def test_a_folder_without_the_marker_is_not_published(target: Path, old: bool) -> None:
    if old:
        write(target, "old")
    with pytest.raises(DataError) as refused, publish(target, MARKER) as staging:
        (staging / "part-0").write_text("new")
    assert f"is not complete: it contains no {MARKER}. {target} was not changed." in str(refused.value)
    assert files(target) == {"part-0": "old", MARKER: "old"} if old else not target.exists()
    assert neighbours(target) == set()


@pytest.mark.usefixtures("any_file_system")
def test_an_empty_folder_may_be_replaced(target: Path) -> None:
    target.mkdir()
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}
    assert neighbours(target) == set()


@pytest.mark.usefixtures("any_file_system")
def test_the_folder_behind_a_symbolic_link_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "disk/scores", tmp_path / "scores"
    link.symlink_to(target)
    for version in ("one", "two", "three"):
        write(link, version)
        assert link.is_symlink()
        assert files(target) == files(link) == {"part-0": version, MARKER: version}
    assert neighbours(target) == set()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_permissions_follow_the_umask(target: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write(target, "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert target.stat().st_mode & 0o777 == mode


def test_a_reader_in_another_process_sees_only_complete_versions(target: Path) -> None:
    write(target, "version 0", parts=20)
    stop = target.parent / "stop"
    with other_process(READER, target, stop) as reader:
        for version in range(1, 300):
            write(target, f"version {version}", parts=20)
        stop.touch()
        seen, _ = reader.communicate()
    assert reader.returncode == 0
    assert int(seen) > 2, "the reader was too slow for this test"


def test_a_second_run_is_refused_and_names_the_first(target: Path) -> None:
    write(target, "old")
    with other_process(WRITER, target) as first:
        with pytest.raises(BusyError) as busy:
            write(target, "second")
        assert str(busy.value) == (
            f"Another run is writing {target}: process {first.pid} on {socket.gethostname()}. "
            "Wait until it ends or stop it. Then run the job again."
        )
        assert busy.value.exit_code == 1
        assert files(target) == {"part-0": "old", MARKER: "old"}
        first.communicate()
    assert files(target) == {"half": "half", MARKER: "by the other process"}
    write(target, "after the lock")
    assert neighbours(target) == set()


def test_two_targets_do_not_wait_for_each_other(target: Path) -> None:
    with other_process(WRITER, target) as first:
        write(target.with_name("scores.2"), "other")
        first.communicate()
    assert files(target) == {"half": "half", MARKER: "by the other process"}


@pytest.mark.parametrize("name", ["scores", "scores[1]"])
def test_a_killed_run_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    write(target, "old")
    with other_process(WRITER, target) as writer:
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert files(target) == {"part-0": "old", MARKER: "old"}
    (stale,) = neighbours(target)
    assert files(target.parent / stale) == {"half": "half"}
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}
    assert neighbours(target) == set()


def test_a_run_killed_between_two_renames_loses_nothing(target: Path) -> None:
    write(target, "old")
    kill_after_first_rename = """
import os
import signal
import nfm.contract.publishing.replace as module

def rename_and_die(self, to, rename=module.Path.rename):
    rename(self, to)
    os.kill(os.getpid(), signal.SIGKILL)

module._exchange = lambda a, b: False
module.Path.rename = rename_and_die
"""
    with other_process(kill_after_first_rename + WRITER, target) as writer:
        writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert not target.exists()
    with pytest.raises(ValueError, match="later"), publish(target, MARKER):
        raise ValueError("later")
    assert files(target) == {"part-0": "old", MARKER: "old"}
    assert neighbours(target) == set()


operations = st.tuples(
    st.sampled_from(["publish", "fail", "no marker"]),
    st.sampled_from(["a", "a.b", "[a]", ".a"]),
    st.dictionaries(st.sampled_from(["x", "y", "z"]), st.text("pq", max_size=2)),
)


@given(steps=st.lists(operations, max_size=12), atomic=st.booleans())
def test_any_sequence_of_runs_behaves_like_a_dict(steps: list[tuple[str, str, dict[str, str]]], atomic: bool) -> None:
    expected: dict[str, dict[str, str]] = {}
    with TemporaryDirectory() as parent, pytest.MonkeyPatch.context() as patch:
        if not atomic:
            patch.setattr(module, "_exchange", lambda a, b: False)
        for action, name, content in steps:
            folder: Any = Path(parent, name)
            try:
                with publish(folder, MARKER) as staging:
                    for file, text in content.items():
                        (staging / file).write_text(text)
                    if action == "fail":
                        raise InterruptedError
                    if action == "publish":
                        (staging / MARKER).write_text(action)
            except (InterruptedError, DataError):
                assert action != "publish"
            else:
                assert action == "publish"
                expected[name] = {**content, MARKER: action}
            locks = {f".{name}.lock" for _, name, _ in steps}
            existing = {path.name: files(path) for path in Path(parent).iterdir() if path.name not in locks}
            assert existing == expected
