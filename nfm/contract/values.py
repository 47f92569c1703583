"""A raw value's canonical text, and its number: the same value reads the same whatever type its column has.

The integer 3, the float 3.0 and the decimal 3.00 are all the text "3"; true is "true"; a date is "2026-11-20". A text
is itself and is never trimmed or parsed, so that the postcodes "007" and "7" stay two values; only where the vocabulary
was made from numbers and the column now arrives as text (a CSV file without schema inference) is a text that reads as
a number taken for that number.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import content, nulls
from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.schema import Kind

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
_NOT_A_NUMBER = {"nan", "inf", "infinity"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_SLICE = 1 << 16


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return what a column of this Arrow type contains; None where it cannot be a category."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_null(type_):  # a column of nothing but nulls reads as any kind
        return "text"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_boolean(type_):
        return "boolean"
    return "date" if pa.types.is_date(type_) else None


def is_list(type_: pa.DataType) -> bool:
    """Return whether a column of this Arrow type contains arrays: a bag."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def distinct(values: pa.Array) -> pa.DictionaryArray:
    """A column as indices into a dictionary of its values."""
    if pa.types.is_dictionary(values.type):
        return values
    if pa.types.is_decimal32(values.type) or pa.types.is_decimal64(values.type):  # Arrow has no dictionaries of these
        values = values.cast(pa.decimal128(values.type.precision, values.type.scale))
    return values.dictionary_encode()


def decoded(values: pa.Array) -> pa.Array:
    """The values themselves, decoded if they are a dictionary."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def canonical_text(values: pa.Array, kind: Kind, column: str) -> pa.Array:
    """(N,) the canonical text (`large_string`) of each value; null where it is missing (null, NaN, ±inf).

    Formatting a float, a decimal or a text as a number costs microseconds: pass a dictionary's distinct values, not a
    column. `kind`: what the vocabulary was made from. Raises DataError for a text that is not a date, where the
    vocabulary has dates; or for invalid UTF-8.
    """
    type_ = values.type
    if pa.types.is_floating(type_):
        return _format(values.to_numpy(zero_copy_only=False), _float_text)
    if pa.types.is_decimal(type_):
        return _format(values.to_pylist(), _decimal_text)
    if pa.types.is_date64(type_):
        values = pc.cast(values, pa.date32())
    texts = pc.cast(values, pa.large_string())
    if kind_of(type_) == "text":
        _check_utf8(texts, column)
    if kind_of(type_) == "text" and kind != "text":
        if kind == "date":
            _check_dates(texts, column)
            return texts
        return _format(texts.to_pylist(), _number_text if kind == "number" else lambda text: _boolean(text) or text)
    return texts


def _check_utf8(texts: pa.Array, column: str) -> None:
    """Raise DataError for invalid UTF-8: Parquet accepts any bytes as text, and the first reader would fail."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"Column '{column}' holds bytes that are no text in UTF-8. Decode it in the source from the encoding it is "
            "in, or take it out of the columns."
        ) from error


def _check_dates(texts: pa.Array, column: str) -> None:
    wrong = next((text for text in texts.to_pylist() if text is not None and not _DATE.fullmatch(text)), None)
    if wrong is not None:
        raise DataError(
            f"Column '{column}' held dates when the vocabulary was made, and now holds the text {quoted(wrong)}, which "
            "is not written as 2026-11-20. Deliver the column as a date, or make the features and the model again."
        )


def _format(values: Any, text: Callable[[Any], str | None]) -> pa.Array:
    return pa.array([None if value is None else text(value) for value in values], pa.large_string())


def _float_text(value: Any) -> str | None:
    if not math.isfinite(value):
        return None
    if abs(number := float(value)) < 2.0**64 and number.is_integer():
        return str(int(number))  # each digit, as an integer column has them: 2⁶⁰ is not 1152921504606847000
    # NumPy writes the shortest digits that read back as this float, so 0.1 is "0.1" in 32 bits and in 64.
    return str(np.format_float_positional(value, trim="-"))


