"""Counts → vocabularies: ranked by a distributed sort, written and indexed by one streaming task each.

The driver sees sizes, digests and the ten most frequent values; never a vocabulary.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nfm.contract import vocabulary
from nfm.contract.encoder import Encoding, load_once
from nfm.spark import write_scratch

_PART_ROWS = 1 << 18
_TOP = 10


@dataclass(frozen=True)
class Recipe:
    """Which counts make a vocabulary, and what of them enters."""

    field: str  # its name
    parts: tuple[int, ...]  # of the counts; several where fields share it
    first_id: int
    min_count: int
    max_size: int | None


@dataclass(frozen=True)
class Made:
    """What the driver knows of a vocabulary that was written."""

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
    counts: DataFrame,
    recipes: Sequence[Recipe],
    folder: Path,
    scratch: Path,
    old: tuple[Path, Encoding] | None = None,
) -> tuple[dict[str, Made], dict[str, Growth]]:
    """Write each recipe's vocabulary and index below `folder`, the encoding's.

    Args:
        spark: the session.
        counts: as `features.count.count` returns them.
        recipes: in the order of their numbers.
        folder: the new `encoding/`.
        scratch: a folder to work in.
        old: the encoding that this one grows from: its values stay where they are, new ones follow.

    Returns:
        By the vocabularies' names: what was made, and how it grew.
    """
    if not recipes:
        return {}, {}
    values = _values(counts, recipes)
    growth = {}
    if old is not None:
        values = _marked(values, recipes, old[0], old[1].spec.fingerprint)
        growth = _growth(values, recipes, old[1])
        values = values.where("old = false")
    # A total order, sorted by ranges: no task sees more than its share, however frequent ties are.
    least = F.array(*(F.lit(recipe.min_count) for recipe in recipes))
    ranked = values.where(F.col("train") >= least[F.col("number")]).orderBy("number", F.desc("train"), "text")
    write_scratch(ranked.select("number", "text", "train").write.partitionBy("number"), scratch / "ranked")

    the_recipes = tuple(recipes)
    grown_from = old and (old[0], old[1].spec.fingerprint)

    # A task for each core, and not for each vocabulary: most are small. Neighbours go to different tasks, as columns of
    # one kind often stand together.
    tasks_count = min(len(recipes), spark.sparkContext.defaultParallelism)

    def written(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                for number in range(task, len(the_recipes), tasks_count):
                    yield _write(number, the_recipes[number], folder, scratch / "ranked", grown_from)

    tasks = spark.range(0, tasks_count, 1, tasks_count)
    result = tasks.mapInArrow(written, "number int, size long, digest string, top string").collect()
    made = {
        recipes[row.number].field: Made(row.size, row.digest, tuple((v, n) for v, n in json.loads(row.top)))
        for row in result
    }
    for place in ("index", "vocabulary.parquet"):
        for path in (folder / place).glob(".*"):  # of tasks that died, or ran twice
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {recipe.field: made[recipe.field] for recipe in recipes}, growth


def _values(counts: DataFrame, recipes: Sequence[Recipe]) -> DataFrame:
    """number, text, train: each value of each vocabulary once, those the train fold lacks included."""
    number_of = {part: number for number, recipe in enumerate(recipes) for part in recipe.parts}
    numbers = F.array(*(F.lit(number_of.get(part, -1)) for part in range(max(number_of) + 1)))
    rows = counts.where(F.col("text").isNotNull() & F.col("part").isin(list(number_of)))
    rows = rows.select(numbers[F.col("part")].alias("number"), "text", "train")
    if any(len(recipe.parts) > 1 for recipe in recipes):
        rows = rows.groupBy("number", "text").agg(F.sum("train").alias("train"))
    return rows


def _marked(values: DataFrame, recipes: Sequence[Recipe], old: Path, fingerprint: str) -> DataFrame:
    """The same rows with `old`: whether the older vocabulary has the value."""
    names = [recipe.field for recipe in recipes]

    def marked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fields = load_once(old, fingerprint).vocabulary.fields
        for batch in batches:
            number, text = batch.column("number").to_numpy(), pc.cast(batch.column("text"), pa.large_string())
            known = np.zeros(len(batch), bool)
            for i in np.unique(number):
                rows = np.flatnonzero(number == i)
                known[rows] = fields[names[i]].lookup(text.take(pa.array(rows))) >= 0
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(known)], [*batch.schema.names, "old"])

    return values.mapInArrow(marked, "number int, text string, train long, old boolean")


def _growth(values: DataFrame, recipes: Sequence[Recipe], old: Encoding) -> dict[str, Growth]:
    sums = values.groupBy("number").agg(
        F.sum("train").alias("present"), F.sum(F.when(F.col("old"), F.col("train")).otherwise(0)).alias("known")
    )
    shares = {row.number: row.known / row.present for row in sums.collect() if row.present}
    return {
        recipe.field: Growth(old.spec.vocabularies[recipe.field], shares.get(number))
        for number, recipe in enumerate(recipes)
    }


def _write(number: int, recipe: Recipe, folder: Path, ranked: Path, old: tuple[Path, str] | None) -> pa.RecordBatch:
    """On a worker: one vocabulary, streamed from the older one and the sorted files behind each other."""
    files = sorted((ranked / f"number={number}").glob("*.parquet"))  # Spark numbers them in the order of the sort
    names = ("text", "train")
    before = 0
    if old is not None:
        grown_from = vocabulary.file(old[0], list(load_once(*old).spec.vocabularies).index(recipe.field))
        before = pq.read_metadata(grown_from).num_rows
    new = sum(pq.read_metadata(path).num_rows for path in files)
    if recipe.max_size is not None:
        new = min(new, max(0, recipe.max_size - before))
    top: list[tuple[str, int]] = []

    def parts() -> Iterator[pa.Table]:
        left = before + new
        sources = [(path, names) for path in files]
        if old is not None:
            sources.insert(0, (grown_from, ("value", "count")))
        for path, columns in sources:
            for batch in pq.ParquetFile(path).iter_batches(_PART_ROWS, columns=list(columns), use_threads=False):
                part = pa.table(batch.columns, ["value", "count"]).slice(0, left)
                left -= len(part)
                if len(top) < _TOP:
                    top.extend(zip(*(c.to_pylist() for c in part.slice(0, _TOP - len(top)).columns), strict=True))
                yield part

    digest = vocabulary.write(folder, number, recipe.field, recipe.first_id, before + new, parts())
    row = {"number": number, "size": before + new, "digest": digest, "top": json.dumps(top)}
    return pa.RecordBatch.from_pylist(
        [row], pa.schema([("number", pa.int32()), ("size", pa.int64()), ("digest", pa.string()), ("top", pa.string())])
    )
