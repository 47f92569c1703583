"""Encode a batch of raw columns as ids and numbers: the only code that turns a raw value into a number.

The feature job writes what `encode` returns into the dataset; the scoring job hands it to the forward pass. `inputs`
arranges the same columns, read back from the dataset or fresh from `encode`, as the arrays that the model takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import arrow, content, nulls, ranges
from nfm.contract.columns import Rows, Values, check_categorical, check_columns, field_values
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64
from nfm.contract.messages import quoted, was_replaced
from nfm.contract.scaling import CURVES
from nfm.contract.schema import MISSING, Field, Number, Spec, flag_name, weights_name
from nfm.contract.values import check_digits, check_number, check_same_values, numbers
from nfm.contract.vocabulary import Vocabulary

ENCODER_FILES = ("spec.json", "index/*/*.npy")  # of encoding/: what a worker needs to encode
_OOV_SEED = 0x00F
_MOST_UNSEEN = 1000  # of a batch, that are told by name
_FLOAT32_MAX = float(np.finfo(np.float32).max)
OF_THE_MODEL = (  # why it needs a column
    "The model was trained with what its encoding/spec.json names: deliver it under that name (a view can rename it), "
    "or train a model without it."
)


@dataclass(frozen=True)
class Encoding:
    """The specification and the vocabularies it belongs to."""

    spec: Spec
    vocabulary: Vocabulary

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `encoding/` and map the vocabularies; DataError if a file is missing, changed or of another version."""
        path = folder / "spec.json"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"There is no encoding in {folder}: {path.name} cannot be read ({error.strerror}). "
                "Run jobs/features.py first."
            ) from error
        spec = Spec.from_json(content, str(path))
        return cls(spec, Vocabulary.load(folder, spec.vocabularies))

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise DataError unless the table has every column, and each still reads as the values it had in training."""
        check_columns(self.spec.columns, schema, where, OF_THE_MODEL)
        for field in self.spec.fields:
            if field.edges is None:
                self._check_field(field, schema, where)
        for column in self.spec.numeric_columns:
            check_number(column, schema.field(column).type, where)

    def _check_field(self, field: Field, schema: pa.Schema, where: str) -> None:
        # What a cross or a hash was made from cannot be seen from its vocabulary.
        texts = None
        if field.vocabulary is not None and len(field.columns) == 1:
            texts = self.vocabulary.fields[field.vocabulary].texts
        arrived = check_categorical(field.columns, field.bag, schema, where)
        for column, trained in zip(field.columns, field.kinds, strict=True):
            check_same_values(column, trained, arrived[column], texts, where)
            if texts is not None and trained == "number":
                check_digits(column, schema.field(column).type, texts, where)

    def verify(self, where: str) -> None:
        """Read every vocabulary; raise DataError if one is not what the specification was written with."""
        for name, digest in zip(self.spec.vocabularies, self.spec.digests, strict=True):
            index = self.vocabulary.fields[name]
            if index.digest(name) != digest or not index.is_sound():
                raise DataError(
                    f"The vocabulary of '{name}' in {where} was changed after it was written: its content does not "
                    "have the digest in spec.json. Restore it, or run jobs/features.py again."
                )

    def encode(self, rows: Rows, same_table: bool = False, noticed: "Noticed | None" = None) -> dict[str, Any]:
        """Encode N raw rows.

        Each column is read once, in order. `same_table`: the vocabulary was made from these very rows, so that no value
        can be rounded. `noticed` collects what the encoded columns do not show any more.

        Returns the dataset's columns by name, as `Spec.outputs` lists them: (N,) int32 for each field, (N,) float32 for
        each number and each missing flag; for a bag N lists of int32 ids and N lists of float32 weights
        (`pa.ListArray`). Raises DataError if a numeric column has a text that is not a number, a bag's weights do not
        fit it, or an unseen whole number may have lost its last digits.
        """
        columns: dict[str, Any] = {}
        for field in self.spec.fields:
            if field.edges is None:
                columns.update(self._encode_field(field, rows, same_table, noticed))
            else:
                x = numbers(rows.column(field.columns[0]), field.columns[0])
                ids = field.first_value + np.searchsorted(np.asarray(field.edges), x, side="right")
                columns[field.name] = np.where(np.isnan(x), MISSING, ids).astype(np.int32)
        for number in self.spec.numbers:
            x = numbers(rows.column(number.column), number.column)
            if noticed is not None:
                noticed.missing[number.name] = int(np.count_nonzero(np.isnan(x)))
            columns.update(transform(number, x))
        return columns

    def _encode_field(self, field: Field, rows: Rows, same_table: bool, noticed: "Noticed | None") -> dict[str, Any]:
        values = field_values(field.columns, field.kinds, field.bag, rows)
        id_of_value = self._ids(field, values, same_table)
        if noticed is not None and not field.hashed:
            noticed.look_for_unseen(field, values, id_of_value)
        ids = id_of_value[values.indices]
        if values.offsets is None:
            return {field.name: ids}
        weights = np.ones(len(ids), np.float32) if values.weights is None else values.weights
        offsets = arrow(values.offsets)
        return {
            field.name: pa.ListArray.from_arrays(offsets, arrow(ids)),
            weights_name(field.name): pa.ListArray.from_arrays(offsets, arrow(weights)),
        }

    def _ids(self, field: Field, values: Values, same_table: bool) -> NDArray[np.int32]:
        """(D + 1,) the id of each value of the dictionary, then the id of a missing value."""
        present = np.flatnonzero(~nulls(values.texts))
        known = values.texts.take(arrow(present)) if values.texts.null_count else values.texts
        if field.vocabulary is None:
            found = _buckets(known, field)
        else:
            positions = self.vocabulary.fields[field.vocabulary].lookup(known)
            unseen = np.flatnonzero(positions < 0)
            if not same_table:
                _check_digits(field, values, present[unseen])
            found = positions + np.int32(field.first_value)
            found[unseen] = _buckets(known.take(arrow(unseen)), field)
        ids = np.full(len(values.texts) + 1, MISSING, np.int32)
        ids[present] = found
        return ids


@dataclass
class Noticed:
    """Facts about raw rows that their ids and numbers do not show."""

    missing: dict[str, int] = dataclass_field(default_factory=dict)  # by number: how many values
    # By field: out-of-vocabulary values with their counts, the most frequent ones; and whether these are all.
    unseen: dict[str, tuple[dict[str, int], bool]] = dataclass_field(default_factory=dict)

    def look_for_unseen(self, field: Field, values: Values, id_of_value: NDArray[np.int32]) -> None:
        """Count the values of a batch that are out of the field's vocabulary."""
        places = np.flatnonzero((id_of_value > MISSING) & (id_of_value < field.first_value))
        if not len(places):
            return
        counts = np.bincount(values.indices, minlength=len(id_of_value))[places]
        most = np.argsort(-counts, kind="stable")[:_MOST_UNSEEN]
        texts = values.texts.take(arrow(places[most])).to_pylist()
        occurring = {text: int(n) for text, n in zip(texts, counts[most], strict=True) if n}
        self.unseen[field.name] = occurring, len(most) == len(places)


