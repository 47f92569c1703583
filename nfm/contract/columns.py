"""Read a field's values from raw columns as texts, the same for the feature job's counts and the encoder's lookups.

The value of a field is the canonical text of its column; the value of a cross joins the texts of its columns; a bag has
any number of values in a row. Each distinct value is formatted once per batch, and the rows refer to it by index.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import concatenate_ranges, null_mask, to_arrow, to_numpy, to_text_array
from nfm.contract.errors import DataError
from nfm.contract.hashing import hash_rows
from nfm.contract.messages import CORRECT_ROWS, did_you_mean, quoted
from nfm.contract.schema import Bag, Kind
from nfm.contract.values import (
    canonical_text,
    check_kind,
    check_weights,
    dictionary_indices,
    encode_dictionary,
    is_list,
    kind_of,
    to_floats,
)

_EXACT = 2.0**53  # from here on, several integers round to the same float


class Rows(Protocol):
    """Raw rows: a record batch, or a reader of columns on demand."""

    @property
    def num_rows(self) -> int:
        """Number of rows, N."""
        ...

    def column(self, name: str, /) -> pa.Array:
        """Return the (N,) values of a column."""
        ...


@dataclass(frozen=True)
class Values:
    """Values of a field in N rows: M = N, or for a bag the number of members, which are stored row after row."""

    texts: pa.Array  # (D,) large_string: the dictionary; null where the value is missing
    indices: NDArray[np.int32]  # (M,) positions in the dictionary; D means missing
    offsets: NDArray[np.int32] | None = None  # (N + 1,) for a bag: first member of each row
    weights: NDArray[np.float32] | None = None  # (M,) for a bag with a weights column
    lossy: NDArray[np.bool_] | None = None  # (D,) True for floats so large that digits may be lost; None: all False


def check_columns(wanted: Collection[str], schema: pa.Schema, where: str, advice: str) -> None:
    """Raise DataError unless each wanted column is in the table once; `advice` ends the message about missing ones."""
    missing = [column for column in wanted if column not in schema.names]
    if missing:
        columns = "Column" if len(missing) == 1 else "Columns"
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{columns} {', '.join(map(repr, missing))} {verb} missing from {where}; "
            f"the table has {', '.join(schema.names) or 'no columns'}. {_hint(missing, schema.names)}{advice}"
        )
    repeated = next((column for column in wanted if schema.names.count(column) > 1), None)
    if repeated is not None:
        raise DataError(
            f"Column '{repeated}' occurs {schema.names.count(repeated)} times in {where}, so it is ambiguous; the "
            f"table has {', '.join(schema.names)}. Rename or drop the others in the source."
        )


def _hint(missing: Sequence[str], names: Sequence[str]) -> str:
    if names and all(re.fullmatch(r"_c\d+", name) for name in names):
        return "If its files have a header, set source.options.header: true. "
    if len(names) == 1 and (delimiter := next((mark for mark in ";\t|," if mark in names[0]), None)):
        return f"Its only column looks like several: for a CSV file, set options: {{sep: {json.dumps(delimiter)}}}. "
    hint = did_you_mean(missing, names)
    return f"{hint} " if hint else ""


def check_key(columns: Iterable[str], schema: pa.Schema, where: str) -> None:
    """Raise DataError if a column that is hashed or grouped as a key contains lists, structs or maps."""
    for name in columns:
        if pa.types.is_nested(schema.field(name).type):
            raise DataError(
                f"Column '{name}' of {where} is {schema.field(name).type}, but the columns of columns.key and split.by "
                "must be scalar. Use another column, or convert it in the source."
            )


def check_categorical(columns: Sequence[str], bag: Bag | None, schema: pa.Schema, where: str) -> dict[str, Kind]:
    """Return the kind of each column of a field or of a bag's members; DataError for a type that is not categorical."""
    if bag is not None and bag.weights is not None:
        check_weights(bag.weights, schema.field(bag.weights).type, where)
    return {name: check_kind(name, schema.field(name).type, where, bag=bag is not None) for name in columns}


def read_field_values(columns: Sequence[str], kinds: Sequence[Kind], bag: Bag | None, rows: Rows) -> Values:
    """Read a field's values from its raw column, or from the columns of a cross; reads each column once, in order.

    `kinds`: the kind of each column when the vocabulary was made. Raises DataError for a text that is not a date
    where the vocabulary has dates, for invalid UTF-8, or for weights that do not fit their bag.
    """
    if bag is not None:
        return _read_bag(columns[0], kinds[0], bag, rows)
    if len(columns) == 1:
        return _read_values(rows.column(columns[0]), kinds[0], columns[0])
    parts = (_escape(_read_values(rows.column(c), kind, c)) for c, kind in zip(columns, kinds, strict=True))
    return reduce(_cross, parts)


def _read_values(array: pa.Array, kind: Kind, column: str) -> Values:
    encoded = encode_dictionary(array)
    dictionary = encoded.dictionary
    lossy = None
    if pa.types.is_floating(dictionary.type):
        lossy = np.abs(dictionary.to_numpy(zero_copy_only=False)) >= _EXACT  # all floats of this size are whole
    return Values(canonical_text(dictionary, kind, column), dictionary_indices(encoded), lossy=lossy)


def _escape(values: Values) -> Values:
    """Escape the separator, so that the crosses of ("a|b", "c") and ("a", "b|c") differ."""
    texts = pc.replace_substring(values.texts, "\\", "\\\\")
    return replace(values, texts=pc.replace_substring(texts, "|", "\\|"))


