"""Files that cannot be read: both scan methods name them in an error, or skip and log them."""

import gzip
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.table.scan import open_scan
from tests.table.reading import METHODS, Method, all_columns, read_rows, to_texts, write


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is certainly not a Parquet file")


def damage_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(400) + content[404:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def shop(folder: Path) -> list[tuple[Any, ...]]:
    for i in range(4):
        name = f"part {i}.parquet"
        write(folder / name, n=list(range(i * 1000, i * 1000 + 1000)), s=[f"s{n}" for n in range(1000)])
    return [(n, f"s{n % 1000}") for n in range(4000)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize("damage", [truncate, overwrite, damage_page, empty])
def test_a_corrupt_file_is_named_or_skipped(
    spark: SparkSession,
    tmp_path: Path,
    damage: Callable[[Path], None],
    broken: int,
    method: Method,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = tmp_path / "raw data"
    rows = shop(raw)
    path = raw / f"part {broken}.parquet"
    damage(path)
    with pytest.raises(DataError, match=rf"a file that cannot be read: .*part(?: |%20){broken}\.parquet") as error:
        read_rows(open_scan(spark, Source(path=str(raw), scan=method), all_columns))
    assert "\n" not in str(error.value)
    caplog.set_level(logging.WARNING, "nfm")
    scan = open_scan(spark, Source(path=str(raw), scan=method, on_corrupt="skip"), all_columns)
    assert scan.skipped == (str(path),)
    assert f"{path} is left out of {raw}" in caplog.text
    kept = [row for row in rows if row[0] // 1000 != broken]
    assert read_rows(scan) == to_texts(kept)
    assert scan.table.count() == len(kept)


@pytest.mark.parametrize("method", METHODS)
def test_a_corrupt_file_in_a_partition_folder(spark: SparkSession, tmp_path: Path, method: Method) -> None:
    for c, x in (("DE", 1), ("FR", 2), ("a%3Ab", 3)):
        write(tmp_path / f"raw/c={c}/x.parquet", x=[x])
    truncate(tmp_path / "raw/c=DE/x.parquet")
    source = Source(path=str(tmp_path / "raw"), scan=method, on_corrupt="skip", where="c <> 'FR'")
    scan = open_scan(spark, source, all_columns)
    assert scan.skipped == (str(tmp_path / "raw/c=DE/x.parquet"),)
    assert read_rows(scan) == to_texts([(3, "a:b")])


@pytest.mark.parametrize("method", METHODS)
def test_an_unneeded_column_may_be_corrupt(spark: SparkSession, tmp_path: Path, method: Method) -> None:
    shop(tmp_path / "raw")
    damage_page(tmp_path / "raw/part 1.parquet")  # in its first column
    source = Source(path=str(tmp_path / "raw"), scan=method, on_corrupt="skip")
    scan = open_scan(spark, source, lambda _: ["s"])
    assert (scan.skipped, len(read_rows(scan, "s"))) == ((), 4000)


@pytest.mark.parametrize("method", METHODS)
def test_a_table_of_corrupt_files_only_is_an_error(spark: SparkSession, tmp_path: Path, method: Method) -> None:
    for damage in (overwrite, damage_page):
        shutil.rmtree(tmp_path / "raw", ignore_errors=True)
        shop(tmp_path / "raw")
        for path in (tmp_path / "raw").iterdir():
            damage(path)
        with pytest.raises(DataError, match=r"None of the 4 files of .*raw can be read, for example .*part 0\.parquet"):
            open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method, on_corrupt="skip"), all_columns)


@pytest.mark.parametrize("inferred", [False, True])
@pytest.mark.parametrize("broken", ["a", "b"])
def test_a_corrupt_gzip_file_of_csv(spark: SparkSession, tmp_path: Path, broken: str, inferred: bool) -> None:
    rows = [f"{i},{i * i}" for i in range(5000)]
    for name in "abc":
        content = gzip.compress("\n".join(["n,square", *rows]).encode())
        (tmp_path / f"{name}.csv.gz").write_bytes(content[: len(content) // 2] if name == broken else content)
    options = {"header": True, "inferSchema": inferred}
    source = Source(format="csv", path=str(tmp_path), options=options)
    with pytest.raises(DataError, match=rf"a file that cannot be read: /.*{broken}\.csv\.gz \(Truncated"):
        read_rows(open_scan(spark, source, all_columns))
    scan = open_scan(spark, source.model_copy(update={"on_corrupt": "skip"}), all_columns)
    assert (scan.method, scan.reason) == ("spark", "its format is csv")
    assert scan.skipped == (str(tmp_path / f"{broken}.csv.gz"),)
    kind = int if inferred else str
    assert read_rows(scan, "n") == to_texts([(kind(i),) for i in range(5000)] * 2)


def test_a_page_checksum_detects_a_flipped_bit(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": pa.array(range(1000), pa.int64())})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index((500).to_bytes(8, "little"))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a file that cannot be read: .*a\.parquet \(.*CRC"):
        read_rows(open_scan(spark, Source(path=str(path)), all_columns))