@lru_cache(maxsize=2)
def load_once(folder: Path, fingerprint: str) -> Encoding:
    """`Encoding.load` on a worker: once, not once a task. Raises DataError if the fingerprint is another one."""
    encoding = Encoding.load(folder)
    if encoding.spec.fingerprint != fingerprint:
        raise DataError(was_replaced(folder, "encoding", encoding.spec.fingerprint, fingerprint))
    return encoding


def _buckets(texts: pa.Array, field: Field) -> NDArray[np.int32]:
    return (1 + hash64(texts, _OOV_SEED) % np.uint64(field.oov_buckets)).astype(np.int32)


def _check_digits(field: Field, values: Values, unseen: NDArray[np.int64]) -> None:
    # Whether training saw integers or floats is not recorded. A float this large that the vocabulary holds is taken:
    # it may have been made from floats. One that it does not hold is rather an integer's, rounded on its way here, than
    # a new value, and would be out-of-vocabulary in silence.
    lost = unseen[:0] if values.lossy is None else unseen[values.lossy[unseen]]
    if len(lost):
        text = quoted(values.texts[int(lost[0])].as_py())
        raise DataError(
            f"Column{'s' if len(field.columns) > 1 else ''} {', '.join(map(repr, field.columns))} of the field "
            f"'{field.name}' came as floats, and {text} is not in the vocabulary: from 2⁵³ on, a float does not hold "
            "every digit of an integer, so this may be another value. Deliver the column as integers or as text."
        )


