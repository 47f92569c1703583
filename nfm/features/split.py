"""Assign rows to folds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import to_numpy
from nfm.contract.columns import Rows, hash_keys
from nfm.contract.dataset import FOLD
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.schema import FOLDS, RATE_PARTS
from nfm.contract.times.compare import FoldTimes, check_integers, parse_bound, read_times
from nfm.contract.values import dictionary_indices, encode_dictionary

LEFT_OUT = -1  # fold of a negative that split.negative_rate leaves out of the train fold
_NEGATIVES_SEED = 0x9E6A  # makes the choice of negatives independent of the choice of folds
_PARTS_SEED = 0x4A7E  # the same for the parts of the train fold


@dataclass(frozen=True)
class Split:
    """The `split` settings in the form that workers need: by time, by a column of folds, or by hash."""

    by: tuple[str, ...]  # hashed to folds, unless another column decides; and to parts of the train fold
    valid: float
    test: float
    seed: int
    time: str | None
    valid_from: str | int | None
    test_from: str | int | None
    column: str | None
    negative_rate: float
    key: tuple[str, ...]  # columns whose hash decides which negatives are kept
    format: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that decide the folds, each once."""
        deciding = (self.time,) if self.time else (self.column,) if self.column else self.by
        return tuple(dict.fromkeys([*deciding, *(self.key if self.negative_rate < 1 else ())]))

    @property
    def bounds(self) -> tuple[str | int | None, str | int | None]:
        """First moments of the valid and the test fold."""
        return self.valid_from, self.test_from

    def __str__(self) -> str:
        """Return the description for plans and reports."""
        if self.time:
            bounds = [f"{n} from {b}" for n, b in zip(FOLDS[1:], self.bounds, strict=True) if b is not None]
            text = f"by {self.time}: {', '.join(bounds)}"
        elif self.column == FOLD:
            text = "the last interactions of each user (split.last)"
        elif self.column:
            text = f"by column {self.column}"
        else:
            shares = f"train {1 - self.valid - self.test:.0%}, valid {self.valid:.0%}, test {self.test:.0%}"
            text = f"{shares}, by hash of {', '.join(self.by)}"
        kept = f"; keeps {self.negative_rate:g} of the train fold's negatives"
        return text + (kept if self.negative_rate < 1 else "")


def assign_folds(
    split: Split, rows: Rows, negative: NDArray[np.bool_], seen: FoldTimes | None = None
) -> NDArray[np.int8]:
    """Return the (N,) folds of N rows as indices in FOLDS: 0 train, 1 valid, 2 test.

    A `negative` (label 0) of the train fold that is not kept has LEFT_OUT. `seen` receives the times of a split by
    time. Raises DataError if a row has no fold: its time is missing or wrong, or its split column does not name a fold.
    """
    if split.time is not None:
        folds = _assign_by_time(split, split.time, rows.column(split.time), seen)
    elif split.column is not None:
        folds = _assign_by_column(split.column, rows.column(split.column))
    else:
        folds = assign_by_hash([rows.column(name) for name in split.by], split.valid, split.test, split.seed)
    if split.negative_rate < 1:
        position = _hash_position([rows.column(name) for name in split.key], split.seed ^ _NEGATIVES_SEED)
        folds[(folds == 0) & negative & (position >= split.negative_rate)] = LEFT_OUT
    return folds


def assign_parts(split: Split, rows: Rows) -> NDArray[np.int8]:
    """Return the (N,) parts of N rows for target rates, numbers from 0 to RATE_PARTS - 1, from a hash of `split.by`.

    Rows that belong together are in the same part, so that they do not see each other's labels. A part says nothing
    about the fold.
    """
    position = _hash_position([rows.column(name) for name in split.by], split.seed ^ _PARTS_SEED)
    return np.minimum(position * RATE_PARTS, RATE_PARTS - 1).astype(np.int8)


def assign_by_hash(columns: Iterable[pa.Array], valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """Return the (N,) folds of N rows as indices in FOLDS, from a hash of the rows' key columns.

    A row's fold depends on its own key only: reordering, repartitioning or adding rows moves no row to another fold.
    Equal values of different types have equal hashes (`canonical_text`). The test fold is assigned first, so that
    another validation share does not change it.
    """
    position = _hash_position(columns, seed)
    return np.select([position < test, position < test + valid], [np.int8(2), np.int8(1)], np.int8(0))


def _hash_position(columns: Iterable[pa.Array], seed: int) -> NDArray[np.float64]:
    """Return the (N,) hashes of N rows, scaled to 0 … 1."""
    return hash_keys(columns, seed).astype(np.float64) / 2.0**64


def _assign_by_time(split: Split, column: str, values: pa.Array, seen: FoldTimes | None) -> NDArray[np.int8]:
    times = read_times(values, column, split.format)
    check_integers(times, split.bounds, column)
    folds = np.zeros(len(times), np.int8)
    for fold, bound in enumerate(split.bounds, start=1):
        if bound is not None:
            later = pc.greater_equal(times, parse_bound(bound, times.type, column, values.type))
            folds[to_numpy(later)] = fold
    if seen is not None:
        seen.add(folds, times)
    return folds


def _assign_by_column(column: str, values: pa.Array) -> NDArray[np.int8]:
    encoded = encode_dictionary(values)
    texts = encoded.dictionary.to_pylist()
    indices = np.array([FOLDS.index(text) if text in FOLDS else LEFT_OUT for text in texts] + [LEFT_OUT], np.int8)
    folds = indices[dictionary_indices(encoded)]
    wrong = np.flatnonzero(folds == LEFT_OUT)
    if len(wrong):
        example = quoted(encoded[int(wrong[0])].as_py())
        raise DataError(
            f"Column '{column}' decides the fold (split.column) and must be one of {', '.join(FOLDS)}, but "
            f"{len(wrong)} of the {len(folds)} rows in one batch have another value, for example {example}. "
            f"{CORRECT_ROWS}"
        )
    return folds
