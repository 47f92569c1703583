"""Assign rows to folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.columns import Rows
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash_rows
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.schema import FOLDS
from nfm.contract.values import canonical_text, decode_dictionary, dictionary_indices, encode_dictionary, kind_of

LEFT_OUT = -1  # fold of a negative that split.negative_rate leaves out of the train fold
_NEGATIVES_SEED = 0x9E6A  # makes the choice of negatives independent of the choice of folds


@dataclass(frozen=True)
class Split:
    """The `split` settings in the form that workers need: by time, by a column of folds, or by hash."""

    by: tuple[str, ...]
    valid: float
    test: float
    seed: int
    time: str | None
    valid_from: str | int | None
    test_from: str | int | None
    column: str | None
    negative_rate: float
    key: tuple[str, ...]  # columns whose hash decides which negatives are kept

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that the split needs, each once."""
        deciding = (self.time,) if self.time else (self.column,) if self.column else self.by
        return tuple(dict.fromkeys([*deciding, *(self.key if self.negative_rate < 1 else ())]))

    def __str__(self) -> str:
        """Return the description for plans and reports."""
        if self.time:
            bounds = [
                f"{n} from {b}" for n, b in (("valid", self.valid_from), ("test", self.test_from)) if b is not None
            ]
            text = f"by {self.time}: {', '.join(bounds)}"
        elif self.column:
            text = f"by column {self.column}"
        else:
            shares = f"train {1 - self.valid - self.test:.0%}, valid {self.valid:.0%}, test {self.test:.0%}"
            text = f"{shares}, by hash of {', '.join(self.by)}"
        kept = f"; keeps {self.negative_rate:g} of the train fold's negatives"
        return text + (kept if self.negative_rate < 1 else "")


def assign_folds(split: Split, rows: Rows, negative: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return the (N,) folds of N rows as indices in FOLDS: 0 train, 1 valid, 2 test.

    A `negative` (label 0) of the train fold that is not kept has LEFT_OUT. Raises DataError if a row has no fold: its
    time is missing, or its split column does not name a fold.
    """
    if split.time is not None:
        folds = _assign_by_time(split, split.time, rows.column(split.time))
    elif split.column is not None:
        folds = _assign_by_column(split.column, rows.column(split.column))
    else:
        folds = assign_by_hash([rows.column(name) for name in split.by], split.valid, split.test, split.seed)
    if split.negative_rate < 1:
        position = _hash_position([rows.column(name) for name in split.key], split.seed ^ _NEGATIVES_SEED)
        folds[(folds == 0) & negative & (position >= split.negative_rate)] = LEFT_OUT
    return folds


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
    return hash_rows([_to_text(column) for column in columns], seed).astype(np.float64) / 2.0**64


def _to_text(values: pa.Array) -> pa.Array:
    kind = kind_of(values.type)
    if (
        pa.types.is_binary(values.type)
        or pa.types.is_large_binary(values.type)
        or pa.types.is_fixed_size_binary(values.type)
    ):
        return values.cast(pa.large_binary()).cast(pa.large_string(), safe=False)  # not valid UTF-8
    if kind is None:  # for example a timestamp: not a category, but it can be a key
        return pc.cast(values, pa.large_string())
    if not pa.types.is_dictionary(values.type):
        if pa.types.is_integer(values.type):
            return pc.cast(values, pa.large_string())
        values = encode_dictionary(values)
    return canonical_text(values.dictionary, kind, "key").take(values.indices)


def _assign_by_time(split: Split, column: str, values: pa.Array) -> NDArray[np.int8]:
    plain = decode_dictionary(values)
    if plain.null_count:
        raise DataError(
            f"Column '{column}' decides the fold (split.time), but has nulls ({plain.null_count} of the {len(plain)} "
            f"rows in one batch), so these rows have no fold. {CORRECT_ROWS}"
        )
    folds = np.zeros(len(plain), np.int8)
    for fold, bound in ((1, split.valid_from), (2, split.test_from)):
        if bound is not None:
            later = pc.greater_equal(plain, parse_bound(bound, plain.type, column))
            folds[later.to_numpy(zero_copy_only=False)] = fold
    return folds


def parse_bound(bound: str | int, type_: pa.DataType, column: str) -> Any:
    """Return valid_from or test_from as a scalar of the column's type; DataError if they cannot be compared."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    comparable = (
        pa.types.is_integer(type_)
        if isinstance(bound, int)
        else pa.types.is_date(type_) or pa.types.is_timestamp(type_) or kind_of(type_) == "text"
    )
    try:
        if comparable and pa.types.is_timestamp(type_):
            return pa.scalar(bound).cast(pa.timestamp(type_.unit)).cast(type_)  # times are in UTC
        if comparable:
            return pa.scalar(bound).cast(type_)
    except pa.ArrowInvalid:
        pass
    raise DataError(
        f"Column '{column}' decides the fold (split.time) and is {type_}, to which {bound!r} cannot be compared. Set "
        "split.valid_from and split.test_from to dates for a date or a timestamp, to strings for a string, and to "
        "integers for an integer."
    )


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