def transform(number: Number, x: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """The number's columns from (N,) raw values; NaN is missing."""
    missing = np.isnan(x)
    if number.clip is not None:
        x = np.clip(x, *number.clip)
    x = np.where(missing, number.impute, x)
    x = CURVES[number.curve].apply(x)
    x = np.clip((x - number.shift) / number.divisor, -_FLOAT32_MAX, _FLOAT32_MAX)
    columns = {number.name: x.astype(np.float32)}
    if number.missing_flag:
        columns[flag_name(number.name)] = missing.astype(np.float32)
    return columns


class Inputs(NamedTuple):
    """The model's arrays. B rows, F fields except bags, N numbers that enter the pooling, D dense columns.

    The members of all bags of a row are adjacent: those of row b from `bag_splits[b]` to `bag_splits[b + 1]`.
    """

    ids_BF: NDArray[np.int32]  # local to their fields
    values_BN: NDArray[np.float32]
    dense_BD: NDArray[np.float32]
    bag_rows: NDArray[np.int32]  # (P,) rows of the embedding table
    bag_values: NDArray[np.float32]  # (P,) the weights x
    bag_splits: NDArray[np.int64]  # (B + 1,)


def inputs(spec: Spec, columns: Mapping[str, Any]) -> Inputs:
    """Arrange encoded columns, as `Encoding.encode` returns them, as the model's arrays."""
    rows = len(next(iter(columns.values())))

    def matrix(names: Iterable[str], dtype: type) -> NDArray[Any]:
        parts = [columns[name] for name in names]
        return np.stack(parts, axis=1).astype(dtype, copy=False) if parts else np.empty((rows, 0), dtype)

    return Inputs(
        matrix((field.name for field in spec.fields if field.bag is None), np.int32),
        matrix(spec.field_numbers, np.float32),
        matrix(spec.dense, np.float32),
        *_bags(spec, columns, rows),
    )


def _bags(
    spec: Spec, columns: Mapping[str, Any], rows: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """The members of all bags, by row, then by field."""
    lists = [
        (columns[field.name], columns[weights_name(field.name)], offset)
        for field, offset in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
    ]
    splits = np.zeros(rows + 1, np.int64)
    if not lists:
        return np.empty(0, np.int32), np.empty(0, np.float32), splits
    lengths = np.stack([np.diff(content(ids.offsets)) for ids, _, _ in lists], axis=1)  # (N, bags)
    np.cumsum(lengths.sum(axis=1), out=splits[1:])
    places = [content(ids.flatten()) + np.int32(offset) for ids, _, offset in lists]
    values = [content(weights.flatten()) for _, weights, _ in lists]
    if len(lists) == 1:
        return places[0], values[0], splits
    # Where each row of each bag begins among the members by bag, in the order of the members by row.
    starts = np.cumsum(lengths, axis=0) - lengths + np.cumsum([0, *(len(p) for p in places[:-1])])
    order = ranges(starts.ravel(), lengths.ravel())
    return np.concatenate(places)[order], np.concatenate(values)[order], splits
