"""Encode a batch of raw columns as ids and numbers: the only code that turns a raw value into a number.

The feature job writes the result of `encode` into the dataset; the score job passes it to the forward pass.
`contract.dataset` arranges the same columns, from the dataset or from `encode`, as the arrays that the model takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import null_mask, to_arrow
from nfm.contract.columns import Rows, Values, check_categorical, check_columns, read_field_values
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64
from nfm.contract.messages import quoted
from nfm.contract.publishing.published import Result, check_fingerprint, read_published
from nfm.contract.reading import Reading
from nfm.contract.scaling import CURVES
from nfm.contract.schema import MISSING, Field, Number, Spec, bin_name, flag_name, fraction_name, weights_name
from nfm.contract.times.derive import check_derived, derive
from nfm.contract.times.derived import explain_missing
from nfm.contract.values import check_digits, check_number, check_same_values, to_floats
from nfm.contract.vocabulary import Vocabulary

ENCODER_FILES = ("spec.json", "index/*/*.npy")  # files of encoding/ that a worker needs to encode
_OOV_SEED = 0x00F
_MAX_REPORTED = 1000  # maximum number of out-of-vocabulary values reported individually per batch
_BIN_ROWS = 1 << 14  # values that stay in the cache while they are compared with all edges
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MODEL_NEEDS_COLUMNS = (  # ends the error about a missing column
    "The model was trained with the columns in its encoding/spec.json: provide a column with that name, for example "
    "through a view, or train a model without it."
)


def check_model_columns(spec: Spec, schema: pa.Schema, where: str) -> None:
    """Raise DataError unless the table has each raw column of an encoding once."""
    check_columns(spec.columns, schema, where, explain_missing(spec.derived, schema.names, _MODEL_NEEDS_COLUMNS))


@dataclass(frozen=True)
class Encoding:
    """A specification with its vocabularies."""

    spec: Spec
    vocabulary: Vocabulary
    reading: Reading | None = None  # how text files were read; None: an older version wrote the encoding

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `encoding/` and map the vocabularies, all files of one publication.

        Raises DataError if a file is missing, changed or of another version.
        """
        return read_published([folder], lambda: cls._read(folder))

    @classmethod
    def _read(cls, folder: Path) -> Self:
        spec = _read_spec(folder)
        return cls(spec, Vocabulary.load(folder, spec.vocabularies), Reading.load(folder))

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raise DataError unless the table has every column in a type that encodes each value as in training."""
        check_model_columns(self.spec, schema, where)
        schema = check_derived(self.spec.derived, schema, where)
        for field in self.spec.fields:
            if field.edges is None:
                self._check_field(field, schema, where)
        for column in self.spec.numeric_columns:
            check_number(column, schema.field(column).type, where)

    def _check_field(self, field: Field, schema: pa.Schema, where: str) -> None:
        # The kinds of a cross or a hashed field cannot be checked against vocabulary values.
        texts = None
        if field.vocabulary is not None and len(field.columns) == 1:
            texts = self.vocabulary.fields[field.vocabulary].texts
        arrived = check_categorical(field.columns, field.bag, schema, where)
        for column, trained in zip(field.columns, field.kinds, strict=True):
            check_same_values(column, trained, arrived[column], texts, where)
            if texts is not None and trained == "number":
                check_digits(column, schema.field(column).type, texts, where)

    def verify(self, where: str) -> None:
        """Read every vocabulary; raise DataError if one does not have the digest in the specification."""
        for name, digest in zip(self.spec.vocabularies, self.spec.digests, strict=True):
            index = self.vocabulary.fields[name]
            if index.digest(name) != digest or not index.is_sound():
                raise DataError(
                    f"The vocabulary of '{name}' in {where} was changed after it was written: its content does not "
                    "have the digest in spec.json. Restore it, or run nfm features again."
                )

    def encode(self, rows: Rows, same_table: bool = False, counts: "BatchCounts | None" = None) -> dict[str, Any]:
        """Encode N raw rows; each column is read once, in order.

        Args:
            rows: the raw rows.
            same_table: the vocabulary was made from the same rows, so no value can have been rounded since.
            counts: receives counts that cannot be computed from the encoded columns.

        Returns:
            The dataset's columns by name, as `Spec.outputs` lists them: (N,) int32 for each field, (N,) float32 for
            each number and each missing flag, (N,) int32 and (N,) float32 for each number with bins (`find_bins`); for
            a bag N lists of int32 ids and N lists of float32 weights (`pa.ListArray`).

        Raises:
            DataError: a numeric column has a text that is not a number, a bag has a different number of weights than
                members, or an integer outside the vocabulary may have lost its last digits.
        """
        columns: dict[str, Any] = {}
        rows = derive(rows, self.spec.derived)
        for field in self.spec.fields:
            if field.edges is None:
                columns.update(self._encode_field(field, rows, same_table, counts))
            else:
                x = to_floats(rows.column(field.columns[0]), field.columns[0])
                ids = field.first_value + np.searchsorted(np.asarray(field.edges), x, side="right")
                columns[field.name] = np.where(np.isnan(x), MISSING, ids).astype(np.int32)
        for number in self.spec.numbers:
            x = to_floats(rows.column(number.column), number.column)
            if counts is not None:
                counts.missing[number.name] = int(np.count_nonzero(np.isnan(x)))
            columns.update(transform(number, x))
            if number in self.spec.binned:
                columns.update(find_bins(number, x))
        return columns

    def _encode_field(self, field: Field, rows: Rows, same_table: bool, counts: "BatchCounts | None") -> dict[str, Any]:
        values = read_field_values(field.columns, field.kinds, field.bag, rows)
        id_of_value = self._find_ids(field, values, same_table)
        if counts is not None and not field.hashed:
            counts.count_out_of_vocabulary(field, values, id_of_value)
        ids = id_of_value[values.indices]
        if values.offsets is None:
            return {field.name: ids}
        weights = np.ones(len(ids), np.float32) if values.weights is None else values.weights
        offsets = to_arrow(values.offsets)
        return {
            field.name: pa.ListArray.from_arrays(offsets, to_arrow(ids)),
            weights_name(field.name): pa.ListArray.from_arrays(offsets, to_arrow(weights)),
        }

    def _find_ids(self, field: Field, values: Values, same_table: bool) -> NDArray[np.int32]:
        """Return (D + 1,) ids: one per dictionary value, then the missing id."""
        present = np.flatnonzero(~null_mask(values.texts))
        known = values.texts.take(to_arrow(present)) if values.texts.null_count else values.texts
        if field.vocabulary is None:
            found = _hash_to_buckets(known, field)
        else:
            positions = self.vocabulary.fields[field.vocabulary].lookup(known)
            oov = np.flatnonzero(positions < 0)
            if not same_table:
                _check_digits(field, values, present[oov])
            found = positions + np.int32(field.first_value)
            found[oov] = _hash_to_buckets(known.take(to_arrow(oov)), field)
        ids = np.full(len(values.texts) + 1, MISSING, np.int32)
        ids[present] = found
        return ids


@dataclass
class BatchCounts:
    """Counts of a batch that cannot be computed from the encoded columns."""

    missing: dict[str, int] = dataclass_field(default_factory=dict)  # number → missing values
    # Field → the most frequent out-of-vocabulary values with their counts, and whether these are all of them.
    out_of_vocabulary: dict[str, tuple[dict[str, int], bool]] = dataclass_field(default_factory=dict)

    def count_out_of_vocabulary(self, field: Field, values: Values, id_of_value: NDArray[np.int32]) -> None:
        """Count the batch's values that the field's vocabulary lacks."""
        positions = np.flatnonzero((id_of_value > MISSING) & (id_of_value < field.first_value))
        if not len(positions):
            return
        counts = np.bincount(values.indices, minlength=len(id_of_value))[positions]
        first = np.argsort(-counts, kind="stable")[:_MAX_REPORTED]
        texts = values.texts.take(to_arrow(positions[first])).to_pylist()
        occurring = {text: int(n) for text, n in zip(texts, counts[first], strict=True) if n}
        self.out_of_vocabulary[field.name] = occurring, len(first) == len(positions)


def _read_spec(folder: Path) -> Spec:
    path = folder / "spec.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"There is no encoding in {folder}: {path.name} cannot be read ({error.strerror}). Run nfm features first."
        ) from error
    return Spec.from_json(content, str(path))


@lru_cache(maxsize=2)
def load_once(folder: Path, fingerprint: str) -> Encoding:
    """Load an encoding and cache it in the worker process; ReplacedError if it has another fingerprint."""
    encoding = Encoding.load(folder)
    check_fingerprint(folder, "encoding", encoding.spec.fingerprint, fingerprint)
    return encoding


def read_more(folder: Path, fingerprint: str, read: Callable[[], Result]) -> Result:
    """Call `read` for further files of an encoding; ReplacedError if it no longer has this fingerprint."""

    def check_and_read() -> Result:
        check_fingerprint(folder, "encoding", _read_spec(folder).fingerprint, fingerprint)
        return read()

    return read_published([folder], check_and_read)


def _hash_to_buckets(texts: pa.Array, field: Field) -> NDArray[np.int32]:
    return (1 + hash64(texts, _OOV_SEED) % np.uint64(field.oov_buckets)).astype(np.int32)


def _check_digits(field: Field, values: Values, oov: NDArray[np.int64]) -> None:
    # The specification does not record whether training had integers or floats. A large float that is in the vocabulary
    # is accepted, because the vocabulary may have been made from floats. One that is not in it is more likely a rounded
    # integer than a new value, and would silently be encoded as out-of-vocabulary.
    lost = oov[:0] if values.lossy is None else oov[values.lossy[oov]]
    if len(lost):
        several = len(field.columns) > 1
        text = quoted(values.texts[int(lost[0])].as_py())
        raise DataError(
            f"Column{'s' if several else ''} {', '.join(map(repr, field.columns))} of the field '{field.name}' "
            f"{'are float columns' if several else 'is a float column'}, and {text} is not in the vocabulary: "
            "from 2⁵³ on, a float cannot represent every integer, so this may be a rounded value. Provide the column "
            "as integers or as strings."
        )


def transform(number: Number, x: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """Return a number's dataset columns, (N,) each, for (N,) raw values; NaN is missing."""
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


