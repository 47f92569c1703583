"""Files of the dataset: row groups are full, sizes are within bounds, and compaction loses no row."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.contract.publishing.publish import publication_id, publish
from nfm.table import write as module
from nfm.table.write import Layout, Writer, WrittenFile, compact_files, move_into_place, plan_compaction

MIB = 1 << 20
LAYOUT = Layout(("f",), ("id",))


def table(start: int, rows: int) -> pa.Table:
    return pa.table({"id": np.arange(start, start + rows), "f": np.arange(rows, dtype=np.int32) % 3})


def test_row_groups_are_full_for_any_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 100)
    writer = Writer(tmp_path, LAYOUT)
    start = 0
    for rows in (1, 0, 250, 99, 3):
        writer.add("fold=train", table(start, rows))
        start += rows
    writer.add("fold=test", table(1000, 7))
    files = {file.folder: file for file in writer.close()}
    metadata = pq.read_metadata(files["fold=train"].path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100, 100, 100, 53]
    assert pq.read_table(files["fold=train"].path)["id"].to_pylist() == list(range(353))
    assert (files["fold=train"].rows, files["fold=test"].rows) == (353, 7)


def test_a_large_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROW_GROUP", 10_000)
    writer = Writer(tmp_path, Layout((), ()), file_bytes=200_000)
    for i in range(10):
        writer.add("fold=train", table(i * 10_000, 10_000))
    files = writer.close()
    assert len(files) > 1
    assert all(file.bytes >= 200_000 for file in files[:-1])
    ids = [i for file in files for i in pq.read_table(file.path)["id"].to_pylist()]
    assert ids == list(range(100_000))


def files_of_sizes(folder: str, *sizes: int) -> list[WrittenFile]:
    return [WrittenFile(folder, f"{folder}/{i}", 1, size * MIB) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ((), []),
        ((30,), []),  # one small file stays
        ((128, 130, 70), []),
        ((30, 30), [[30, 30]]),
        ((30, 128, 30), [[30, 30]]),
        ((60,) * 7, [[60, 60, 60], [60, 60], [60, 60]]),
        ((1,) * 300, [[1] * 150, [1] * 150]),
    ],
)
def test_small_files_are_compacted(sizes: tuple[int, ...], groups: list[list[int]]) -> None:
    plan = plan_compaction(files_of_sizes("fold=train", *sizes))
    assert sorted([file.bytes // MIB for file in group] for group in plan) == sorted(groups)


def test_files_of_different_folders_are_not_compacted_together() -> None:
    plan = plan_compaction(files_of_sizes("fold=train", 5, 6) + files_of_sizes("fold=test", 7, 8))
    assert sorted([file.path for file in group] for group in plan) == [
        ["fold=test/0", "fold=test/1"],
        ["fold=train/0", "fold=train/1"],
    ]


def test_compaction_loses_no_row(spark: SparkSession, tmp_path: Path) -> None:
    written = tmp_path / "written"
    written.mkdir()
    files: list[WrittenFile] = []
    for task in range(3):
        writer = Writer(written, LAYOUT)
        writer.add("fold=train", table(task * 100, 100))
        writer.add("fold=valid/day=1", table(1000 + task, 1))
        files += writer.close()
    with publish(tmp_path / "dataset", "_done") as staging:
        move_into_place(compact_files(spark, files, written, LAYOUT), staging, publication_id(staging))
        (staging / "_done").touch()
    found = {str(p.relative_to(tmp_path / "dataset")): p for p in (tmp_path / "dataset").rglob("*.parquet")}
    id_ = publication_id(staging)
    assert sorted(found) == [f"fold=train/part-00000-{id_}.parquet", f"fold=valid/day=1/part-00000-{id_}.parquet"]
    train, valid = (sorted(pq.ParquetFile(path).read()["id"].to_pylist()) for _, path in sorted(found.items()))
    assert train == list(range(300))
    assert valid == [1000, 1001, 1002]
