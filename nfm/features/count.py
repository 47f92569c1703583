"""One pass over the raw table counts everything that the encoding is made of.

Categories are counted by their canonical text. Numbers are counted after rounding to 12 significant bits: such a table
of counts merges in any order to the same result, and every statistic of a number (quantiles, mean, spread, histogram)
follows from it with a relative error of at most 2⁻¹² a value. It is the idea of DDSketch (Masson, Rim & Lee 2019).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nfm.contract.schema import Kind
from nfm.contract.values import canonical_text, dictionary_indices, numbers
from nfm.features.split import fold_of
from nfm.spark import map_rows

SIGNIFICANT_BITS = 12

# part: what is counted; text or number: its value (both null where it is missing).
COUNTS = pa.schema(
    [
        ("part", pa.string()),
        ("fold", pa.int8()),
        ("text", pa.large_string()),
        ("number", pa.float64()),
        ("count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """One thing to count: a column as categories (of a kind) or as numbers (kind None)."""

    name: str
    column: str
    kind: Kind | None


@dataclass(frozen=True)
class HashSplit:
    """The settings of a split by hash."""

    by: tuple[str, ...]
    valid: float
    test: float
    seed: int

    def folds(self, batch: pa.RecordBatch) -> NDArray[np.int8]:
        """(N,) the fold of each row."""
        return fold_of([batch.column(name) for name in self.by], self.valid, self.test, self.seed)


def count(table: DataFrame, parts: Sequence[Part], split: HashSplit) -> pa.Table:
    """Count each part's values in each fold.

    Returns:
        A table like COUNTS: each (part, fold, value) once, in no order.
    """
    needed = dict.fromkeys([part.column for part in parts] + list(split.by))
    # The closure takes these two small values and nothing else.
    the_parts, the_split = tuple(parts), split

    def counted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return count_batches(batches, the_parts, the_split)

    partial = map_rows(table, needed, counted, "part string, fold byte, text string, number double, count long")
    total = partial.groupBy("part", "fold", "text", "number").agg(F.sum("count").alias("count"))
    return total.toArrow().cast(COUNTS)


def count_batches(
    batches: Iterable[pa.RecordBatch], parts: Sequence[Part], split: HashSplit
) -> Iterator[pa.RecordBatch]:
    """Partial counts of each batch, like COUNTS; needs no Spark."""
    for batch in batches:
        folds = split.folds(batch)
        for part in parts:
            values = batch.column(part.column)
            if part.kind is None:
                yield from _count_numbers(part.name, numbers(values, part.column), folds)
            else:
                yield _count_texts(part, values, folds)


def _count_texts(part: Part, values: pa.Array, folds: NDArray[np.int8]) -> pa.RecordBatch:
    assert part.kind is not None
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    size = len(encoded.dictionary)
    # One number for a pair of fold and value: the pairs are counted, not the texts.
    pairs, counts = np.unique(folds * np.int64(size + 1) + dictionary_indices(encoded), return_counts=True)
    texts = pa.concat_arrays(
        [canonical_text(encoded.dictionary, part.kind, part.column), pa.nulls(1, pa.large_string())]
    )
    return _rows(part.name, pairs // (size + 1), counts, texts=texts.take(pa.array(pairs % (size + 1))))


def _count_numbers(name: str, x: NDArray[np.float64], folds: NDArray[np.int8]) -> Iterator[pa.RecordBatch]:
    rounded = round_significantly(x)
    for fold in np.unique(folds):
        values, counts = np.unique(rounded[folds == fold], return_counts=True)
        present = pa.array(values, mask=np.isnan(values))
        yield _rows(name, np.full(len(values), fold), counts, values=present)


def _rows(
    name: str, folds: NDArray[Any], counts: NDArray[Any], texts: Any = None, values: Any = None
) -> pa.RecordBatch:
    n = len(counts)
    arrays = [
        pa.array([name] * n, pa.string()),
        pa.array(folds.astype(np.int8)),
        pa.nulls(n, pa.large_string()) if texts is None else texts,
        pa.nulls(n, pa.float64()) if values is None else values,
        pa.array(counts.astype(np.int64)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=COUNTS)


def round_significantly(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to SIGNIFICANT_BITS; NaN stays, and -0.0 becomes 0.0."""
    mantissa, exponent = np.frexp(x)
    scale = 2.0**SIGNIFICANT_BITS
    limit = np.finfo(np.float64).max  # rounding up the largest floats must not make them infinite
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.round(mantissa * scale) / scale, exponent)
    return np.clip(rounded, -limit, limit) + 0.0
