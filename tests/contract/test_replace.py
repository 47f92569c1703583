"""Replacing files: a reader sees the old file or the new one, and a failed writer leaves no temporary file."""

import os
from pathlib import Path

import pytest

from nfm.contract.publishing.replace import making, replacing, temporary_path


@pytest.mark.parametrize("shared", [False, True])
def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path, shared: bool) -> None:
    target = tmp_path / "file.json"
    for old, new in ((None, "one"), ("one", "two")):
        with replacing(target, shared=shared) as attempt:
            attempt.write_text(new)
            assert (target.read_text() if target.exists() else None) == old
            assert attempt.name.startswith(".") and attempt.parent == tmp_path
            assert (attempt == temporary_path(target)) is not shared
        assert target.read_text() == new
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_no_temporary_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as attempt:
        attempt.write_text("half")
        raise error
    with pytest.raises(FileNotFoundError), replacing(target):
        pass  # nothing was written
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_of_a_killed_writer_is_overwritten(tmp_path: Path) -> None:
    temporary_path(tmp_path / "file").write_text("a longer half of a file")
    with replacing(tmp_path / "file") as attempt:
        attempt.write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_two_writers_at_the_same_time_do_not_interfere(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with replacing(target, shared=True) as first, replacing(target, shared=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the outer block ended last
    assert list(tmp_path.iterdir()) == [target]


def test_a_durable_file_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    target = tmp_path / "file"
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append((Path(f"/proc/self/fd/{fd}").readlink(), target.exists()))
    )
    with replacing(target, durable=True) as attempt:
        attempt.write_text("new")
    assert synced == [(attempt, False)]


def test_the_first_folder_that_is_complete_wins(tmp_path: Path) -> None:
    target = tmp_path / "made" / "folder"
    with making(target) as first, making(target) as second:
        (first / "file").write_text("first")
        (second / "file").write_text("second")
        assert not target.exists()
    assert (target / "file").read_text() == "second"  # the inner block ended first
    with pytest.raises(ValueError, match="no"), making(tmp_path / "made" / "other"):
        raise ValueError("no")
    assert list(target.parent.iterdir()) == [target]
