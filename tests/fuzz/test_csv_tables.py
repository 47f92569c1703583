"""Random CSV files: Spark's scan gives each value as Python's module `csv` reads it."""

import csv
import os
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.table.scan import open_scan
from tests.fuzz.values import WORDS
from tests.table.reading import all_columns, read_rows

pytestmark = pytest.mark.e2e

NAMES = ("id", "a", "two words", "größe", "a.b", 'quo"te', "a,b", "line\nbreak", "tick`", "_c0", "1", " pad ")
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "iso-8859-1", "utf-16")


def draw(seed: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """Write the files of a seed; return what was drawn, and the options of the source."""
    random = Random(seed)
    encoding, sep, line = random.choice(ENCODINGS), random.choice(",,,;\t|"), random.choice(("\n", "\n", "\r\n"))
    quote_all = random.random() < 0.5
    names = ["id", *random.sample(NAMES[1:], random.randint(1, 4))]
    texts = [word for word in WORDS if len(word) < 100]
    texts = [text for text in texts if "\0" not in text]  # refused
    texts += ['say "hi"', 'a "quoted", comma', '""', '"', "two\nlines", "a\\", '\\"', sep, f"{sep}{sep}", " x ", "#c"]
    if encoding == "iso-8859-1":
        texts = [text for text in texts if text.encode("iso-8859-1", "replace").decode("iso-8859-1") == text]
        names = [name for name in names if name.encode("iso-8859-1", "replace").decode("iso-8859-1") == name]
    if quote_all:
        texts = [text for text in texts if text]  # a quoted empty text is a value, which Python does not distinguish
    folder.mkdir(parents=True)
    for i in range(random.choice((1, 2, 3))):
        header = [*names] if random.random() < 0.5 else random.sample(names, len(names))
        rows = [
            {name: random.choice(texts) for name in names} | {"id": f"{i}.{j}"} for j in range(random.randint(0, 9))
        ]
        with (folder / f"{i}.csv").open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(
                file,
                header,
                delimiter=sep,
                quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL,
                lineterminator=line,
            )
            writer.writeheader()
            writer.writerows(rows)
    options: dict[str, Any] = {"inferSchema": False} | ({"sep": sep} if sep != "," else {})
    if encoding in ("iso-8859-1", "utf-16"):
        options["encoding"] = encoding
    return f"seed {seed}: {encoding}, {sep!r}, all quoted: {quote_all}, line {line!r}, columns {names}", options


def expected(folder: Path, options: dict[str, Any], names: list[str]) -> Counter[str]:
    rows: Counter[str] = Counter()
    for path in folder.glob("*.csv"):
        with path.open(encoding=options.get("encoding", "utf-8-sig"), newline="") as file:
            for row in csv.DictReader(file, delimiter=options.get("sep", ",")):
                rows[repr(tuple(row[name] or None for name in names))] += 1
    return rows


def failures(spark: SparkSession, folder: Path, seeds: list[int]) -> list[str]:
    found = []
    for seed in seeds:
        recipe, options = draw(seed, folder / str(seed))
        try:
            scan = open_scan(spark, Source(format="csv", path=f"{folder}/{seed}", options=options), all_columns)
            read, written = Counter(read_rows(scan)), expected(folder / str(seed), options, scan.schema.names)
        except Exception as error:  # every error is a failure here
            found.append(f"{recipe}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if read != written:
            examples = f"read {list(read - written)[:2]}, written {list(written - read)[:2]}"
            found.append(f"{recipe}: {(read - written).total()} of {written.total()} rows differ: {examples}")
    return found


def test_csv_tables(spark: SparkSession, tmp_path: Path) -> None:
    seeds = os.environ.get("FUZZ", "0,1")
    found = failures(spark, tmp_path, list(range(100)) if seeds == "full" else [int(seed) for seed in seeds.split(",")])
    assert not found, f"{len(found)} tables:\n" + "\n".join(found)
