"""Chunks of earlier runs: the next run resumes from them, or deletes them and logs the reason."""

import json
import logging
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import GateError
from nfm.scoring.chunks import Chunk
from nfm.scoring.health.tally import Tally
from nfm.scoring.score import score_table
from nfm.table.jobs import chunks as module
from nfm.table.jobs.chunks import Chunks, reuse_splits
from nfm.table.splits import File, Piece
from nfm.table.write import WrittenFile
from tests.scoring.examples import ROWS, config, save_model

REFUSED: dict[str, Any] = {
    "gates": {"min_rows": 10**6}
}  # scores all rows, publishes none, like a run that is killed at its end
RUN = {"model": "m", "table": "t", "cut": None, "settings": {"columns": ("a", "b")}, "program": "p"}


open_chunks = partial(module.open_chunks, read=Chunk.from_json)


@pytest.fixture(params=["parquet", "csv"])
def source(request: pytest.FixtureRequest, spark: SparkSession, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Sixty rows in six splits, read by the tasks or by Spark."""
    frame = pd.DataFrame(ROWS, columns=["id", "colour", "size", "price", "label"]).astype({"id": "Int64"})
    (tmp_path / "raw").mkdir()
    for i in range(6):
        part, path = frame.iloc[10 * i : 10 * i + 10], tmp_path / f"raw/{i}.{request.param}"
        if request.param == "parquet":
            part.assign(filler=["x" * 4000 + str(n) for n in range(10)]).to_parquet(path, compression=None, index=False)
        else:
            part.to_csv(path, index=False)
    size = max(path.stat().st_size for path in (tmp_path / "raw").iterdir())
    for setting in ("maxPartitionBytes", "openCostInBytes"):
        spark.conf.set(f"spark.sql.files.{setting}", str(size * 6 // 5))
    yield {
        "path": str(tmp_path / "raw"),
        "format": request.param,
        "options": {"header": True, "inferSchema": True} if request.param == "csv" else {},
    }
    spark.conf.unset("spark.sql.files.maxPartitionBytes")
    spark.conf.unset("spark.sql.files.openCostInBytes")


def find_chunks(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.chunks-*"))


def read_rows(output: Path) -> list[Any]:
    tables = [pq.ParquetFile(path).read() for path in output.glob("*.parquet")]
    return sorted(pa.concat_tables(tables).to_pylist(), key=str)


def leave_unfinished(spark: SparkSession, settings: Any, output: Path) -> Path:
    """Score all rows, publish none, and delete the records of two chunks."""
    with pytest.raises(GateError):
        score_table(spark, settings)
    (folder,) = find_chunks(output)
    records = sorted((folder / "done").iterdir())
    assert len(records) == 6
    records[1].unlink()
    records[4].unlink()
    return folder


def test_the_next_run_scores_the_remaining_splits(
    spark: SparkSession, made: Path, tmp_path: Path, source: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    uninterrupted, output = tmp_path / "uninterrupted", tmp_path / "scores"
    expected = score_table(spark, config(made, source, output=str(uninterrupted)))
    folder = leave_unfinished(spark, config(made, source, output=str(output), **REFUSED), output)
    kept = {path.name for path in (folder / "files").glob("*.parquet")}
    with caplog.at_level(logging.INFO, logger="nfm"):
        report = score_table(spark, config(made, source, output=str(output)))
    assert "an earlier run has already scored 40 rows" in caplog.text
    assert read_rows(output) == read_rows(uninterrupted)
    assert len(read_rows(output)) == 60
    of_this_run = ("created", "publication", "gates")
    assert report == {**expected, **{key: report[key] for key in of_this_run}}
    assert (len(kept), find_chunks(output)) == (6, [])


def test_a_long_job_logs_its_progress(
    spark: SparkSession,
    made: Path,
    tmp_path: Path,
    source: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOG_INTERVAL", 0.02)
    with caplog.at_level(logging.INFO, logger="nfm"):
        score_table(spark, config(made, source, output=str(tmp_path / "scores")))
    total = " of 6" if source["format"] == "parquet" else ""
    lines = [record.getMessage() for record in caplog.records if "splits scored" in record.getMessage()]
    assert lines
    line = re.compile(rf"[0-6]{total} splits scored(, about \d+ s left)?")
    assert [text for text in lines if not line.fullmatch(text)] == []


def test_records_with_missing_or_truncated_files_are_ignored(
    spark: SparkSession, made: Path, tmp_path: Path, source: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "scores"
    folder = leave_unfinished(spark, config(made, source, output=str(output), **REFUSED), output)
    first, second, third, _ = sorted((folder / "done").iterdir())
    Path(json.loads(first.read_text())["files"][0]["path"]).unlink()
    truncated = Path(json.loads(second.read_text())["files"][0]["path"])
    truncated.write_bytes(truncated.read_bytes()[:-3])
    third.write_text(third.read_text()[:50])
    with caplog.at_level(logging.INFO, logger="nfm"):
        score_table(spark, config(made, source, output=str(output)))
    assert "an earlier run has already scored 10 rows" in caplog.text
    assert len(read_rows(output)) == 60


def test_changed_inputs_are_scored_again(
    spark: SparkSession, made: Path, tmp_path: Path, source: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "scores"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/encoding").symlink_to(made / "encoding")
    save_model(tmp_path / "shop", 5)
    score = {"output": str(output), "model": str(tmp_path / "shop/model")}
    leave_unfinished(spark, config(made, source, **score, **REFUSED), output)

    def assert_scored_again(change: str, rows: int, **settings: Any) -> None:
        """Score after a change, publish nothing, and leave all chunks for the next change."""
        (before,) = find_chunks(output)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="nfm"), pytest.raises(GateError):
            score_table(spark, config(made, source, **score, **REFUSED, **settings))
        log = "\n".join(caplog.messages)
        assert f"the chunks of an earlier run for {output} are deleted: changed since then: {change}" in log
        assert "has already scored" not in log
        (after,) = find_chunks(output)
        assert after != before
        assert sum(Chunk.from_json(path.read_text()).tally.rows for path in (after / "done").iterdir()) == rows

    save_model(tmp_path / "shop", 6)
    assert_scored_again("model", 60)
    file = min(Path(source["path"]).iterdir())
    file.write_bytes(file.read_bytes())  # the same bytes, but another modification time
    assert_scored_again("the table's files", 60)
    colour = {"columns": ("colour",)}
    assert_scored_again('settings.output.columns was ["id"] and is ["id", "colour"] now', 60, **colour)
    last = max(Path(source["path"]).iterdir())
    (last.parent / f"7{last.suffix}").write_bytes(last.read_bytes())
    assert_scored_again("the table's files", 70, **colour)
    with caplog.at_level(logging.INFO, logger="nfm"):
        report = score_table(spark, config(made, source, **score, **colour))
    assert "an earlier run has already scored 70 rows" in caplog.text
    assert report["rows"] == len(read_rows(output)) == 70
    assert all("colour" in row for row in read_rows(output))
    assert find_chunks(output) == []


def test_a_view_is_not_resumed(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    spark.read.parquet(str(made / "raw")).createOrReplaceTempView("tonight")
    with pytest.raises(GateError):
        score_table(spark, config(made, {"table": "tonight", "scan": "spark"}, output=str(output), **REFUSED))
    assert find_chunks(output) == []
    assert score_table(spark, config(made, {"table": "tonight", "scan": "spark"}, output=str(output)))["rows"] == 60


def test_files_without_a_record_are_deleted(tmp_path: Path) -> None:
    target = tmp_path / "scores"
    chunks = open_chunks(target, RUN)
    (chunks.files / "done.parquet").write_bytes(b"12345")
    (chunks.files / "half.parquet").write_bytes(b"123")
    chunks.keep(Chunk(3, Tally(rows=7), [WrittenFile("", str(chunks.files / "done.parquet"), 7, 5)]))
    again = open_chunks(target, {**RUN, "settings": {"columns": ["a", "b"]}})  # JSON turns tuples into lists
    assert again == chunks
    assert [path.name for path in again.files.iterdir()] == ["done.parquet"]
    (chunk,) = again.done()
    assert (chunk.number, chunk.tally.rows, chunk.files[0].rows) == (3, 7, 7)
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_outputs_with_similar_names_have_separate_chunks(tmp_path: Path) -> None:
    """The output a[b] does not match the chunks of ab, nor `scores` those of `scores2`."""
    for name in ("a[b]", "ab", "scores", "scores2"):
        chunks = open_chunks(tmp_path / name, {**RUN, "model": name})
        assert isinstance(chunks, Chunks)
    open_chunks(tmp_path / "a[b]", {**RUN, "model": "other"})
    open_chunks(tmp_path / "scores", {**RUN, "model": "other"})
    assert [len(find_chunks(tmp_path / name)) for name in ("ab", "scores2", "scores")] == [1, 1, 1]
    assert len(list(tmp_path.glob(".a[[]b].chunks-*"))) == 1


def test_a_resumed_run_has_the_same_splits(tmp_path: Path) -> None:
    file = File("/t/1.parquet", 100, 2)
    before = ((Piece(file, 0, 50),), (Piece(file, 50, 100), Piece(File("s3://b/2", 7, 0), 0, 7)))
    chunks = open_chunks(tmp_path / "scores", RUN)
    assert reuse_splits(chunks, before) == before
    assert (
        reuse_splits(open_chunks(tmp_path / "scores", RUN), ((Piece(file, 0, 100),),)) == before
    )  # as if with fewer cores


@pytest.mark.parametrize(
    ("splits", "new", "message"),
    [
        (10, 4, "6 of 10 splits scored, about 40 s left"),  # four took 40 s, and four are left
        (60, 4, "6 of 60 splits scored, about 9 min left"),
        (10, 3, "5 of 10 splits scored"),  # two at once: the second wave is not complete
        (None, 4, "6 splits scored"),
    ],
)
def test_the_log_shows_the_progress(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    splits: int | None,
    new: int,
    message: str,
) -> None:
    clock = iter([1000.0])  # then always 1040
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock, 1040.0)))
    monkeypatch.setattr(module, "_LOG_INTERVAL", 0.01)
    caplog.set_level(logging.INFO, "nfm")
    chunks = open_chunks(tmp_path / "scores", RUN)
    for number in (7, 8):  # from an earlier run
        chunks.keep(Chunk(number, Tally(rows=10), []))
    with chunks.log_progress(splits, concurrent_tasks=2):
        for number in range(new):
            chunks.keep(Chunk(number, Tally(rows=10), []))
        caplog.clear()
        for _ in range(1000):
            if len(caplog.messages) >= 2:  # the first may be older than `clear`
                break
            time.sleep(0.01)
    assert caplog.messages[-1] == message


def test_the_chunks_of_a_partition_are_not_in_its_table(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    folder = open_chunks(tmp_path / "scores/ds=1", {"model": "a"}).folder
    assert folder.parent == tmp_path
    assert open_chunks(tmp_path / "scores/ds=2", {"model": "b"}).folder.parent == tmp_path
    assert folder.exists()
    assert open_chunks(tmp_path / "scores/ds=1", {"model": "b"}).folder != folder
    assert not folder.exists()
