"""What somebody has put into an output folder, or where one should be: it is named and never deleted."""

import json
import shutil
from pathlib import Path

import pytest

from nfm.contract.errors import DataError
from nfm.contract.publish import publish
from tests.contract.published import MARKER, beside, files, write


@pytest.mark.usefixtures("any_file_system")
@pytest.mark.parametrize(
    "name", ["notes.txt", "part-1", "day=1/notes.txt", "_notes.txt", ".gitignore", "_day=1/part-0"]
)
def test_a_file_that_somebody_has_put_there_is_never_deleted(target: Path, name: str) -> None:
    write(target, "old")
    mine = target / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    for _ in range(2):
        with pytest.raises(DataError, match=rf"scores contains {name}, which this job did not write") as told:
            write(target, "new")
        assert "\n" not in str(told.value)
        assert (mine.read_text(), (target / "part-0").read_text()) == ("mine", "old")
        assert beside(target) == set()
    (target / "notes 2.txt").touch()
    with pytest.raises(DataError, match=r"contains .* and 1 more, which"):
        write(target, "new")
    (target / "notes 2.txt").unlink()
    mine.rename(target.parent / "mine")
    write(target, "new")
    assert (target / "part-0").read_text() == "new"
    assert (target.parent / "mine").read_text() == "mine"


def test_a_file_that_comes_while_the_new_folder_is_made_is_not_deleted(target: Path) -> None:
    write(target, "old")
    with pytest.raises(DataError, match=r"contains notes\.txt"), publish(target, MARKER) as staging:
        (staging / MARKER).write_text("new")
        (target / "notes.txt").write_text("mine")
    assert files(target) == {"part-0": "old", MARKER: "old", "notes.txt": "mine"}
    assert beside(target) == set()


def test_what_readers_pass_over_keeps_no_run_from_its_work(target: Path) -> None:
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
def test_a_link_that_somebody_has_put_there_is_a_file_like_any_other(target: Path, name: str, to: str) -> None:
    write(target, "old")
    place = target.parent / to
    if to == "folder":
        place.mkdir()
    if to == "file":
        place.touch()
    (target / name).symlink_to(place)
    with pytest.raises(DataError, match=f"scores contains {name}, which this job did not write"):
        write(target, "new")
    assert (target / name).is_symlink()


def test_a_delta_table_is_tended_by_others(target: Path) -> None:
    with publish(target, MARKER) as staging:
        (staging / "_delta_log").mkdir()
        (staging / MARKER).touch()
    (target / "part-of-an-optimize").touch()
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}


@pytest.mark.parametrize("damage", ["", "[", "null", "3"])
def test_a_damaged_list_of_what_was_written_is_told(target: Path, damage: str) -> None:
    write(target, "old")
    (target / "_files.json").write_text(damage)
    with pytest.raises(DataError, match=r"_files\.json is damaged \(.*\): .* Move it away, and run the job again\.$"):
        write(target, "new")
    assert files(target) == {"part-0": "old", MARKER: "old"}
    assert beside(target) == set()


def test_a_folder_tells_what_it_was_published_with(target: Path) -> None:
    with publish(target, MARKER) as staging:
        (staging / "day=1").mkdir()
        for name in ("part-0", "day=1/part-1", MARKER):
            (staging / name).touch()
    assert json.loads((target / "_files.json").read_text()) == [MARKER, "day=1/part-1", "part-0"]


def test_a_folder_that_was_copied_or_restored_is_looked_at_like_any_other(target: Path) -> None:
    write(target, "old", parts=2)
    copy = target.with_name("copy")
    shutil.copytree(target, copy)
    shutil.rmtree(target)
    copy.rename(target)
    (target / "part-0").unlink()  # what is gone keeps no run from its work
    write(target, "new")
    assert files(target) == {"part-0": "new", MARKER: "new"}
    (target / "part-9").touch()
    with pytest.raises(DataError, match="contains part-9, which this job did not write"):
        write(target, "newer")


def test_a_folder_made_by_hand_where_a_published_one_was_is_replaced(target: Path) -> None:
    # File systems give a new folder the number of one that was removed: it tells nothing.
    for version in ("one", "two", "three"):
        write(target, version)
        shutil.rmtree(target)
        target.mkdir()
        for name in ("yesterday", MARKER):
            (target / name).touch()
        write(target, version)
        assert files(target) == {"part-0": version, MARKER: version}


def test_what_is_not_ours_is_refused_and_left_alone(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    (target.parent / "file").write_text("years of work")
    for theirs in (target, target.parent / "file"):
        with pytest.raises(DataError) as refused:
            write(theirs, "new")
        assert str(refused.value) == (
            f"{theirs} exists, and is not something this job made: it contains no {MARKER}. It is left as it is. "
            "Choose another folder, or move that one away."
        )
    assert files(target) == {"thesis.txt": "years of work"}
    assert (target.parent / "file").read_text() == "years of work"
    assert beside(target) == {"file", ".file.lock"}
