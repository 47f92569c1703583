"""Which fold a row belongs to."""

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

LEFT_OUT = -1  # a negative that the train fold does without
_NEGATIVES_SEED = 0x9E6A  # keeps which negatives stay independent of the folds


@dataclass(frozen=True)
class Split:
    """How rows are split, as workers need it: by time, by a column of folds, or by hash."""

    by: tuple[str, ...]
    valid: float
    test: float
    seed: int
    time: str | None
    valid_from: str | int | None
    test_from: str | int | None
    column: str | None
    negative_rate: float
    key: tuple[str, ...]  # tells which negatives are kept

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns it reads, each once."""
        which = (self.time,) if self.time else (self.column,) if self.column else self.by
        return tuple(dict.fromkeys([*which, *(self.key if self.negative_rate < 1 else ())]))

    def __str__(self) -> str:
        """Its description in plans and reports."""
        if self.time:
            bounds = [
                f"{n} from {b}" for n, b in (("valid", self.valid_from), ("test", self.test_from)) if b is not None
            ]
            text = f"by {self.time}: {', '.join(bounds)}"
        elif self.column:
            text = f"as {self.column} says"
        else:
            shares = f"train {1 - self.valid - self.test:.0%}, valid {self.valid:.0%}, test {self.test:.0%}"
            text = f"{shares}, by hash of {', '.join(self.by)}"
        return text + (f"; {self.negative_rate:g} of train's negatives kept" if self.negative_rate < 1 else "")


def folds(split: Split, rows: Rows, negative: NDArray[np.bool_]) -> NDArray[np.int8]:
    """(N,) positions in FOLDS (0 train, 1 valid, 2 test), LEFT_OUT for a `negative` (label 0) that is not kept.

    Raises DataError if a row belongs to no fold: its time is missing, or its column names none.
    """
    if split.time is not None:
        found = _by_time(split, split.time, rows.column(split.time))
    elif split.column is not None:
        found = _as_told(split.column, rows.column(split.column))
    else:
        found = fold_of([rows.column(name) for name in split.by], split.valid, split.test, split.seed)
    if split.negative_rate < 1:
        position = _position([rows.column(name) for name in split.key], split.seed ^ _NEGATIVES_SEED)
        found[(found == 0) & negative & (position >= split.negative_rate)] = LEFT_OUT
    return found


def fold_of(columns: Iterable[pa.Array], valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """(N,) positions in FOLDS, by a hash of N rows' key columns.

    A row's fold depends on the row alone: reordering, repartitioning and new rows move none. A value reads the same
    whatever its type (`canonical_text`). The test fold is cut off first, so that another share for validation leaves
    it as it is.
    """
    position = _position(columns, seed)
    return np.select([position < test, position < test + valid], [np.int8(2), np.int8(1)], np.int8(0))


def _position(columns: Iterable[pa.Array], seed: int) -> NDArray[np.float64]:
    """(N,) in 0 … 1, by hash."""
    return hash_rows([_text(column) for column in columns], seed).astype(np.float64) / 2.0**64


def _text(values: pa.Array) -> pa.Array:
    kind = kind_of(values.type)
    if (
        pa.types.is_binary(values.type)
        or pa.types.is_large_binary(values.type)
        or pa.types.is_fixed_size_binary(values.type)
    ):
        return values.cast(pa.large_binary()).cast(pa.large_string(), safe=False)  # its bytes, which are no text
    if kind is None:  # a timestamp, say: no category, but a key as good as any
        return pc.cast(values, pa.large_string())
    if not pa.types.is_dictionary(values.type):
        if pa.types.is_integer(values.type):
            return pc.cast(values, pa.large_string())
        values = encode_dictionary(values)
    return canonical_text(values.dictionary, kind, "key").take(values.indices)


def _by_time(split: Split, column: str, values: pa.Array) -> NDArray[np.int8]:
    plain = decode_dictionary(values)
    if plain.null_count:
        raise DataError(
            f"Column '{column}' decides the fold (split.time), but is null in {plain.null_count} of {len(plain)} rows "
            f"that were read together, which then belong to none. {CORRECT_ROWS}"
        )
    found = np.zeros(len(plain), np.int8)
    for fold, bound in ((1, split.valid_from), (2, split.test_from)):
        if bound is not None:
            later = pc.greater_equal(plain, moment(bound, plain.type, column))
            found[later.to_numpy(zero_copy_only=False)] = fold
    return found


def moment(bound: str | int, type_: pa.DataType, column: str) -> Any:
    """valid_from or test_from as a scalar of the column's type; raises DataError if they cannot be compared."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    comparable = (
        pa.types.is_integer(type_)
        if isinstance(bound, int)
        else pa.types.is_date(type_) or pa.types.is_timestamp(type_) or kind_of(type_) == "text"
    )
    try:
        if comparable and pa.types.is_timestamp(type_):
            return pa.scalar(bound).cast(pa.timestamp(type_.unit)).cast(type_)  # a wall clock in UTC
        if comparable:
            return pa.scalar(bound).cast(type_)
    except pa.ArrowInvalid:
        pass
    raise DataError(
        f"Column '{column}' decides the fold (split.time) and is {type_}, to which {bound!r} cannot be compared. A "
        "date or a timestamp takes a date, a text takes a text, a whole number takes a whole number."
    )


def _as_told(column: str, values: pa.Array) -> NDArray[np.int8]:
    encoded = encode_dictionary(values)
    texts = encoded.dictionary.to_pylist()
    places = np.array([FOLDS.index(text) if text in FOLDS else LEFT_OUT for text in texts] + [LEFT_OUT], np.int8)
    found = places[dictionary_indices(encoded)]
    wrong = np.flatnonzero(found == LEFT_OUT)
    if len(wrong):
        example = quoted(encoded[int(wrong[0])].as_py())
        raise DataError(
            f"Column '{column}' decides the fold (split.column) and must hold {', '.join(FOLDS)}, but {len(wrong)} of "
            f"{len(found)} rows that were read together hold something else, {example} for one. {CORRECT_ROWS}"
        )
    return found