def find_bins(number: Number, x: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Return the bin columns, (N,) each, of (N,) raw values of a number with E edges; NaN is missing.

    Bin b from 1 to E and the fraction t represent the value (1 - t) · edge_b + t · edge_(b + 1). Values beyond the
    first or last edge are at that edge. Bin 0 is missing, as are all values of a number without edges.
    """
    edges, bins = np.asarray(number.edges, np.float64), np.zeros(len(x), np.int32)
    widths, fraction = np.append(np.diff(edges), 1.0), np.zeros(len(x), np.float32)
    for start in range(0, len(x), _BIN_ROWS) if len(edges) else ():
        some = slice(start, start + _BIN_ROWS)
        inside = np.clip(x[some], edges[0], edges[-1])
        # With few edges, comparing all values with each edge is faster than a search for each value.
        found = np.zeros(len(inside), np.uint8)
        for edge in edges:
            found += (inside >= edge).view(np.uint8)
        lower, width = (array.take(found - 1, mode="clip") for array in (edges, widths))
        t = ((inside - lower) / width).astype(np.float32)
        full = t >= 1  # rounded up to the next edge
        bins[some] = found + full
        fraction[some] = np.where(full | (found == MISSING), 0, t)
    return {bin_name(number.name): bins, fraction_name(number.name): fraction}