def _cross(first: Values, second: Values) -> Values:
    # Each pair is coded as one number, so that only pairs that occur are joined.
    base = np.int64(len(second.texts) + 1)
    pairs = to_arrow(first.indices * base + second.indices).dictionary_encode()
    firsts, seconds = np.divmod(to_numpy(pairs.dictionary), base)
    parts = [_take(values.texts, positions) for values, positions in ((first, firsts), (second, seconds))]
    texts = pc.binary_join_element_wise(*parts, to_text_array(["|"])[0])  # null if either is null
    lossy = _lossy_mask(first)[firsts] | _lossy_mask(second)[seconds]
    return Values(texts, to_numpy(pairs.indices), lossy=lossy)


def _lossy_mask(values: Values) -> NDArray[np.bool_]:
    size = len(values.texts)
    return np.append(np.zeros(size, np.bool_) if values.lossy is None else values.lossy, False)


def _take(texts: pa.Array, positions: NDArray[np.int64]) -> pa.Array:
    return texts.take(to_arrow(positions, positions == len(texts)))


class _Lists(NamedTuple):
    """Lists of N rows; rows may share a list."""

    members: pa.Array  # (M',) members of all lists
    starts: NDArray[np.int64]  # (N,) first member of each row; undefined where it is null
    lengths: NDArray[np.int64]  # (N,) 0 where it is null
    null: NDArray[np.bool_]  # (N,)

    def gather(self, per_member: NDArray[Any], for_null: Any, lengths: NDArray[np.int64]) -> NDArray[Any]:
        """Return (M,) entries of the first `lengths` members of each row; a null row has one entry, `for_null`."""
        starts = np.where(self.null, len(per_member), self.starts)
        return np.append(per_member, np.asarray(for_null, per_member.dtype))[concatenate_ranges(starts, lengths)]


def _split_lists(array: pa.Array, delimiter: str) -> _Lists:
    if is_list(array.type):
        null = null_mask(array)
        lengths = np.where(null, 0, to_numpy(pc.list_value_length(array)).astype(np.int64))
        members = array.flatten()  # skips the members of nulls
        return _Lists(members, np.cumsum(lengths) - lengths, lengths, null)
    # Each distinct text is split once.
    encoded = encode_dictionary(array)
    texts = encoded.dictionary.cast(pa.large_string())
    texts = pa.concat_arrays([texts, pa.nulls(1, pa.large_string())])
    split = pc.split_pattern(texts, delimiter)
    empty = (to_numpy(pc.binary_length(texts)) == 0) & ~null_mask(texts)
    split_lists = _split_lists(split, delimiter)
    lengths = np.where(empty, 0, split_lists.lengths)  # an empty text has no members
    rows = dictionary_indices(encoded)
    return _Lists(split_lists.members, split_lists.starts[rows], lengths[rows], split_lists.null[rows])


def _read_bag(column: str, kind: Kind, bag: Bag, rows: Rows) -> Values:
    lists = _split_lists(rows.column(column), bag.delimiter)
    members = _read_values(lists.members, kind, column)
    kept = lists.lengths if bag.max_length is None else np.minimum(lists.lengths, bag.max_length)
    kept = np.where(lists.null, 1, kept)  # a null bag counts as one missing member
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    indices = lists.gather(members.indices, len(members.texts), kept)
    weights = None if bag.weights is None else _read_weights(bag.weights, column, bag, lists, kept, rows)
    return Values(members.texts, indices, offsets, weights, members.lossy)


def _read_weights(
    name: str, column: str, bag: Bag, lists: _Lists, kept: NDArray[np.int64], rows: Rows
) -> NDArray[np.float32]:
    array = rows.column(name)
    found = _split_lists(array, bag.delimiter)
    wrong = np.flatnonzero((found.lengths != lists.lengths) | (found.null & ~lists.null))
    if len(wrong):
        row = int(wrong[0])
        has = "no weights (null)" if found.null[row] else f"{found.lengths[row]} weights"
        raise DataError(
            f"Column '{name}' must have one weight for each member of the bag in '{column}', but {len(wrong)} rows of "
            f"a batch do not: {quoted(array[row].as_py())} has {has} for {lists.lengths[row]} members. {CORRECT_ROWS}"
        )
    with np.errstate(over="ignore"):  # raised below
        member_weights = to_floats(found.members, name).astype(np.float32)
    # Where both are null, the missing member has the weight 1.
    weights: NDArray[np.float32] = found._replace(null=lists.null).gather(member_weights, 1.0, kept)
    wrong = np.flatnonzero(~np.isfinite(weights))
    if len(wrong):
        row = int(np.searchsorted(np.cumsum(kept), wrong[0], side="right"))
        raise DataError(
            f"Column '{name}' contains the weights of the bag in '{column}', which must be numbers, but {len(wrong)} "
            f"weights of a batch are missing, not finite or too large: {quoted(array[row].as_py())}. {CORRECT_ROWS}"
        )
    return weights


def hash_keys(columns: Iterable[pa.Array], seed: int) -> NDArray[np.uint64]:
    """Return the (N,) hashes of the keys of N rows. Equal values of different types have equal hashes."""
    return hash_rows([_to_key_text(values) for values in columns], seed)


def _to_key_text(values: pa.Array) -> pa.Array:
    type_, kind = values.type, kind_of(values.type)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return values.cast(pa.large_binary()).cast(pa.large_string(), safe=False)  # not valid UTF-8
    # A timestamp, for example, is not a category, but it can be a key.
    if kind is None or pa.types.is_integer(type_) or type_ == pa.large_string():
        return pc.cast(values, pa.large_string())
    encoded = encode_dictionary(values)
    return canonical_text(encoded.dictionary, kind, "key").take(encoded.indices)
