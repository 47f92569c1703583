"""Reading folders that are published meanwhile, and what a reader sees of a folder that is deleted."""

import os
from pathlib import Path

import pytest

import nfm.contract.publishing.published as published_module
from nfm.contract.errors import DataError, ReplacedError
from nfm.contract.publishing.publish import publication_id, publish, publish_together, without_publication
from nfm.contract.publishing.published import read_published
from tests.contract.published import MARKER, files, neighbours, write


@pytest.mark.usefixtures("any_file_system")
def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(target: Path) -> None:
    write(target, "old")
    reads: list[str] = []

    def read() -> str:
        first = (target / "part-0").read_text()
        if not reads:
            write(target, "new")
        reads.append(first + (target / MARKER).read_text())
        return reads[-1]

    assert read_published([target], read) == "newnew"
    assert reads == ["oldnew", "newnew"]


def test_an_error_of_a_folder_that_is_replaced_is_not_reported(target: Path) -> None:
    write(target, "old")
    reads: list[int] = []

    def read() -> str:
        reads.append(1)
        if len(reads) == 1:
            write(target, "new")
            raise DataError("its checksum is not the one in metadata.json")
        return (target / "part-0").read_text()

    assert read_published([target], read) == "new"
    with pytest.raises(DataError, match="damaged"):
        read_published([target], lambda: fail("damaged"))


def fail(reason: str) -> None:
    raise DataError(reason)


def test_a_folder_that_appears_while_it_is_read_is_read_again(target: Path) -> None:
    reads: list[int] = []

    def read() -> str:
        reads.append(1)
        if len(reads) == 1:
            write(target, "new")
            raise FileNotFoundError
        return (target / "part-0").read_text()

    assert read_published([target], read) == "new"


def test_a_folder_that_is_absent_gives_the_error_of_its_reader(target: Path) -> None:
    with pytest.raises(DataError, match="There is no model"):
        read_published([target], lambda: fail("There is no model"))


def test_a_folder_that_is_always_replaced_is_an_error_that_may_be_retried(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_module, "_ATTEMPTS", 3)
    write(target, "old")
    with pytest.raises(ReplacedError, match=rf"^{target} was replaced 3 times while it was read\.") as refused:
        read_published([target], lambda: write(target, "newer"))
    assert refused.value.exit_code == 1


def test_each_of_several_folders_is_checked(target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(target, "old")
    write(other, "old")
    reads: list[int] = []

    def read() -> list[str]:
        reads.append(1)
        if len(reads) == 1:
            write(other, "new")
        return [(folder / "part-0").read_text() for folder in (target, other)]

    assert read_published([target, other], read) == ["old", "new"]
    assert len(reads) == 2


@pytest.mark.parametrize("folder", ["", "country=DE"])
def test_a_replaced_folder_never_lists_only_a_part_of_its_files(
    target: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"part-0.parquet", "part-1.parquet", "part-2.csv"}
    with publish(target, MARKER) as staging:
        (staging / folder).mkdir(exist_ok=True)
        for name in names:
            (staging / folder / name).touch()
        (staging / MARKER).touch()
    descriptor, seen = os.open(target / folder, os.O_RDONLY), list[set[str]]()
    unlink = Path.unlink

    def list_and_unlink(path: Path, missing_ok: bool = False) -> None:
        seen.append(set(os.listdir(descriptor)))  # noqa: PTH208
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", list_and_unlink)
    write(target, "new")
    assert any(not names <= listed for listed in seen)
    for listed in seen:
        assert names <= listed or {"part-replaced.parquet", "part-replaced.csv"} <= listed
    assert neighbours(target) == set()
    os.close(descriptor)


def test_the_link_in_a_replaced_folder_cannot_be_opened(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(target, "old")
    descriptor, errors = os.open(target, os.O_RDONLY), list[str]()
    unlink = Path.unlink

    def open_and_unlink(path: Path, missing_ok: bool = False) -> None:
        with pytest.raises(FileNotFoundError) as error:
            os.open("part-replaced", os.O_RDONLY, dir_fd=descriptor)
        errors.append(str(error.value))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", open_and_unlink)
    write(target, "new")
    assert len(errors) == 3  # part-0, the marker, and the list of files
    os.close(descriptor)


@pytest.mark.usefixtures("any_file_system")
def test_folders_are_published_together_or_not_at_all(tmp_path: Path) -> None:
    outputs = [(tmp_path / name, MARKER) for name in ("one", "two")]
    for version in ("old", "new"):
        with publish_together(*outputs) as stagings:
            for staging in stagings:
                (staging / MARKER).write_text(version)
        assert [files(folder) for folder, _ in outputs] == [{MARKER: version}] * 2
    with pytest.raises(DataError, match=r"two.staging-.* is not complete"), publish_together(*outputs) as stagings:
        (stagings[0] / MARKER).write_text("newer")
    (tmp_path / "one/mine").touch()
    with pytest.raises(DataError, match="one contains mine"), publish_together(*outputs) as stagings:
        raise AssertionError("the block was run")
    (tmp_path / "one/mine").unlink()
    with pytest.raises(DataError, match="two contains mine"), publish_together(*outputs) as stagings:
        for staging in stagings:
            (staging / MARKER).write_text("newer")
        (tmp_path / "two/mine").touch()
    (tmp_path / "two/mine").unlink()
    assert [files(folder) for folder, _ in outputs] == [{MARKER: "new"}] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", ".one.lock", ".two.lock"}


def test_each_publication_has_its_own_id(target: Path) -> None:
    ids = []
    for _ in range(2):
        with publish(target, MARKER) as staging:
            ids.append(publication_id(staging))
            (staging / MARKER).touch()
    assert len(set(ids)) == 2
    assert without_publication(f"fold=train/part-00000-{ids[0]}.parquet") == "fold=train/part-00000.parquet"
    for name in ("part-00000.parquet", "part-00000-12.parquet", f"part-{ids[0]}/x.parquet", f"part-{ids[0]}x.parquet"):
        assert without_publication(name) == name


@pytest.mark.usefixtures("any_file_system")
def test_nothing_hidden_is_in_the_table_of_a_partition(tmp_path: Path) -> None:
    table = tmp_path / "scores"
    target = table / "ds=1/hour=2"
    for version in ("old", "new"):
        with publish(target, MARKER) as staging:
            (staging / MARKER).write_text(version)
            assert staging.parent == tmp_path
            assert {path for path in table.rglob("*") if path.is_file()} <= {target / MARKER, target / "_files.json"}
        assert files(target) == {MARKER: version}
    assert {path.name for path in tmp_path.iterdir()} == {"scores", ".scores.ds=1.hour=2.lock"}


def test_a_partition_on_a_disk_of_its_own_is_published_there(small_disk: Path) -> None:
    for version in ("old", "new"):
        write(small_disk / "ds=1", version)
        assert files(small_disk / "ds=1") == {"part-0": version, MARKER: version}
    assert {path.name for path in small_disk.iterdir()} == {"ds=1", ".ds=1.lock"}


def test_the_partitions_of_a_table_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with publish(tmp_path / "scores/ds=1", MARKER) as one, publish(tmp_path / "scores/ds=2", MARKER) as two:
        for staging in (one, two):
            (staging / MARKER).touch()
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["ds=1", "ds=2"]
