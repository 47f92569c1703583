"""Facts about one column of the sample: its kind, its missing values, how often values repeat."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.messages import quoted
from nfm.contract.reading import MORE_THAN_A_NUMBER
from nfm.contract.values import decode_dictionary, is_list, kind_of, to_floats

Kind = Literal["integer", "float", "text", "boolean", "time", "list", "other"]
INTEGER: Kind = "integer"
FLOAT: Kind = "float"
_CLOCK = r"T?\d{1,2}:\d{1,2}(:\d{1,2}(\.\d*)?)?( ?[AaPp][Mm])?"
_DAY = (
    r"\d{4}-\d{1,2}(-\d{1,2})?|\d{1,4}/\d{1,2}/\d{2,4}|\d{1,2}\.\d{1,2}\.\d{4}|\d{1,2}-\d{1,2}-\d{4}|"
    r"\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4}|[A-Za-z]{3,9} \d{1,2},? \d{4}"
)
# A column has the first kind that all its texts match. Each text that Spark reads as a timestamp must match "time".
_PATTERNS: tuple[tuple[Kind, str], ...] = (
    ("integer", r"^\s*[+-]?\d+\s*$"),
    ("float", r"^\s*([+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?|(?i:[+-]?(nan|inf|infinity)))\s*$"),
    ("boolean", r"^(?i:true|false)$"),
    ("time", rf"^({_DAY}|{_CLOCK}|({_DAY})[ T]+{_CLOCK}( ?(Z|UTC|[+-]\d\d:?\d\d))?)$"),
)
_SYMBOL = r"^[€$£¥]?\s?[+-]?\d{1,3}([.,' ]?\d{3})*([.,]\d+)?\s?[€$£¥%]?$"
_ID = re.compile(
    r"(^|[_ .-])(id|ids|uuid|guid|key|code|zip|zipcode|postcode|plz|sku|isbn|number|no|num|nr)$|"
    r"[a-z](Id|ID|Code|Key|UUID)$"
)
_ROW = re.compile(
    r"^(id|index|idx|row|rows?_?names?|row_?(id|no|num|number|index)?|uuid|guid|_c\d+|unnamed.*|__index_level_\d+__)$"
)


def infer_kind(texts: pa.Array) -> Kind:
    """Return the first kind that all texts of an array or column match; "text" if there is none."""
    distinct = pc.unique(texts).drop_null()
    for kind, pattern in _PATTERNS:
        # The first 100 texts rule out most kinds quickly.
        if len(distinct) and all(
            pc.all(pc.match_substring_regex(some, pattern)).as_py() for some in (distinct[:100], distinct)
        ):
            return kind
    return "text"


@dataclass(frozen=True)
class Column:
    """A column of the sample."""

    name: str
    values: pa.Array  # (N,) without dictionary encoding; null instead of NaN
    kind: Kind
    reads_as_text: bool  # Spark reads the column as text, even if it contains numbers

    @property
    def rows(self) -> int:
        """Number of rows in the sample."""
        return len(self.values)

    @property
    def filled(self) -> int:
        """Number of rows with a value."""
        return len(self.values) - int(self.values.null_count)

    @cached_property
    def encoded(self) -> pa.DictionaryArray:
        """Dictionary-encoded values; lists and other values as text."""
        if self.kind == "other" or self.kind == "list":
            return pa.array([None if v is None else str(v) for v in self.values.to_pylist()]).dictionary_encode()
        return self.values.dictionary_encode()

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(N,) index of each row's value in the dictionary; -1 if the value is missing."""
        codes: NDArray[np.int64] = (
            pc.fill_null(self.encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        return codes

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return len(self.encoded.dictionary)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows with each value, in the order of the dictionary."""
        return np.bincount(self.codes[self.codes >= 0], minlength=self.distinct)

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """(N,) values of integers, floats or booleans as numbers; NaN if missing."""
        values = self.values
        if self.kind == "boolean" and not pa.types.is_boolean(values.type):
            values = pc.cast(pc.utf8_lower(values), pa.bool_())
        return to_floats(values, self.name)

    @property
    def has_nan(self) -> bool:
        """Return whether a missing number may be NaN rather than null."""
        if not self.is_number:
            return False
        return bool(pa.types.is_floating(self.values.type) or np.isnan(self.numbers).sum() > self.values.null_count)

    @property
    def is_number(self) -> bool:
        """Return whether the column contains integers or floats."""
        return self.kind in ("integer", "float")

    @property
    def is_unique(self) -> bool:
        """Return whether every row has a different value."""
        return 0 < self.rows == self.distinct

    @property
    def is_nearly_unique(self) -> bool:
        """Return whether more than 20 values, and over 90 % of them, are different."""
        return self.distinct > 0.9 * self.filled and self.distinct > 20

    @property
    def has_row_name(self) -> bool:
        """Return whether the name is common for row numbers: id, index, row names."""
        return bool(_ROW.search(self.name.lower()))

    @property
    def has_id_name(self) -> bool:
        """Return whether the name is common for ids or codes: user_id, zip."""
        return self.has_row_name or bool(_ID.search(self.name)) or bool(_ID.search(self.name.lower()))

    @cached_property
    def has_leading_zeros(self) -> bool:
        """Return whether texts of digits begin with 0, such as the zip code 01007."""
        return self._any_text_matches(r"^0\d+$") if self.kind == INTEGER else False

    @cached_property
    def has_symbol(self) -> bool:
        """Return whether nearly all texts are numbers with a currency, a percent sign or separators, such as €1,200."""
        if self.kind != "text" or self.distinct < 10:
            return False
        return bool(pc.mean(pc.match_substring_regex(self.encoded.dictionary, _SYMBOL)).as_py() > 0.9)

    def _any_text_matches(self, pattern: str) -> bool:
        texts = self.encoded.dictionary
        return pa.types.is_string(texts.type) and bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())

    @cached_property
    def words(self) -> float:
        """Average number of words in a text."""
        if self.kind != "text" or not self.filled:
            return 1.0
        return float(pc.mean(pc.count_substring_regex(self.encoded.dictionary, r"\S+")).as_py())

    def examples(self, most: int = 3) -> str:
        """Return the most frequent values as text."""
        places = np.argsort(-self.counts, kind="stable")[:most]
        texts = [_short(self.encoded.dictionary[int(i)].as_py()) for i in places]
        return ", ".join(texts) + (", …" if self.distinct > most else "")

    @property
    def summary(self) -> str:
        """Type, values and missing share in a few words."""
        zeros = self.has_leading_zeros
        text = f"{'digits with leading zeros' if zeros else self.kind}, {self.distinct:,} values "
        if self.is_number and self.distinct > 3 and not zeros:
            text += f"from {np.nanmin(self.numbers):.6g} to {np.nanmax(self.numbers):.6g}"
        else:
            text += f"({self.examples()})"
        missing = 1 - self.filled / self.rows
        text += f", {max(missing, 0.001):.1%} missing" if missing else ""
        return text + ("; numbers with a symbol: convert them in the source to use a number" if self.has_symbol else "")


def _short(value: object) -> str:
    text = quoted(value) if isinstance(value, str) and re.search(r"\s|^$", value) else str(value)
    return " ".join(text.split()) if len(text) <= 24 else f"{' '.join(text[:23].split())}…"


def inspect_column(name: str, values: pa.ChunkedArray, is_csv: bool = False) -> Column:
    """Return a column's facts. Of a CSV file, `values` are texts, from which the jobs infer the column's type."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    array = decode_dictionary(pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array)
    type_ = array.type
    stored = kind_of(type_)
    kind: Kind = "other"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        kind = "time"
    elif is_list(type_) and kind_of(type_.value_type) is not None:
        kind = "list"
    elif stored == "text":
        array = array.cast(pa.string())
        kind = infer_kind(array)
    elif stored == "boolean":
        kind = "boolean"
    elif stored == "number":
        kind = "integer" if pa.types.is_integer(type_) else "float"
        if pa.types.is_floating(type_):
            array = pc.if_else(pc.is_finite(array), array, None)
    as_text = stored == "text" and (not is_csv or kind == "text")
    if is_csv and kind in ("integer", "float"):
        as_text = bool(pc.any(pc.match_substring_regex(array, MORE_THAN_A_NUMBER)).as_py())
    if kind == "float":
        numbers = Column(name, array, kind, as_text).numbers
        finite = numbers[np.isfinite(numbers)]
        if len(finite) and (finite == np.round(finite)).all() and np.abs(finite).max() < 2**53:
            kind = "integer"  # written as 1.0, or stored as floats because some are missing
    return Column(name, array, kind, as_text)
