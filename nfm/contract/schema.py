"""Specification of an encoding: which columns become which ids and numbers, and its fingerprint.

Ids of a field: 0 missing, 1 … B out-of-vocabulary (B = `oov_buckets`), then the vocabulary by (count descending,
value ascending), then the values that later growth appended. A hashed field has only buckets and no vocabulary. All
fields share one embedding table: a field's block of rows starts at its offset. The blocks of the numbers with bins
follow: row 0 for missing numbers, then one row for each edge. Each number that enters the pooling has one row at the
end.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

from nfm.contract.errors import DataError
from nfm.contract.scaling import CurveName
from nfm.contract.times.derived import Derived, raw_columns

SPEC_FORMAT = 3
MISSING = 0
RATE_PARTS = 5  # parts of the train fold: a row's target rates do not contain the labels of its own part
PART_COLUMN = "rate_part"  # column of the dataset with the number of the part
FOLDS = ("train", "valid", "test")
DATASET_MARKER = "_dataset.json"  # names the encoding of the rows in dataset/

Kind = Literal["text", "number", "boolean", "date"]
Placement = Literal["dense", "field"]


@dataclass(frozen=True)
class Bag:
    """Storage of a bag in its column: an array, or a text with a delimiter between its members."""

    weights: str | None  # column with the weight x of each member; None: all weights are 1
    delimiter: str
    max_length: int | None  # further members are ignored


@dataclass(frozen=True)
class Field:
    """A categorical field: a block of `size` rows in the embedding table."""

    name: str
    columns: tuple[str, ...]  # the raw column, or all columns of a cross
    kinds: tuple[Kind, ...]  # kind of each column when the vocabulary was made
    oov_buckets: int  # for a hashed field: all its buckets
    values: int  # size of the vocabulary, or number of buckets of a bucketed number
    vocabulary: str | None  # name of the field whose vocabulary is used, often its own; None: no vocabulary
    edges: tuple[float, ...] | None = None  # inner edges of a bucketed number, ascending
    bag: Bag | None = None
    rates: bool = True  # its values may have target rates

    @property
    def hashed(self) -> bool:
        """True if ids are hashes of values, without a vocabulary."""
        return self.vocabulary is None and self.edges is None

    @property
    def first_value(self) -> int:
        """Id of the most frequent value."""
        return 1 + self.oov_buckets

    @property
    def size(self) -> int:
        """Number of ids: missing, out-of-vocabulary buckets, values."""
        return self.first_value + self.values

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the field's dataset columns: ids, and a bag's weights."""
        return (self.name,) if self.bag is None else (self.name, weights_name(self.name))


@dataclass(frozen=True)
class Number:
    """Numeric column with its transformation: clip, impute, then (curve(x) - shift) / divisor."""

    name: str
    column: str
    placement: Placement
    impute: float
    missing_flag: bool
    clip: tuple[float, float] | None
    curve: CurveName
    shift: float
    divisor: float
    edges: tuple[float, ...] | None = None  # of interpolated bins, ascending; None: the number has no bins

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the number's float columns in the dataset: the number, and its missing flag."""
        return (self.name, flag_name(self.name)) if self.missing_flag else (self.name,)


def key_name(name: str, taken: Collection[str]) -> str:
    """Return the name of a key column in the dataset; `taken`: the other columns of the dataset, in lower case."""
    return f"key_{name}" if name.lower() in taken else name


def flag_name(number: str) -> str:
    """Return the name of the column that is 1.0 where a number is missing."""
    return f"{number}_missing"


def bin_name(number: str) -> str:
    """Return the name of the column with the number of the edge at or below a number, from 1; 0 if it is missing."""
    return f"{number}_bin"


def fraction_name(number: str) -> str:
    """Return the name of the column with the position between that edge and the next one, 0 ≤ t < 1."""
    return f"{number}_fraction"


def weights_name(bag: str) -> str:
    """Return the name of the column with the weights of a bag's members."""
    return f"{bag}_weights"


