"""The encoding's specification: which columns become which ids and numbers, and its fingerprint.

Ids of a field: 0 missing, 1 … B out-of-vocabulary (B = `oov_buckets`), then the vocabulary by (count descending,
value ascending), then what it grew by. A hashed field is all buckets and has no vocabulary. All fields share one table
of embeddings: a field's block of rows starts at its offset, and each number that enters the pooling has one row behind
the blocks.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

from nfm.contract.errors import DataError
from nfm.contract.scaling import CurveName

SPEC_FORMAT = 3
MISSING = 0
FOLDS = ("train", "valid", "test")
DATASET_MARKER = "_dataset.json"  # says which encoding the rows of dataset/ were written with

Kind = Literal["text", "number", "boolean", "date"]
Placement = Literal["dense", "field"]


@dataclass(frozen=True)
class Bag:
    """How a bag of values is stored in its column: an array, or a text with a delimiter between its members."""

    weights: str | None  # column of x, one for each member; 1 where there is none
    delimiter: str
    max_length: int | None  # members behind it are left out


@dataclass(frozen=True)
class Field:
    """A categorical field: a block of `size` rows in the embedding table."""

    name: str
    columns: tuple[str, ...]  # the raw column; the crossed ones of a cross
    kinds: tuple[Kind, ...]  # what each held when the vocabulary was made
    oov_buckets: int  # of a hashed field: all its buckets
    values: int  # size of the vocabulary, or the number of buckets of a number
    vocabulary: str | None  # whose vocabulary it reads: its own name, or another field's; None: it has none
    edges: tuple[float, ...] | None = None  # a bucketed number: its inner edges, ascending
    bag: Bag | None = None

    @property
    def hashed(self) -> bool:
        """Each value's id is its hash: there is no vocabulary."""
        return self.vocabulary is None and self.edges is None

    @property
    def first_value(self) -> int:
        """The id of the most frequent value."""
        return 1 + self.oov_buckets

    @property
    def size(self) -> int:
        """Ids of this field: missing, out-of-vocabulary buckets, values."""
        return self.first_value + self.values

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its columns in the dataset: ids, and a bag's weights."""
        return (self.name,) if self.bag is None else (self.name, weights_name(self.name))


@dataclass(frozen=True)
class Number:
    """A numeric column and its transformation: clip, impute, then (curve(x) - shift) / divisor."""

    name: str
    column: str
    placement: Placement
    impute: float
    missing_flag: bool
    clip: tuple[float, float] | None
    curve: CurveName
    shift: float
    divisor: float

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its columns in the dataset."""
        return (self.name, flag_name(self.name)) if self.missing_flag else (self.name,)


def flag_name(number: str) -> str:
    """Name of the column that is 1.0 where a number is missing."""
    return f"{number}_missing"


def weights_name(bag: str) -> str:
    """Name of the column with the weights of a bag's members."""
    return f"{bag}_weights"


@dataclass(frozen=True)
class Spec:
    """Everything except the vocabulary's values that turns a raw row into ids and numbers."""

    key: tuple[str, ...]
    fields: tuple[Field, ...]
    numbers: tuple[Number, ...]
    digests: tuple[str, ...]  # of `vocabularies`, in their order: SHA-256 over the values in the order of their ids
    negative_rate: float = 1.0  # share of the train fold's negatives that was kept
    ancestors: tuple[str, ...] = ()  # fingerprints of the encodings this one grew from, the nearest first
    classes: tuple[str, ...] = ()  # of a multiclass label: the canonical texts, by the number that stands for each

    @cached_property
    def vocabularies(self) -> dict[str, int]:
        """Size of each vocabulary, by the name of the field it was made for."""
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
        """Number columns that enter the pooling as features (x_i = value)."""
        return tuple(out for n in self.numbers if n.placement == "field" for out in n.outputs)

    @cached_property
    def dense(self) -> tuple[str, ...]:
        """Number columns that are concatenated to the pooled vector."""
        return tuple(out for n in self.numbers if n.placement == "dense" for out in n.outputs)

    @cached_property
    def rows(self) -> int:
        """Rows of the embedding table."""
        return sum(field.size for field in self.fields) + len(self.field_numbers)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that the encoder reads, each once."""
        of_fields = [c for f in self.fields for c in (*f.columns, f.bag.weights if f.bag else None) if c]
        return tuple(dict.fromkeys(of_fields + [n.column for n in self.numbers]))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the dataset's encoded columns, in order."""
        return tuple(name for part in (self.fields, self.numbers) for one in part for name in one.outputs)

    @cached_property
    def numeric_columns(self) -> tuple[str, ...]:
        """Raw columns that are read as numbers, each once."""
        bucketed = [field.columns[0] for field in self.fields if field.edges is not None]
        return tuple(dict.fromkeys([number.column for number in self.numbers] + bucketed))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the specification, the vocabulary's digest included."""
        return hashlib.sha256(canonical_json(self._stored()).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of spec.json."""
        return json.dumps({"format": SPEC_FORMAT, "fingerprint": self.fingerprint, **self._stored()}, indent=1)

    def _stored(self) -> dict[str, Any]:
        return asdict(self) | {"numbers": [_stored_number(number) for number in self.numbers]}

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """Read spec.json; raise DataError for another format version, or a fingerprint that does not match."""
        try:
            content: dict[str, Any] = json.loads(text)
            written_format, fingerprint = content.pop("format"), content.pop("fingerprint")
            if written_format != SPEC_FORMAT:
                raise DataError(
                    f"{where} has format version {written_format}; this version of nfm reads {SPEC_FORMAT}. "
                    "Run the features job and the training again with this version."
                )
            spec = cls(
                key=tuple(content["key"]),
                fields=tuple(Field(**tuples(f) | {"bag": f["bag"] and Bag(**f["bag"])}) for f in content["fields"]),
                numbers=tuple(_read_number(number) for number in content["numbers"]),
                digests=tuple(content["digests"]),
                negative_rate=content["negative_rate"],
                ancestors=tuple(content["ancestors"]),
                classes=tuple(content["classes"]),
            )
            found = spec.fingerprint
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} is not a specification that this version of nfm can read ({error!r}). "
                "Restore it or run the features job again."
            ) from error
        if found != fingerprint:
            raise DataError(
                f"{where} says its fingerprint is {str(fingerprint)[:12]}…, but its content has {found[:12]}…: "
                "it was changed after it was written. Restore it or run the features job again."
            )
        return spec


def _stored_number(number: Number) -> dict[str, Any]:
    """Return a number as spec.json has it: curves other than `log1p` have a key of their own."""
    content = asdict(number)
    curve = content.pop("curve")
    return content | {"log1p": curve == "log1p"} | ({} if curve in ("none", "log1p") else {"curve": curve})


def _read_number(content: Mapping[str, Any]) -> Number:
    rest = {key: value for key, value in content.items() if key not in ("log1p", "curve")}
    return Number(**tuples(rest), curve=content.get("curve", "log1p" if content["log1p"] else "none"))


def canonical_json(content: object) -> str:
    """The same text for the same content: sorted keys, no white space; floats round-trip."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same content with tuples for JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