def _decimal_text(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    text = format(value, "f")  # normalize() would round to 28 digits
    return (text.rstrip("0").rstrip(".") if "." in text else text) if value else "0"


def _number_text(text: str) -> str | None:
    if _NUMBER.fullmatch(text):
        return _decimal_text(Decimal(text.strip()))
    return None if text.strip().lower().lstrip("+-") in _NOT_A_NUMBER else text


def numbers(values: pa.Array, column: str) -> NDArray[np.float64]:
    """A numeric column as float64; NaN where the value is missing (null, NaN, ±inf, blank text).

    Raises DataError, with an example, for a text that is not a number, or a type without numbers.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = kind_of(values.type)
    check_number(column, values.type, "the table")
    if kind == "text":
        floats = _parse(values, column)
    else:
        if pa.types.is_decimal(values.type) or kind == "boolean":
            values = pc.cast(pc.cast(values, pa.int8()) if kind == "boolean" else values, pa.float64())
        floats = np.where(nulls(values), np.nan, content(values).astype(np.float64))
    return np.where(np.isfinite(floats), floats, np.nan)


def check_number(column: str, type_: pa.DataType, where: str) -> None:
    """Raise DataError unless the type contains numbers, or texts that may be numbers."""
    if kind_of(type_) in (None, "date"):
        raise DataError(
            f"Column '{column}' of {where} is {type_}: a numeric column takes integers, floats, decimals, booleans or "
            "texts that are numbers. Cast it in the source, or take it out of columns.numeric."
        )


def _parse(values: pa.Array, column: str) -> NDArray[np.float64]:
    encoded = distinct(values)
    parsed: NDArray[np.float64] = np.full(len(encoded.dictionary) + 1, np.nan)
    for i, text in enumerate(encoded.dictionary.to_pylist()):
        if text is None or not text.strip():
            continue
        if not _NUMBER.fullmatch(text) and text.strip().lower().lstrip("+-") not in _NOT_A_NUMBER:
            raise DataError(
                f"Column '{column}' is numeric, but holds the text {quoted(text)}. Clean it in the source "
                "(source.where can leave such rows out), or move the column to columns.categorical."
            )
        parsed[i] = float(text)
    return parsed[dictionary_indices(encoded)]


def dictionary_indices(encoded: pa.DictionaryArray) -> NDArray[np.int32]:
    """(N,) the position of each value in the dictionary; for a null the position after its end."""
    # A dictionary of 128 values may come with 8-bit indices: the place behind it needs more.
    wide = encoded.indices.cast(pa.int32())
    return np.where(nulls(wide), np.int32(len(encoded.dictionary)), content(wide))


def check_kind(column: str, type_: pa.DataType, where: str, bag: bool = False) -> Kind:
    """Return what a categorical column or the members of a bag contain; DataError if it cannot be categories."""
    members = bag and is_list(type_)
    kind = kind_of(type_.value_type if members else type_)
    if kind is not None and (members or not bag or kind == "text"):
        return kind
    if bag:
        rule = "a bag takes an array of text, numbers, booleans or dates, or a text whose members a delimiter parts"
        advice = "Cast it in the source, or leave out bag: true."
    else:
        rule = "a categorical field takes text, integers, floats, decimals, booleans or dates"
        advice = "Cast it in the source, or take it out of columns.categorical."
        if is_list(type_):
            advice = f"Give the field bag: true, so that a row may have several values. {advice}"
    raise DataError(f"Column '{column}' of {where} is {type_}: {rule}. {advice}")


def check_weights(column: str, type_: pa.DataType, where: str) -> None:
    """Raise DataError unless a column of a bag's weights contains arrays of numbers, or texts."""
    kind = kind_of(type_.value_type if is_list(type_) else type_)
    if kind != "text" and not (kind == "number" and is_list(type_)):
        raise DataError(
            f"Column '{column}' of {where} is {type_}: the weights of a bag are an array of numbers, or a text of "
            "numbers with the bag's delimiter. Cast it in the source."
        )


def check_same_values(column: str, trained: Kind, arrived: Kind, vocabulary: pa.Array | None, where: str) -> None:
    """Raise DataError if a column's kind changed since training so that the same value would not find its id.

    `vocabulary`: the field's values (`large_string`); None for hashes and crosses, which have none.
    """
    if arrived in (trained, "text"):
        return
    reason = f"the vocabulary was made from {trained} values"
    if vocabulary is None:
        reason = f"the ids were made from {trained} values"
    elif trained == "text":
        other = _not_canonical(vocabulary, arrived)
        if other is None:
            return
        reason = f"the vocabulary holds the text {quoted(other)}"
    raise DataError(
        f"Column '{column}' of {where} now holds {arrived} values, but {reason}, so the same value would not find its "
        f"id. Deliver the column as {trained}, or make the features and the model again."
    )


def check_digits(column: str, type_: pa.DataType, vocabulary: pa.Array, where: str) -> None:
    """Raise DataError if a column of floats stands for integers that floats cannot distinguish.

    `vocabulary`: the field's values (`large_string`), which were made from numbers.
    """
    if not pa.types.is_floating(type_.value_type if is_list(type_) or pa.types.is_dictionary(type_) else type_):
        return
    for start in range(0, len(vocabulary), _SLICE):
        part = vocabulary.slice(start, _SLICE)
        long = part.filter(pc.greater(pc.binary_length(part), 15)).to_pylist()
        # A vocabulary of floats has whole ones, too: with the fewest digits that tell them apart, and zeros behind.
        whole = (text for text in long if text.lstrip("-").isdigit())
        lost = next((text for text in whole if _float_text(float(text)) != text), None)
        if lost is not None:
            raise DataError(
                f"Column '{column}' of {where} now holds floats, but the vocabulary was made from integers such as "
                f"{lost}, which no float has: from 2⁵³ on, several integers would be one float. Deliver the column as "
                "integers or as text (pandas turns integers with nulls into floats; its type Int64 keeps them)."
            )


def _not_canonical(vocabulary: pa.Array, kind: Kind) -> str | None:
    """An example that shows that values of this kind are not what the vocabulary contains.

    None where each text that can be read as this kind is written the canonical way, and there is one (or no text).
    """
    found = not len(vocabulary)
    # A large vocabulary is never in memory as a whole.
    for start in range(0, len(vocabulary), _SLICE):
        for text in vocabulary.slice(start, _SLICE).to_pylist():
            read = _reads_as(text, kind)
            if read not in (None, text):
                return str(text)
            found = found or read == text
    return None if found else str(vocabulary[0].as_py())


def _reads_as(text: str, kind: Kind) -> str | None:
    """The canonical text of a text that is read as this kind; None where it cannot be."""
    if kind == "number":
        return _number_text(text) if _NUMBER.fullmatch(text) else None
    if kind == "boolean":
        return _boolean(text)
    return text if _DATE.fullmatch(text) else None


def _boolean(text: str) -> str | None:
    return text.lower() if text.lower() in ("true", "false") else None
