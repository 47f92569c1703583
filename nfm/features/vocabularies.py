"""Counts → vocabularies: sorted runs are merged, and written and indexed, by one streaming task each.

The driver sees sizes, digests and the ten most frequent values; never a vocabulary.
"""

import heapq
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nfm.contract import vocabulary
from nfm.contract.encoder import Encoding, load_once
from nfm.features import runs
from nfm.table.tasks import run_tasks

_PART_ROWS = 1 << 18
_TOP = 10
_TOLD = pa.schema(
    [(name, pa.int64()) for name in ("number", "size", "present", "known")]
    + [(name, pa.string()) for name in ("digest", "top")]
)


@dataclass(frozen=True)
class Recipe:
    """Which counts make a vocabulary, and which of their values enter it."""

    field: str  # its name
    parts: tuple[int, ...]  # of the counts; several where fields share it
    first_id: int
    min_count: int
    max_size: int | None


@dataclass(frozen=True)
class Made:
    """A vocabulary that was written, as the driver knows it."""

    size: int
    digest: str
    top: tuple[tuple[str, int], ...]  # the most frequent values, with their counts in the train fold


@dataclass(frozen=True)
class Growth:
    """How an older vocabulary covers the new table's values."""

    before: int  # values
    coverage_before: float | None  # share of the train fold's present values


def make(
    spark: SparkSession,
    counted: Path,
    recipes: Sequence[Recipe],
    folder: Path,
    old: tuple[Path, Encoding] | None = None,
) -> tuple[dict[str, Made], dict[str, Growth]]:
    """Write each recipe's vocabulary and index below `folder`, the new `encoding/`, from sorted runs (`counted`).

    The values of an `old` encoding keep their ids; new ones follow. Returns, by the vocabularies' names, what was
    made, and how it grew.
    """
    if not recipes:
        return {}, {}
    the_recipes = tuple(recipes)
    grown_from = old and (old[0], old[1].spec.fingerprint)
    shares = _shares(runs.sizes(counted), len(recipes), spark.sparkContext.defaultParallelism)

    def write(share: Sequence[int]) -> Iterator[pa.RecordBatch]:
        for number in share:
            yield _write(number, the_recipes[number], folder, counted, grown_from)

    told = {row.number: row for row in run_tasks(spark, shares, write, _TOLD).collect()}
    for place in ("index", "vocabulary.parquet"):
        for path in (folder / place).glob(".*"):  # of tasks that died, or ran twice
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    made, growth = {}, {}
    for number, recipe in enumerate(recipes):
        row = told[number]
        made[recipe.field] = Made(row.size, row.digest, tuple((v, n) for v, n in json.loads(row.top)))
        if old is not None:
            covered = row.known / row.present if row.present else None
            growth[recipe.field] = Growth(old[1].spec.vocabularies[recipe.field], covered)
    return made, growth


def _shares(sizes: Mapping[int, int], count: int, cores: int) -> list[list[int]]:
    """Spread vocabularies over one task a core: the largest first, each to the task with the fewest values."""
    shares: list[tuple[int, list[int]]] = [(0, []) for _ in range(min(cores, count))]
    for number in sorted(range(count), key=lambda number: -sizes.get(number, 0)):
        values, numbers = heapq.heappop(shares)
        heapq.heappush(shares, (values + sizes.get(number, 0), [*numbers, number]))
    return [numbers for _, numbers in shares]


def _write(number: int, recipe: Recipe, folder: Path, counted: Path, old: tuple[Path, str] | None) -> pa.RecordBatch:
    """On a worker: stream one vocabulary from the older one and the sorted runs."""
    before, known = 0, None
    if old is not None:
        encoding = load_once(*old)
        known = encoding.vocabulary.fields[recipe.field]
        before = encoding.spec.vocabularies[recipe.field]
    new = present = covered = 0
    for run in runs.batches(counted, number):
        for batch in run:
            counts, is_new = batch.column("count").to_numpy(), _is_new(batch, known)
            new += int(np.count_nonzero(is_new & (counts >= recipe.min_count)))
            present, covered = present + int(counts.sum()), covered + int(counts[~is_new].sum())
    if recipe.max_size is not None:
        new = min(new, max(0, recipe.max_size - before))
    top: list[tuple[str, int]] = []

    def parts() -> Iterator[pa.Table]:
        if old is not None:
            table = vocabulary.parquet_path(old[0], list(load_once(*old).spec.vocabularies).index(recipe.field))
            for batch in pq.ParquetFile(table).iter_batches(_PART_ROWS, columns=["value", "count"], use_threads=False):
                yield pa.Table.from_batches([batch])
        left = new
        for rows in runs.merged(runs.batches(counted, number)):
            if left == 0:
                return
            # Counts fall from here on: those below the minimum come after all others.
            part = rows.filter(pa.array(_is_new(rows, known))).slice(0, left)
            left -= len(part)
            yield part.rename_columns(["value", "count"])

    def seen() -> Iterator[pa.Table]:
        for part in parts():
            if len(top) < _TOP:
                top.extend(zip(*(c.to_pylist() for c in part.slice(0, _TOP - len(top)).columns), strict=True))
            yield part

    digest = vocabulary.write_vocabulary(folder, number, recipe.field, recipe.first_id, before + new, seen())
    row = {"number": number, "size": before + new, "digest": digest, "top": json.dumps(top)}
    return pa.RecordBatch.from_pylist([row | {"present": present, "known": covered}], _TOLD)


def _is_new(rows: pa.RecordBatch | pa.Table, known: vocabulary.FieldIndex | None) -> NDArray[np.bool_]:
    """(N,) which values the older vocabulary lacks."""
    if known is None:
        return np.ones(len(rows), bool)
    texts = rows.column("text")
    texts = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
    return known.lookup(texts) < 0
