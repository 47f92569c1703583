"""Write the benchmarks' table as Parquet: 26 text fields and 13 numbers, the same rows on every machine."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FIELDS = [f"C{i}" for i in range(1, 27)]
NUMBERS = [f"I{i}" for i in range(1, 14)]
LARGEST = 200_000  # cardinality
FILE_ROWS = 250_000


def cardinalities(largest: int) -> NDArray[np.int64]:
    """Return the cardinality of each field, from 4 to the largest."""
    return np.geomspace(4, largest, len(FIELDS)).round().astype(np.int64)


def values(field: int, size: int) -> pa.Array:
    """Return the values of a field, the most frequent first."""
    numbers = np.arange(size, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(field * 40503)
    return pa.array([f"{n:08x}" for n in numbers & np.uint64(2**32 - 1)])


def write(folder: Path, rows: int, largest: int = LARGEST) -> Path:
    """Write the table, unless it exists, and return its folder.

    Fields have cardinalities from 4 to the largest, values of 8 hexadecimal digits that follow Zipf's law with exponent
    1.3, and 3 % nulls; numbers are log-normal with 10 % nulls. The label depends on two fields and a number.
    """
    done = folder / "_done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    distributions = []
    for i, size in enumerate(cardinalities(largest)):
        p = np.arange(1, size + 1) ** -1.3
        distributions.append((np.cumsum(p / p.sum()), values(i, size)))
    for start in range(0, rows, FILE_ROWS):
        n = min(FILE_ROWS, rows - start)
        rng = np.random.default_rng([7, start])
        columns: dict[str, pa.Array] = {"id": pa.array(np.arange(start, start + n))}
        ranks = []
        for name, (cumulative, texts) in zip(FIELDS, distributions, strict=True):
            ranks.append(np.minimum(np.searchsorted(cumulative, rng.random(n)), len(texts) - 1))
            columns[name] = texts.take(pa.array(ranks[-1], mask=rng.random(n) < 0.03))
        x = [rng.lognormal(size=n) for _ in NUMBERS]
        for name, number in zip(NUMBERS, x, strict=True):
            columns[name] = pa.array(number, mask=rng.random(n) < 0.1)
        chance = 1 / (1 + np.exp(1.5 - (ranks[0] + ranks[3]) % 2 - np.log(x[0]) / 2))
        columns["label"] = pa.array((rng.random(n) < chance).astype(np.int32))
        pq.write_table(pa.table(columns), folder / f"part-{start // FILE_ROWS:05d}.parquet")
    done.touch()
    return folder


def write_wide_vocabulary(folder: Path, values: int) -> Path:
    """Write a table whose only field has this number of different values, each once, in files of a million rows."""
    done = folder / "_done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    step = 1_000_000
    for start in range(0, values, step):
        n = np.arange(start, min(start + step, values), dtype=np.uint64)
        texts = pa.array([f"user-{x:08x}" for x in (n * np.uint64(2654435761)) & np.uint64(2**32 - 1)])
        table = pa.table({"id": n.astype(np.int64), "user": texts, "label": (n % 7 == 0).astype(np.int32)})
        pq.write_table(table, folder / f"part-{start // step:05d}.parquet", row_group_size=250_000)
    done.touch()
    return folder


def write_all_values(folder: Path, largest: int) -> Path:
    """Write a table with each value of each field once, so that its encoding has all values."""
    done = folder / "_done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    texts = [values(i, size) for i, size in enumerate(cardinalities(largest))]
    for start in range(0, largest, FILE_ROWS):
        n = min(FILE_ROWS, largest - start)
        columns: dict[str, pa.Array] = {"id": pa.array(np.arange(start, start + n))}
        for name, all_values in zip(FIELDS, texts, strict=True):
            some = all_values.slice(start, n)
            columns[name] = pa.concat_arrays([some, pa.nulls(n - len(some), pa.string())])
        x = np.random.default_rng([8, start]).lognormal(size=(len(NUMBERS), n))
        columns |= {name: pa.array(number) for name, number in zip(NUMBERS, x, strict=True)}
        columns["label"] = pa.array((np.arange(n) % 7 == 0).astype(np.int32))
        pq.write_table(pa.table(columns), folder / f"part-{start // FILE_ROWS:05d}.parquet")
    done.touch()
    return folder
