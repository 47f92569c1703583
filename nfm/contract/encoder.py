"""One batch of raw columns → ids and numbers: the only code that turns a raw value into a number.

The feature job writes what `encode` returns into the dataset; the scoring job hands it to the forward pass. `inputs`
arranges the same columns, read back from the dataset or fresh from `encode`, as the arrays that the model takes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.errors import DataError
from nfm.contract.hashing import hash64
from nfm.contract.schema import MISSING, Field, Number, Spec, flag_name
from nfm.contract.values import canonical_text, check_kind, check_number, check_same_values, dictionary_indices, numbers
from nfm.contract.vocabulary import Vocabulary

ENCODER_FILES = ("spec.json", "index/*.npy")  # of encoding/: what a worker needs to encode
_OOV_SEED = 0x00F
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Encoding:
    """The specification and the vocabulary it belongs to."""

    spec: Spec
    vocabulary: Vocabulary

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `encoding/`; the vocabulary is memory-mapped.

        Raises:
            DataError: a file is missing, changed or of another version.
        """
        path = folder / "spec.json"
        try:
            text = path.read_text()
        except OSError as error:
            raise DataError(
                f"There is no encoding in {folder}: {path.name} cannot be read ({error.strerror}). "
                "Run jobs/features.py first."
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not text ({error}). Restore it or run the features job again.") from error
        spec = Spec.from_json(text, str(path))
        sizes = [(field.name, field.values) for field in spec.fields if field.edges is None]
        return cls(spec, Vocabulary.load(folder, sizes, spec.hash_seed))

    def check(self, schema: pa.Schema, where: str) -> None:
        """Before any work: the table has every column, and each still reads as the values it had in training.

        Raises:
            DataError: names the column, what the table has and what to do.
        """
        check_columns(self.spec.columns, schema, where, "The model's fields come from its encoding/spec.json.")
        for field in self.spec.fields:
            arrow_type = schema.field(field.column).type
            if field.edges is None and not pa.types.is_null(arrow_type):
                vocabulary = self.vocabulary.fields[field.name].texts
                arrived = check_kind(field.column, arrow_type, where)
                check_same_values(field.column, field.kind, arrived, vocabulary, where)
        for column in self.spec.numeric_columns:
            check_number(column, schema.field(column).type, where)

    def verify(self, where: str) -> None:
        """Read the whole vocabulary, and compare it with the specification.

        Raises:
            DataError: it is not the one that the specification was written with.
        """
        if self.vocabulary.digest != self.spec.vocabulary_digest:
            raise DataError(
                f"The vocabulary in {where} was changed after it was written: its content does not have the digest in "
                "spec.json. Restore it, or run jobs/features.py again."
            )

    def encode(self, batch: pa.RecordBatch) -> dict[str, NDArray[Any]]:
        """Encode N raw rows.

        Args:
            batch: holds at least the specification's columns; others are ignored.

        Returns:
            The dataset's columns by name, in order: (N,) int32 for each field, (N,) float32 for each number and each
            missing flag.

        Raises:
            DataError: a numeric column holds a text that is no number.
        """
        spec = self.spec
        floats = {column: numbers(batch.column(column), column) for column in spec.numeric_columns}
        columns: dict[str, NDArray[Any]] = {}
        for field in spec.fields:
            if field.edges is None:
                columns[field.name] = self._ids(field, batch.column(field.column))
            else:
                columns[field.name] = _bucket(field, floats[field.column])
        for number in spec.numbers:
            columns.update(_transform(number, floats[number.column]))
        return columns

    def _ids(self, field: Field, values: pa.Array) -> NDArray[np.int32]:
        # Each distinct value of the batch is looked up once.
        encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        texts = canonical_text(encoded.dictionary, field.kind, field.column)
        present = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        known = texts.take(pa.array(present))
        found = self.vocabulary.fields[field.name].lookup(known, self.vocabulary.seed)
        unseen = np.flatnonzero(found < 0)
        buckets = hash64(known.take(pa.array(unseen)), _OOV_SEED) % np.uint64(field.oov_buckets)
        found[unseen] = 1 + buckets.astype(np.int32)
        # One entry behind the dictionary serves the null indices.
        ids = np.full(len(texts) + 1, MISSING, np.int32)
        ids[present] = found
        return ids[dictionary_indices(encoded)]


def _bucket(field: Field, x: NDArray[np.float64]) -> NDArray[np.int32]:
    ids = field.first_value + np.searchsorted(np.asarray(field.edges), x, side="right")
    return np.where(np.isnan(x), MISSING, ids).astype(np.int32)


def _transform(number: Number, x: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    missing = np.isnan(x)
    if number.clip is not None:
        x = np.clip(x, *number.clip)
    x = np.where(missing, number.impute, x)
    if number.log1p:
        x = signed_log1p(x)
    x = np.clip((x - number.shift) / number.divisor, -_FLOAT32_MAX, _FLOAT32_MAX)
    columns = {number.name: x.astype(np.float32)}
    if number.missing_flag:
        columns[flag_name(number.name)] = missing.astype(np.float32)
    return columns


def signed_log1p(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) log(1 + |x|): log1p, defined for negative numbers too."""
    return np.sign(x) * np.log1p(np.abs(x))


class Inputs(NamedTuple):
    """What the model takes. B rows, F fields, N numbers that enter the pooling, D dense columns."""

    ids_BF: NDArray[np.int32]
    values_BN: NDArray[np.float32]
    dense_BD: NDArray[np.float32]


def inputs(spec: Spec, columns: Mapping[str, NDArray[Any]]) -> Inputs:
    """Arrange encoded columns as the model's arrays. The ids stay local to their fields."""
    rows = len(next(iter(columns.values())))

    def matrix(names: Iterable[str], dtype: type) -> NDArray[Any]:
        parts = [columns[name] for name in names]
        return np.stack(parts, axis=1).astype(dtype, copy=False) if parts else np.empty((rows, 0), dtype)

    return Inputs(
        matrix((field.name for field in spec.fields), np.int32),
        matrix(spec.field_numbers, np.float32),
        matrix(spec.dense, np.float32),
    )


def check_columns(wanted: Collection[str], schema: pa.Schema, where: str, source: str) -> None:
    """Every wanted column is in the table, once.

    Raises:
        DataError: names the missing columns, what the table has, and where the wish comes from.
    """
    missing = [f"'{column}'" for column in wanted if column not in schema.names]
    if missing:
        columns = "Column" if len(missing) == 1 else "Columns"
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{columns} {', '.join(missing)} {verb} missing from {where}; "
            f"the table has {', '.join(schema.names) or 'no columns at all'}. {source}"
        )
    twice = next((column for column in wanted if schema.names.count(column) > 1), None)
    if twice is not None:
        raise DataError(
            f"Column '{twice}' is {schema.names.count(twice)} times in {where}, so which one is meant cannot be known; "
            f"the table has {', '.join(schema.names)}. Rename or drop the others in the source."
        )
