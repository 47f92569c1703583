"""Raw columns → a field's values as texts: what the feature job counts is what the encoder looks up.

A field's value is the canonical text of its column; of a cross, the texts of all its columns; of a bag, there are
several in a row, or none. Each distinct value is formatted once a batch, and the rows refer to it by index.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import arrow, content, few_texts, nulls, ranges
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, did_you_mean, quoted
from nfm.contract.schema import Bag, Kind
from nfm.contract.values import (
    canonical_text,
    check_kind,
    check_weights,
    dictionary_indices,
    distinct,
    is_list,
    numbers,
)

_EXACT = 2.0**53  # from here on, a float stands for several whole numbers


class Rows(Protocol):
    """Raw rows: a record batch, or a reader of columns on demand."""

    @property
    def num_rows(self) -> int:
        """N."""
        ...

    def column(self, name: str, /) -> pa.Array:
        """(N,) the values of a column."""
        ...


@dataclass(frozen=True)
class Values:
    """A field's values in N rows: M = N, or for a bag the members of all rows, row after row."""

    texts: pa.Array  # (D,) large_string: the dictionary, null where the value is missing
    indices: NDArray[np.int32]  # (M,) places in the dictionary; D, behind its end, is missing
    offsets: NDArray[np.int32] | None = None  # (N + 1,) of a bag: where each row's members begin and end
    weights: NDArray[np.float32] | None = None  # (M,) of a bag whose weights stand in a column
    lossy: NDArray[np.bool_] | None = None  # (D,) came as floats so large that digits may be lost; None: no such


def check_columns(wanted: Collection[str], schema: pa.Schema, where: str, source: str) -> None:
    """Raise DataError unless each wanted column is in the table once; `source` says what needs the columns."""
    missing = [column for column in wanted if column not in schema.names]
    if missing:
        columns = "Column" if len(missing) == 1 else "Columns"
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{columns} {', '.join(map(repr, missing))} {verb} missing from {where}; "
            f"the table has {', '.join(schema.names) or 'no columns at all'}. {_hint(missing, schema.names)}{source}"
        )
    twice = next((column for column in wanted if schema.names.count(column) > 1), None)
    if twice is not None:
        raise DataError(
            f"Column '{twice}' is {schema.names.count(twice)} times in {where}, so which one is meant cannot be known; "
            f"the table has {', '.join(schema.names)}. Rename or drop the others in the source."
        )


def _hint(missing: Sequence[str], names: Sequence[str]) -> str:
    if len(names) == 1 and (delimiter := next((one for one in ";\t|," if one in names[0]), None)):
        return f"Its one column looks like several: of a CSV file, say options: {{sep: {json.dumps(delimiter)}}}. "
    meant = did_you_mean(missing, names)
    return f"{meant} " if meant else ""


def check_categorical(columns: Sequence[str], bag: Bag | None, schema: pa.Schema, where: str) -> dict[str, Kind]:
    """Return what each column of a field or a bag's members contain; DataError for a type that is not a category."""
    if bag is not None and bag.weights is not None:
        check_weights(bag.weights, schema.field(bag.weights).type, where)
    return {name: check_kind(name, schema.field(name).type, where, bag=bag is not None) for name in columns}


def field_values(columns: Sequence[str], kinds: Sequence[Kind], bag: Bag | None, rows: Rows) -> Values:
    """Return a field's values from its raw column, or from the several columns of a cross; reads each once, in order.

    `kinds`: what each column contained when the vocabulary was made. Raises DataError for a text that is not a date
    where the vocabulary has dates, or for weights that do not fit their bag.
    """
    if bag is not None:
        return _bag(columns[0], kinds[0], bag, rows)
    if len(columns) == 1:
        return _values(rows.column(columns[0]), kinds[0], columns[0])
    members = (_escaped(_values(rows.column(c), kind, c)) for c, kind in zip(columns, kinds, strict=True))
    return reduce(_crossed, members)


def _values(array: pa.Array, kind: Kind, column: str) -> Values:
    encoded = distinct(array)
    dictionary = encoded.dictionary
    lossy = None
    if pa.types.is_floating(dictionary.type):
        lossy = np.abs(dictionary.to_numpy(zero_copy_only=False)) >= _EXACT  # all floats of this size are whole
    return Values(canonical_text(dictionary, kind, column), dictionary_indices(encoded), lossy=lossy)


def _escaped(values: Values) -> Values:
    """Keep crosses distinct: ("a|b", "c") and ("a", "b|c")."""
    texts = pc.replace_substring(values.texts, "\\", "\\\\")
    return replace(values, texts=pc.replace_substring(texts, "|", "\\|"))


