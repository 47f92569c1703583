"""Files that another process writes while a job reads the table: rows of one version, or an error."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import ReplacedError
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from nfm.table.scan import open_scan
from tests.scoring.examples import config, save_model
from tests.table.reading import METHODS, all_columns, read_rows, to_texts, write

CSV = "id,colour,size,price,label\n" + "".join(f"{i},red,{i % 3},,{i % 2}\n" for i in range(20))
OTHER_ORDER = "id,size,colour,price,label\n" + "".join(f"{i},{i % 3},red,,{i % 2}\n" for i in range(20))


def replace(path: Path, content: str) -> None:
    """Replace a file in one step, like most writers; its time of change differs."""
    before = path.stat().st_mtime_ns
    new = path.with_name("_new")
    new.write_text(content)
    os.utime(new, ns=(before + 1_000_000, before + 1_000_000))
    new.rename(path)


@contextmanager
def replacing_at(message: str, path: Path, content: str) -> Iterator[None]:
    """Replace a file when a job logs this message."""

    class Replacing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if message in record.getMessage():
                replace(path, content)

    logger, handler = logging.getLogger("nfm"), Replacing()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def test_a_text_file_with_other_columns_replaces_one_that_is_read(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(CSV)
    settings = config(tmp_path, {"format": "csv", "path": str(table)})
    with (
        replacing_at("counting the values", table, OTHER_ORDER),
        pytest.raises(ReplacedError, match=rf"{table} was changed while the job read it.*Run the job again"),
    ):
        build(spark, settings)
    assert not (tmp_path / "encoding").exists()
    table.write_text(CSV)
    build(spark, settings)
    save_model(tmp_path, 1)
    with (
        replacing_at("with the model", table, OTHER_ORDER),
        pytest.raises(ReplacedError, match="was changed while the job read it") as caught,
    ):
        score_table(spark, settings)
    assert caught.value.exit_code == 1  # a scheduler runs the job again
    assert not (tmp_path / "scores").exists()
    assert score_table(spark, settings)["rows"] == 20


def test_a_changed_parquet_file(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "raw/a.parquet", x=pa.array([1, None, 3]))
    for method in METHODS:
        scan = open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method), all_columns)
        scan.check_unchanged()
        size, changed = path.stat().st_size, path.stat().st_mtime_ns
        write(path, x=pa.array([1, None, 4]))
        os.utime(path, ns=(changed + 1_000_000, changed + 1_000_000))
        assert path.stat().st_size == size
        with pytest.raises(ReplacedError, match=r"raw/a\.parquet was changed while"):
            scan.check_unchanged()
        path.rename(tmp_path / "moved")  # what tasks have read is complete
        scan.check_unchanged()
        (tmp_path / "moved").rename(path)


def test_a_text_file_that_is_added_while_the_others_are_checked(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,city\n1,Oslo\n2,\n")

    def add(schema: pa.Schema) -> list[str]:
        (tmp_path / "b.csv").write_text("city,id\nBergen,3\n")
        return list(schema.names)

    scan = open_scan(spark, Source(format="csv", path=str(tmp_path)), add)
    assert read_rows(scan) == to_texts([(1, "Oslo"), (2, None)])
    assert [file.path for file in scan.read_files] == [f"{tmp_path}/a.csv"]
    scan.check_unchanged()