@dataclass(frozen=True)
class Spec:
    """Everything except the vocabulary's values that turns a raw row into ids and numbers."""

    key: tuple[str, ...]
    fields: tuple[Field, ...]
    numbers: tuple[Number, ...]
    digests: tuple[str, ...]  # SHA-256 of each of `vocabularies`, over its values in the order of their ids
    negative_rate: float = 1.0  # share of the train fold's negatives that was kept
    ancestors: tuple[str, ...] = ()  # fingerprints of the encodings this one grew from, the nearest first
    classes: tuple[str, ...] = ()  # multiclass: canonical text of each class, by its number in the dataset
    derived: tuple[Derived, ...] = ()  # columns that fields and numbers read, and the raw table does not have
    item_inputs: tuple[str, ...] = ()  # ranking: fields and numbers of the item; all others are of the user's side
    # Not part of the fingerprint: whether a model uses the interpolated bins, and whether the dataset has PART_COLUMN.
    uses_bins: bool = True
    has_parts: bool = False

    @cached_property
    def vocabularies(self) -> dict[str, int]:
        """Sizes of the vocabularies, by the name of the field that each was made for."""
        return {field.vocabulary: field.values for field in self.fields if field.vocabulary is not None}

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each field's block in the embedding table."""
        starts = [0]
        for field in self.fields:
            starts.append(starts[-1] + field.size)
        return tuple(starts[:-1])

    @cached_property
    def field_numbers(self) -> tuple[str, ...]:
        """Dataset columns of the numbers that enter the pooling as features (x_i = value)."""
        return tuple(out for n in self.numbers if n.placement == "field" for out in n.outputs)

    @cached_property
    def dense(self) -> tuple[str, ...]:
        """Dataset columns of the numbers that are concatenated to the pooled vector."""
        return tuple(out for n in self.numbers if n.placement == "dense" for out in n.outputs)

    @cached_property
    def binned(self) -> tuple[Number, ...]:
        """Numbers with interpolated bins that are used."""
        return tuple(number for number in self.numbers if self.uses_bins and number.edges is not None)

    @cached_property
    def bin_offsets(self) -> tuple[int, ...]:
        """First row of the block of each number with bins, which is the row of missing numbers; then the end."""
        starts = [sum(field.size for field in self.fields)]
        for number in self.binned:
            starts.append(starts[-1] + 1 + len(number.edges or ()))
        return tuple(starts)

    @cached_property
    def rows(self) -> int:
        """Number of rows of the embedding table."""
        return self.bin_offsets[-1] + len(self.field_numbers)

    def rate_places(self, names: Collection[str]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the places of these fields for `kernels.rates.Rates`.

        Returns:
            For each plain field, its column among the plain fields and the first row of its block; for each bag, the
            first row of its block and the row after the last one.
        """
        blocks = list(zip(self.fields, self.offsets, strict=True))
        plain = [(field.name, offset) for field, offset in blocks if field.bag is None]
        columns = [(i, offset) for i, (name, offset) in enumerate(plain) if name in names]
        bags = [(offset, offset + field.size) for field, offset in blocks if field.bag and field.name in names]
        return columns, bags

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that the encoder reads, each once."""
        of_fields = [c for f in self.fields for c in (*f.columns, f.bag.weights if f.bag else None) if c]
        return raw_columns(of_fields + [n.column for n in self.numbers], self.derived)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the dataset's encoded columns, in order."""
        plain = tuple(name for inputs in (self.fields, self.numbers) for one in inputs for name in one.outputs)
        return plain + tuple(make_name(n.name) for make_name in (bin_name, fraction_name) for n in self.binned)

    @cached_property
    def numeric_columns(self) -> tuple[str, ...]:
        """Raw or derived columns that are read as numbers, each once."""
        bucketed = [field.columns[0] for field in self.fields if field.edges is not None]
        return tuple(dict.fromkeys([number.column for number in self.numbers] + bucketed))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the specification, including the vocabularies' digests."""
        return hashlib.sha256(canonical_json(self._stored()).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of spec.json."""
        return json.dumps({"format": SPEC_FORMAT, "fingerprint": self.fingerprint, **self._stored()}, indent=1)

    def _stored(self) -> dict[str, Any]:
        fields, numbers = map(_stored_field, self.fields), map(_stored_number, self.numbers)
        content = asdict(self) | {"fields": list(fields), "numbers": list(numbers)}
        del content["uses_bins"], content["has_parts"]
        for key in ("derived", "item_inputs"):
            if not content[key]:
                del content[key]
        return content

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Read spec.json; raise DataError for another format version, or a fingerprint that does not match."""
        try:
            content: dict[str, Any] = json.loads(text)
            written_format, fingerprint = content.pop("format"), content.pop("fingerprint")
            if written_format != SPEC_FORMAT:
                raise DataError(
                    f"{where} has format version {written_format}; this version of nfm reads {SPEC_FORMAT}. "
                    "Run nfm features and nfm train again with this version."
                )
            spec = cls(
                key=tuple(content["key"]),
                fields=tuple(Field(**tuples(f) | {"bag": f["bag"] and Bag(**f["bag"])}) for f in content["fields"]),
                numbers=tuple(_read_number(number) for number in content["numbers"]),
                digests=tuple(content["digests"]),
                negative_rate=content["negative_rate"],
                ancestors=tuple(content["ancestors"]),
                classes=tuple(content["classes"]),
                derived=tuple(Derived(**tuples(one)) for one in content.get("derived", ())),
                item_inputs=tuple(content.get("item_inputs", ())),
            )
            found = spec.fingerprint
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is not a specification that this version of nfm can read ({error!r}). "
                "Restore it or run the feature job again."
            ) from error
        if found != fingerprint:
            raise DataError(
                f"{where} records the fingerprint {str(fingerprint)[:12]}…, but its content has {found[:12]}…: "
                "it was changed after it was written. Restore it or run the feature job again."
            )
        return spec


# Specifications that do not need newer keys have the content, and so the fingerprint, of older versions.


def _stored_field(field: Field) -> dict[str, Any]:
    content = asdict(field)
    if field.rates:
        del content["rates"]
    return content


def _stored_number(number: Number) -> dict[str, Any]:
    """Return a number's content in spec.json: `log1p` is a boolean key, further curves have the key `curve`."""
    content = asdict(number)
    curve = content.pop("curve")
    if number.edges is None:
        del content["edges"]
    return content | {"log1p": curve == "log1p"} | ({} if curve in ("none", "log1p") else {"curve": curve})


def _read_number(content: Mapping[str, Any]) -> Number:
    rest = {key: value for key, value in content.items() if key not in ("log1p", "curve")}
    return Number(**tuples(rest), curve=content.get("curve", "log1p" if content["log1p"] else "none"))


def canonical_json(content: object) -> str:
    """Return the same text for the same content: sorted keys, no white space; floats round-trip."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same content with tuples in place of JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