def _crossed(first: Values, second: Values) -> Values:
    # Only the pairs that occur are joined. One number stands for a pair.
    base = np.int64(len(second.texts) + 1)
    pairs = arrow(first.indices * base + second.indices).dictionary_encode()
    firsts, seconds = np.divmod(content(pairs.dictionary), base)
    parts = [_take(values.texts, places) for values, places in ((first, firsts), (second, seconds))]
    texts = pc.binary_join_element_wise(*parts, few_texts(["|"])[0])  # a null makes the pair null
    lossy = _lossy(first)[firsts] | _lossy(second)[seconds]
    return Values(texts, content(pairs.indices), lossy=lossy)


def _lossy(values: Values) -> NDArray[np.bool_]:
    size = len(values.texts)
    return np.append(np.zeros(size, np.bool_) if values.lossy is None else values.lossy, False)


def _take(texts: pa.Array, places: NDArray[np.int64]) -> pa.Array:
    return texts.take(arrow(places, places == len(texts)))


class _Lists(NamedTuple):
    """The lists of N rows. Rows may share theirs."""

    members: pa.Array  # (M',) of all lists
    starts: NDArray[np.int64]  # (N,) where each row's begins; not told where it is null
    lengths: NDArray[np.int64]  # (N,) 0 where it is null
    null: NDArray[np.bool_]  # (N,)

    def gather(self, per_member: NDArray[Any], for_null: Any, lengths: NDArray[np.int64]) -> NDArray[Any]:
        """(M,) entries of the first `lengths` members of each row; a null row has one entry, `for_null`."""
        starts = np.where(self.null, len(per_member), self.starts)
        return np.append(per_member, np.asarray(for_null, per_member.dtype))[ranges(starts, lengths)]


def _lists(array: pa.Array, delimiter: str) -> _Lists:
    if is_list(array.type):
        null = nulls(array)
        lengths = np.where(null, 0, content(pc.list_value_length(array)).astype(np.int64))
        return _Lists(array.flatten(), np.cumsum(lengths) - lengths, lengths, null)  # flatten() skips what nulls hide
    # Each distinct text is split once.
    encoded = distinct(array)
    texts = encoded.dictionary.cast(pa.large_string())
    texts = pa.concat_arrays([texts, pa.nulls(1, pa.large_string())])
    split = pc.split_pattern(texts, delimiter)
    empty = (content(pc.binary_length(texts)) == 0) & ~nulls(texts)
    parted = _lists(split, delimiter)
    lengths = np.where(empty, 0, parted.lengths)  # a text without anything in it has no member
    rows = dictionary_indices(encoded)
    return _Lists(parted.members, parted.starts[rows], lengths[rows], parted.null[rows])


def _bag(column: str, kind: Kind, bag: Bag, rows: Rows) -> Values:
    lists = _lists(rows.column(column), bag.delimiter)
    of_members = _values(lists.members, kind, column)
    kept = lists.lengths if bag.max_length is None else np.minimum(lists.lengths, bag.max_length)
    kept = np.where(lists.null, 1, kept)  # a bag that is null has one member, which is missing
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    indices = lists.gather(of_members.indices, len(of_members.texts), kept)
    weights = None if bag.weights is None else _weights(bag.weights, column, bag, lists, kept, rows)
    return Values(of_members.texts, indices, offsets, weights, of_members.lossy)


def _weights(
    name: str, column: str, bag: Bag, lists: _Lists, kept: NDArray[np.int64], rows: Rows
) -> NDArray[np.float32]:
    array = rows.column(name)
    found = _lists(array, bag.delimiter)
    wrong = np.flatnonzero((found.lengths != lists.lengths) | (found.null & ~lists.null))
    if len(wrong):
        row = int(wrong[0])
        has = "no weights (null)" if found.null[row] else f"{found.lengths[row]} weights"
        raise DataError(
            f"Column '{name}' holds one weight for each member of the bag in '{column}', but {len(wrong)} rows of a "
            f"batch break that: {quoted(array[row].as_py())} are {has} for {lists.lengths[row]} members. {CORRECT_ROWS}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is told below
        each = numbers(found.members, name).astype(np.float32)
    # Where both are null, the missing member has the weight 1.
    weights: NDArray[np.float32] = found._replace(null=lists.null).gather(each, 1.0, kept)
    wrong = np.flatnonzero(~np.isfinite(weights))
    if len(wrong):
        row = int(np.searchsorted(np.cumsum(kept), wrong[0], side="right"))
        raise DataError(
            f"Column '{name}' holds the weights of the bag in '{column}', which must be numbers, but {len(wrong)} "
            f"weights of a batch are missing, not finite or too large: {quoted(array[row].as_py())}. {CORRECT_ROWS}"
        )
    return weights
