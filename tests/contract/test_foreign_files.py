"""Files of others in an output folder, or in its place, are named and never deleted."""

import json
import shutil
from pathlib import Path

import pytest

from nfm.contract.errors import DataError
from nfm.contract.publishing.publish import publish
from tests.contract.published import MARKER, files, neighbours, write


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize(
    "name", ["notes.txt", "part-1", "day=1/notes.txt", "_notes.txt", ".gitignore", "_day=1/part-0"]
)
def test_a_file_that_the_job_did_not_write_is_never_deleted(target: Path, name: str) -> None:
    write(target, "old")
    foreign = target / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("mine")
    for _ in range(2):
        with pytest.raises(DataError, match=rf"scores contains {name}, which this job did not write") as refused:
            write(target, "new")
        assert "\n" not in str(refused.value)
        assert (foreign.read_text(), (target / "part-0").read_text()) == ("mine", "old")
        assert neighbours(target) == set()
    (target / "notes 2.txt").touch()
    with pytest.raises(DataError, match=r"contains .* and 1 more, which"):
        write(target, "new")
    (target / "notes 2.txt").unlink()
    foreign.rename(target.parent / "mine")
    write(target, "new")
    assert (target / "part-0").read_text() == "new"
    assert (target.parent / "mine").read_text() == "mine"


def test_a_file_added_during_the_run_is_not_deleted(target: Path) -> None:
    write(target, "old")
    with pytest.raises(DataError, match=r"contains notes\.txt"), publish(target, MARKER) as staging:
        (staging / MARKER).write_text("new")
        (target / "notes.txt").write_text("mine")
    assert files(target) == {"part-0": "old", MARKER: "old", "notes.txt": "mine"}
    assert neighbours(target) == set()


def test_files_that_readers_ignore_do_not_prevent_publishing(target: Path) -> None:
    write(target, "old")
    for name, content in (
        *(("_SUCCESS", ""), ("._SUCCESS.crc", "crc\0\0\0\2\0"), (".checked", ""), (".part-0.crc", "crc")),
        *((".DS_Store", "places"), ("._.DS_Store", "notes"), (".nfs0000a1", "removed"), (".fuse_hidden01", "removed")),
    ):
        (target / name).write_text(content)
    (target / "empty/folder").mkdir(parents=True)
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}


@pytest.mark.parametrize("name", ["mine", ".mine", "_mine"])
@pytest.mark.parametrize("to", ["folder", "file", "nothing"])
def test_a_symbolic_link_counts_as_a_file(target: Path, name: str, to: str) -> None:
    write(target, "old")
    destination = target.parent / to
    if to == "folder":
        destination.mkdir()
    if to == "file":
        destination.touch()
    (target / name).symlink_to(destination)
    with pytest.raises(DataError, match=f"scores contains {name}, which this job did not write"):
        write(target, "new")
    assert (target / name).is_symlink()


def test_a_delta_table_and_folders_in_it_are_not_replaced(target: Path) -> None:
    for table in (target, target.parent.parent):
        write(target, "old")
        (table / "_delta_log").mkdir()
        with pytest.raises(
            DataError, match=r"scores is (a|in .*, which is a) Delta table; .* set score\.format: delta"
        ):
            write(target, "new")
        assert (target / "part-0").read_text() == "old"
        (table / "_delta_log").rmdir()
    # Readers of a Delta table ignore this folder: it is not part of the table.
    (target / "_delta_log").mkdir()
    write(target / "_refused_scores", "new")


@pytest.mark.parametrize("damage", ["", "[", "null", "3"])
def test_a_damaged_list_of_written_files_is_refused(target: Path, damage: str) -> None:
    write(target, "old")
    (target / "_files.json").write_text(damage)
    with pytest.raises(
        DataError, match=r"^Cannot parse .*_files\.json \(.*\), which .* Move .* away and run the job again\.$"
    ):
        write(target, "new")
    assert files(target) == {"part-0": "old", MARKER: "old"}
    assert neighbours(target) == set()


def test_a_published_folder_lists_its_files(target: Path) -> None:
    with publish(target, MARKER) as staging:
        (staging / "day=1").mkdir()
        for name in ("part-0", "day=1/part-1", MARKER):
            (staging / name).touch()
    assert json.loads((target / "_files.json").read_text()) == [MARKER, "day=1/part-1", "part-0"]


def test_a_copied_folder_is_checked_like_the_original(target: Path) -> None:
    write(target, "old", parts=2)
    copy = target.with_name("copy")
    shutil.copytree(target, copy)
    shutil.rmtree(target)
    copy.rename(target)
    (target / "part-0").unlink()  # a missing file does not prevent publishing
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}
    (target / "part-9").touch()
    with pytest.raises(DataError, match="contains part-9, which this job did not write"):
        write(target, "newer")


def test_a_folder_made_by_hand_in_place_of_a_published_one_is_replaced(target: Path) -> None:
    # File systems reuse the inode number of a deleted folder, so it does not identify a folder.
    for version in ("one", "two", "three"):
        write(target, version)
        shutil.rmtree(target)
        target.mkdir()
        for name in ("yesterday", MARKER):
            (target / name).touch()
        write(target, version)
        assert files(target) == {"part-0": version, MARKER: version}


def test_a_folder_or_file_without_the_marker_is_refused_and_kept(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    (target.parent / "file").write_text("years of work")
    for path in (target, target.parent / "file"):
        with pytest.raises(DataError) as refused:
            write(path, "new")
        assert str(refused.value) == (
            f"{path} already exists and was not written by this job: it contains no {MARKER}. It was not changed. "
            "Choose another folder, or move the existing one."
        )
    assert files(target) == {"thesis.txt": "years of work"}
    assert (target.parent / "file").read_text() == "years of work"
    assert neighbours(target) == {"file", ".file.lock"}
