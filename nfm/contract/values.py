"""Convert raw values to canonical texts or numbers that do not depend on the type of the column.

The integer 3, the float 3.0 and the decimal 3.00 all become the text "3"; true becomes "true"; a date "2026-11-20". A
text is not trimmed or parsed, so that the postcodes "007" and "7" stay different. There is one exception: if the
vocabulary was made from numbers and the column now contains text (a CSV file without schema inference), a text that is
a number is converted like that number.
"""

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import null_mask, to_numpy
from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.schema import Kind

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
_NOT_A_NUMBER = {"nan", "inf", "infinity"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MEANS_MISSING = {"na", "n/a", "null", "none", "nil", "missing", "unknown", "-", "--", "?", ".", "\\n", "#n/a", "<na>"}
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[\d.\s]*,\d+\s*", re.ASCII)
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*", re.ASCII)
_SLICE = 1 << 16


def kind_of(type_: pa.DataType) -> Kind | None:
    """Return the kind of values in a column of this Arrow type; None if it cannot be categorical."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_null(type_):  # a column with only nulls fits every kind
        return "text"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_boolean(type_):
        return "boolean"
    return "date" if pa.types.is_date(type_) else None


def is_list(type_: pa.DataType) -> bool:
    """Return whether a column of this Arrow type contains arrays: a bag."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def encode_dictionary(values: pa.Array) -> pa.DictionaryArray:
    """Return a column as indices into a dictionary of its values."""
    if pa.types.is_dictionary(values.type):
        return values
    # Arrow cannot encode small decimals as dictionaries.
    if pa.types.is_decimal32(values.type) or pa.types.is_decimal64(values.type):
        values = values.cast(pa.decimal128(values.type.precision, values.type.scale))
    return values.dictionary_encode()


def decode_dictionary(values: pa.Array) -> pa.Array:
    """Return the values themselves, decoded if they are a dictionary."""
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def canonical_text(values: pa.Array, kind: Kind, column: str) -> pa.Array:
    """Return the (N,) canonical texts (`large_string`); null where the value is missing (null, NaN, ±inf).

    Formatting a float, a decimal or a text as a number takes microseconds: pass a dictionary's distinct values, not a
    column. `kind`: the kind of values that the vocabulary was made from. Raises DataError for a text that is not a date
    where the vocabulary has dates, or for invalid UTF-8.
    """
    type_ = values.type
    if pa.types.is_floating(type_):
        return _format_each(values.to_numpy(zero_copy_only=False), _format_float)
    if pa.types.is_decimal(type_):
        return _format_each(values.to_pylist(), _format_decimal)
    if pa.types.is_date64(type_):
        values = pc.cast(values, pa.date32())
    texts = pc.cast(values, pa.large_string())
    if kind_of(type_) == "text":
        _check_utf8(texts, column)
    if kind_of(type_) == "text" and kind != "text":
        if kind == "date":
            _check_dates(texts, column)
            return texts
        return _format_each(
            texts.to_pylist(), _normalize_number if kind == "number" else lambda text: _parse_boolean(text) or text
        )
    return texts


def _check_utf8(texts: pa.Array, column: str) -> None:
    """Raise DataError for invalid UTF-8, which Parquet files can contain and later steps cannot read."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"Column '{column}' contains invalid UTF-8. Decode it in the source from its actual encoding, or remove it "
            "from the columns."
        ) from error


def _check_dates(texts: pa.Array, column: str) -> None:
    wrong = next((text for text in texts.to_pylist() if text is not None and not _DATE.fullmatch(text)), None)
    if wrong is not None:
        raise DataError(
            f"Column '{column}' contained dates when the vocabulary was made, and now contains the text "
            f"{quoted(wrong)}, which does not have the form 2026-11-20. Provide the column as a date, "
            "or run nfm features and nfm train again."
        )


def _format_each(values: Any, format_value: Callable[[Any], str | None]) -> pa.Array:
    return pa.array([None if value is None else format_value(value) for value in values], pa.large_string())


def _format_float(value: Any) -> str | None:
    if not math.isfinite(value):
        return None
    if abs(number := float(value)) < 2.0**64 and number.is_integer():
        return str(int(number))  # all digits, as in an integer column: 2⁶⁰ is not 1152921504606847000
    # NumPy writes the fewest digits that round-trip, so 0.1 is "0.1" in 32 and in 64 bits.
    return str(np.format_float_positional(value, trim="-"))


def _format_decimal(value: Decimal) -> str | None:
    if not value.is_finite():
        return None
    text = format(value, "f")  # normalize() would round to 28 digits
    return (text.rstrip("0").rstrip(".") if "." in text else text) if value else "0"


def _normalize_number(text: str) -> str | None:
    if _NUMBER.fullmatch(text):
        return _format_decimal(Decimal(text.strip()))
    return None if text.strip().lower().lstrip("+-") in _NOT_A_NUMBER else text


def to_floats(values: pa.Array, column: str) -> NDArray[np.float64]:
    """Convert a numeric column to (N,) float64; NaN where the value is missing (null, NaN, ±inf, blank text).

    Raises DataError, with an example, for a text that is not a number or a type that is not numeric.
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
        floats = np.where(null_mask(values), np.nan, to_numpy(values).astype(np.float64))
    return np.where(np.isfinite(floats), floats, np.nan)


def check_number(column: str, type_: pa.DataType, where: str) -> None:
    """Raise DataError unless the type contains numbers, or texts that may be numbers."""
    if kind_of(type_) in (None, "date"):
        raise DataError(
            f"Column '{column}' of {where} is {type_}: a numeric column takes integers, floats, decimals, booleans or "
            "texts that are numbers. Cast it in the source, or remove it from columns.numeric."
        )


def _parse(values: pa.Array, column: str) -> NDArray[np.float64]:
    encoded = encode_dictionary(values)
    parsed: NDArray[np.float64] = np.full(len(encoded.dictionary) + 1, np.nan)
    for i, text in enumerate(encoded.dictionary.to_pylist()):
        if text is None or not text.strip():
            continue
        if not _NUMBER.fullmatch(text) and text.strip().lower().lstrip("+-") not in _NOT_A_NUMBER:
            raise DataError(
                f"Column '{column}' is numeric, but contains the text {quoted(text)}. {_advise(text, column)}Clean it "
                "in the source (source.where can leave such rows out), or move the column to columns.categorical."
            )
        parsed[i] = float(text)
    return parsed[dictionary_indices(encoded)]


def _advise(text: str, column: str) -> str:
    """Return a sentence that names the option for a text that many CSV files have in numeric columns."""
    if text.strip().lower() in _MEANS_MISSING:
        return f"If it means missing in a CSV file, set source.options.nullValue: {json.dumps(text)}. "
    types = f"source.types: {{{column}: 'decimal(18,6)'}}. "
    advice = f"If a CSV file has commas between thousands, set {types}" if _THOUSANDS.fullmatch(text) else ""
    locale = f"If a CSV file has decimal commas, set source.options.locale: de-DE and {types}"
    return advice + locale if _DECIMAL_COMMA.fullmatch(text) else advice


def dictionary_indices(encoded: pa.DictionaryArray) -> NDArray[np.int32]:
    """Return the (N,) positions of the values in the dictionary; D, the size of the dictionary, for a null."""
    # A dictionary of 128 values may have 8-bit indices, in which 128 does not fit.
    wide = encoded.indices.cast(pa.int32())
    return np.where(null_mask(wide), np.int32(len(encoded.dictionary)), to_numpy(wide))


def check_kind(column: str, type_: pa.DataType, where: str, bag: bool = False) -> Kind:
    """Return the kind of a categorical column or of a bag's members; DataError if the type is not categorical."""
    members = bag and is_list(type_)
    kind = kind_of(type_.value_type if members else type_)
    if kind is not None and (members or not bag or kind == "text"):
        return kind
    if bag:
        rule = (
            "a bag takes an array of text, numbers, booleans or dates, or a text with a delimiter between its members"
        )
        advice = "Cast it in the source, or remove bag: true."
    else:
        rule = "a categorical field takes text, integers, floats, decimals, booleans or dates"
        advice = "Cast it in the source, or remove it from columns.categorical."
        if is_list(type_):
            advice = f"Give the field bag: true, so that a row may have several values. {advice}"
    raise DataError(f"Column '{column}' of {where} is {type_}: {rule}. {advice}")


def check_weights(column: str, type_: pa.DataType, where: str) -> None:
    """Raise DataError unless the weights column of a bag contains arrays of numbers, or texts."""
    kind = kind_of(type_.value_type if is_list(type_) else type_)
    if kind != "text" and not (kind == "number" and is_list(type_)):
        raise DataError(
            f"Column '{column}' of {where} is {type_}: the weights of a bag are an array of numbers, or a text of "
            "numbers with the bag's delimiter between them. Cast it in the source."
        )


def check_same_values(column: str, trained: Kind, arrived: Kind, vocabulary: pa.Array | None, where: str) -> None:
    """Raise DataError if a column's kind changed since training so that the same value would get another id.

    `vocabulary`: the field's values (`large_string`); None for hashed fields and crosses, where it cannot be checked.
    """
    if arrived in (trained, "text"):
        return
    reason = f"the vocabulary was made from {trained} values"
    if vocabulary is None:
        reason = f"the ids were made from {trained} values"
    elif trained == "text":
        example = _find_non_canonical(vocabulary, arrived)
        if example is None:
            return
        reason = f"the vocabulary contains the text {quoted(example)}"
    raise DataError(
        f"Column '{column}' of {where} now contains {arrived} values, but {reason}, so the same value would get "
        f"another id. Provide the column as {trained}, or run nfm features and nfm train again."
    )


def check_digits(column: str, type_: pa.DataType, vocabulary: pa.Array, where: str) -> None:
    """Raise DataError if a column has floats, and the vocabulary integers that floats cannot represent.

    `vocabulary`: the field's values (`large_string`), made from numbers.
    """
    if not pa.types.is_floating(type_.value_type if is_list(type_) or pa.types.is_dictionary(type_) else type_):
        return
    for start in range(0, len(vocabulary), _SLICE):
        part = vocabulary.slice(start, _SLICE)
        long = part.filter(pc.greater(pc.binary_length(part), 15)).to_pylist()
        # A vocabulary of floats can contain whole numbers, too: the fewest distinguishing digits, then zeros.
        whole = (text for text in long if text.lstrip("-").isdigit())
        lost = next((text for text in whole if _format_float(float(text)) != text), None)
        if lost is not None:
            raise DataError(
                f"Column '{column}' of {where} now contains floats, but the vocabulary was made from integers such as "
                f"{lost}, which no float equals: from 2⁵³ on, several integers round to one float. Provide the column "
                "as integers or as text (pandas turns integers with nulls into floats; its type Int64 keeps them)."
            )


def _find_non_canonical(vocabulary: pa.Array, kind: Kind) -> str | None:
    """Return a text which shows that the vocabulary's values are not of this kind in canonical form.

    None if every text that can be parsed as this kind is canonical, and there is at least one such text (or no text).
    """
    found = not len(vocabulary)
    # In slices, so that a large vocabulary is never loaded completely.
    for start in range(0, len(vocabulary), _SLICE):
        for text in vocabulary.slice(start, _SLICE).to_pylist():
            canonical = _parse_as(text, kind)
            if canonical not in (None, text):
                return str(text)
            found = found or canonical == text
    return None if found else str(vocabulary[0].as_py())


def _parse_as(text: str, kind: Kind) -> str | None:
    """Return the canonical form of a text that is a value of this kind; None if it is not."""
    if kind == "number":
        return _normalize_number(text) if _NUMBER.fullmatch(text) else None
    if kind == "boolean":
        return _parse_boolean(text)
    return text if _DATE.fullmatch(text) else None


def _parse_boolean(text: str) -> str | None:
    return text.lower() if text.lower() in ("true", "false") else None
