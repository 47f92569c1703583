"""Write vocabularies. Each task merges sorted runs and streams them into a Parquet file and an index.

The driver receives sizes, digests and the ten most frequent values, but never a whole vocabulary.
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
from nfm.contract.encoder import Encoding, load_once, read_more
from nfm.features import runs
from nfm.table.tasks import run_tasks

_BATCH_ROWS = 1 << 18
_TOP = 10
_REPORT = pa.schema(
    [(name, pa.int64()) for name in ("number", "size", "present", "known")]
    + [(name, pa.string()) for name in ("digest", "top")]
)


@dataclass(frozen=True)
class Recipe:
    """Source counts and limits of one vocabulary."""

    field: str  # name of the vocabulary: the field that owns it
    parts: tuple[int, ...]  # counted parts; several if fields share the vocabulary
    first_id: int
    min_count: int
    max_size: int | None


@dataclass(frozen=True)
class WrittenVocabulary:
    """Size, digest and top values of a written vocabulary."""

    size: int
    digest: str
    top: tuple[tuple[str, int], ...]  # most frequent values with their counts in the train fold


@dataclass(frozen=True)
class Coverage:
    """Size of an older vocabulary, and the share of a new table's values that it contains."""

    before: int  # number of values in the older vocabulary
    coverage_before: float | None  # share of the train fold's non-missing values


def make(
    spark: SparkSession,
    counted: Path,
    recipes: Sequence[Recipe],
    folder: Path,
    old: tuple[Path, Encoding] | None = None,
) -> tuple[dict[str, WrittenVocabulary], dict[str, Coverage]]:
    """Write the vocabulary and the index of each recipe into `folder`, the new `encoding/`.

    The values come from the sorted runs in the folder `counted`. Values of the `old` encoding (its folder and content)
    keep their ids; new values follow. Returns by name each new vocabulary, and the coverage of its older vocabulary.
    """
    if not recipes:
        return {}, {}
    # The closure takes only small values: each worker maps the old encoding from its folder.
    recipes = tuple(recipes)
    grown_from = old and (old[0], old[1].spec.fingerprint)
    shares = _assign_to_tasks(runs.count_values(counted), len(recipes), spark.sparkContext.defaultParallelism)

    def write(share: Sequence[int]) -> Iterator[pa.RecordBatch]:
        for number in share:
            yield _write(number, recipes[number], folder, counted, grown_from)

    reports = {row.number: row for row in run_tasks(spark, shares, write, _REPORT).collect()}
    for name in ("index", "vocabulary.parquet"):
        for path in (folder / name).glob(".*"):  # temporary files of tasks that failed or ran twice
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    written, coverages = {}, {}
    for number, recipe in enumerate(recipes):
        row = reports[number]
        written[recipe.field] = WrittenVocabulary(row.size, row.digest, tuple((v, n) for v, n in json.loads(row.top)))
        if old is not None:
            covered = row.known / row.present if row.present else None
            coverages[recipe.field] = Coverage(old[1].spec.vocabularies[recipe.field], covered)
    return written, coverages


def _assign_to_tasks(sizes: Mapping[int, int], count: int, cores: int) -> list[list[int]]:
    """Distribute vocabularies over one task per core: the largest first, each to the task with the fewest values."""
    shares: list[tuple[int, list[int]]] = [(0, []) for _ in range(min(cores, count))]
    for number in sorted(range(count), key=lambda number: -sizes.get(number, 0)):
        values, numbers = heapq.heappop(shares)
        heapq.heappush(shares, (values + sizes.get(number, 0), [*numbers, number]))
    return [numbers for _, numbers in shares]


def _write(number: int, recipe: Recipe, folder: Path, counted: Path, old: tuple[Path, str] | None) -> pa.RecordBatch:
    """Write one vocabulary from the older one and the sorted runs, on a worker; returns a row of _REPORT."""
    before, old_index = 0, None
    if old is not None:
        encoding = load_once(*old)
        old_index = encoding.vocabulary.fields[recipe.field]
        before = encoding.spec.vocabularies[recipe.field]
    new = present = covered = 0
    for run in runs.open_runs(counted, number):
        for batch in run:
            counts, is_new = batch.column("count").to_numpy(), _is_new(batch, old_index)
            new += int(np.count_nonzero(is_new & (counts >= recipe.min_count)))
            present, covered = present + int(counts.sum()), covered + int(counts[~is_new].sum())
    if recipe.max_size is not None:
        new = min(new, max(0, recipe.max_size - before))
    top: list[tuple[str, int]] = []

    def read_values() -> Iterator[pa.Table]:
        if old is not None:
            path = vocabulary.parquet_path(old[0], list(load_once(*old).spec.vocabularies).index(recipe.field))
            table = read_more(*old, lambda: pq.ParquetFile(path))
            for batch in table.iter_batches(_BATCH_ROWS, columns=["value", "count"], use_threads=False):
                yield pa.Table.from_batches([batch])
        remaining = new
        for rows in runs.merge(runs.open_runs(counted, number)):
            if remaining == 0:
                return
            # Counts are in descending order: values below the minimum come after the `new` values.
            values = rows.filter(pa.array(_is_new(rows, old_index))).slice(0, remaining)
            remaining -= len(values)
            yield values.rename_columns(["value", "count"])

    def record_top(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for batch in batches:
            if len(top) < _TOP:
                top.extend(zip(*(c.to_pylist() for c in batch.slice(0, _TOP - len(top)).columns), strict=True))
            yield batch

    digest = vocabulary.write_vocabulary(
        folder, number, recipe.field, recipe.first_id, before + new, record_top(read_values())
    )
    row = {"number": number, "size": before + new, "digest": digest, "top": json.dumps(top)}
    return pa.RecordBatch.from_pylist([row | {"present": present, "known": covered}], _REPORT)


def _is_new(rows: pa.RecordBatch | pa.Table, old_index: vocabulary.FieldIndex | None) -> NDArray[np.bool_]:
    """Return an (N,) mask of values that the older vocabulary lacks."""
    if old_index is None:
        return np.ones(len(rows), bool)
    texts = rows.column("text")
    texts = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
    return old_index.lookup(texts) < 0
