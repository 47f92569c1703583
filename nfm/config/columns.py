"""Settings of the columns: fields and numbers.

In all settings, the text below a key is its description in the reference (`nfm.config.reference`).
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from nfm.config.time import TimeParts, TimeZone, add_inputs, check_read, list_derived
from nfm.contract.scaling import ScaleName
from nfm.contract.schema import PART_COLUMN, bin_name, flag_name, fraction_name, key_name, weights_name
from nfm.contract.times.derived import raw_columns

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


def _impute(value: Any) -> str | float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if value not in ("mean", "median"):
        raise ValueError(f"{value!r} given; allowed: 'mean', 'median' or a number")
    return str(value)


class Settings(BaseModel):
    """Base of all sections: refuses unknown keys and wrong types, converts nothing silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def changed(section: Settings) -> set[str]:
    """Return the keys whose value differs from the default."""
    fields = type(section).model_fields
    return {key for key in section.model_fields_set if getattr(section, key) != fields[key].default}


class Categorical(Settings):
    """A categorical field: its rows have ids of values."""

    column: str | None = None
    """Raw column to read; the field's own name unless set. One column can be read by several fields."""
    cross: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(default=None, examples=[["Sex", "Pclass"]])
    """Columns whose values are combined into one value, at least two."""
    min_count: Positive = 1
    """Values with fewer rows in the train fold are out-of-vocabulary."""
    max_size: Positive | None = Field(default=None, examples=[100_000])
    """Maximum number of values in the vocabulary; the most frequent are kept."""
    oov_buckets: Positive = 1
    """Number of ids that out-of-vocabulary values share; a hash of the value chooses the id."""
    hash_buckets: Positive | None = Field(default=None, examples=[100_000])
    """Use no vocabulary: the id of a value is a hash of it, one of this number of ids."""
    share_with: str | None = None
    """Another field. Both use one vocabulary, made of the values of both columns."""
    bag: bool = False
    """The column has several values per row: an array, or a string with a delimiter, such as `red,blue`."""
    weights: str | None = None
    """For a bag: column with the weights of its members, an array or a string with the same delimiter."""
    delimiter: Annotated[str, Field(min_length=1)] = ","
    """For a bag in a string column: separates the members."""
    max_length: Positive | None = Field(default=None, examples=[20])
    """For a bag: members after this position are ignored."""
    rates: bool = True
    """The model may use target rates of the values (`model.use.rates`)."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = changed(self)
        vocabulary = {"min_count", "max_size", "oov_buckets"}
        for key, excludes, reason in (
            ("cross", {"column", "bag", "share_with"}, "a cross is made of the columns it names"),
            ("hash_buckets", vocabulary | {"share_with"}, "a hashed field has no vocabulary"),
            ("share_with", vocabulary, "the vocabulary is the other field's, and its settings are there"),
        ):
            both = sorted(excludes & given)
            if getattr(self, key) is not None and both:
                raise ValueError(f"{reason}, so {key} and {', '.join(both)} cannot be combined: remove one")
        of_bags = sorted({"weights", "delimiter", "max_length"} & given)
        if of_bags and not self.bag:
            raise ValueError(f"{', '.join(of_bags)} is only for bags: add bag: true or remove it")
        return self

    def columns(self, name: str) -> tuple[str, ...]:
        """Return the raw columns of a field with this name."""
        return self.cross or (self.column or name,)


class Uncounted(Categorical):
    """A field that uses another field's vocabulary, to which its own values do not contribute."""


class Numeric(Settings):
    """A number: one float, or with `buckets` a categorical field."""

    column: str | None = None
    """Raw column to read; the number's own name unless set. One column can be read under several names."""
    as_: Literal["dense", "field", "bins"] = Field(default="bins", alias="as")
    """`dense`: an input of the hidden layers beside the pooled vector, and of the linear part. `field`: a feature of
    the pooling with x = value. `bins`: dense, and also a feature whose embedding is interpolated between the edges of
    bins."""
    bins: Annotated[int, Field(ge=2, le=255)] = 32
    """For `as: bins`: maximum number of edges, from the smallest to the largest number of the train fold."""
    impute: Annotated[str | float, PlainValidator(_impute)] = Field(default="mean", examples=["median", 0])
    """Replaces a missing number before scaling: `mean` or `median` of the train fold, or a fixed number."""
    missing_flag: bool = False
    """Add a second number, NAME_missing, that is 1 where this one is missing."""
    scale: ScaleName = "standard"
    """`standard`: (x - mean) / standard deviation. `minmax`: the train fold's range becomes 0 … 1. `log1p`:
    sign(x) log(1 + |x|). `none`: unchanged."""
    clip: tuple[Fraction, Annotated[float, Field(gt=0, le=1)]] | None = Field(default=None, examples=[[0.001, 0.999]])
    """Two quantiles of the train fold. Numbers outside this range are set to its limits, before imputing and
    scaling."""
    buckets: Annotated[int, Field(ge=2)] | None = Field(default=None, examples=[8])
    """Make a categorical field from quantile buckets of the train fold. Excludes `as`, `bins`, `impute`,
    `missing_flag`, `scale` and `clip`."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError("clip takes two quantiles, the lower one first")
        if "bins" in changed(self) and self.as_ != "bins":
            raise ValueError(f"bins is only for as: bins, but it is {self.as_}: remove it, or set as: bins")
        if self.buckets is not None:
            others = {"as_", "bins", "impute", "missing_flag", "scale", "clip"} & self.model_fields_set
            if others:
                names = ", ".join(sorted(name.rstrip("_") for name in others))
                raise ValueError(
                    f"buckets makes a categorical field, so {names} cannot apply: remove {names} or buckets"
                )
        return self

    @property
    def is_binned(self) -> bool:
        """True if the number has interpolated bins."""
        return self.as_ == "bins" and self.buckets is None


def fill_defaults(data: Any) -> Any:
    """Return the content of a section in which `Pclass:` with nothing behind it means the defaults: `Pclass: {}`."""
    if isinstance(data, dict):
        for name in ("categorical", "numeric"):
            if isinstance(data.get(name), dict):
                data = {**data, name: {k: {} if v is None else v for k, v in data[name].items()}}
    return data


DATASET_COLUMNS = ("label", "weight", "fold", PART_COLUMN)  # reserved names of the dataset


class Columns(Settings):
    """The roles of the table's columns."""

    key: Annotated[tuple[str, ...], Field(min_length=1, examples=[["PassengerId"]])]
    """Columns that identify a row; copied to every output."""
    label: str | None = Field(default=None, examples=["Survived"])
    """Required, except for ranking. Column that the model learns to predict. Binary: 0 and 1, or false and true;
    regression: a number; multiclass: a text, a number, a boolean or a date. The score job does not read it."""
    weight: str | None = None
    """Column of sample weights, ≥ 0."""
    categorical: dict[str, Categorical] = Field(default={}, examples=["Cabin"])
    """Fields by name; `name: {}` has the defaults. The column is a string, a number, a boolean
    or a date, or for a bag an array."""
    numeric: dict[str, Numeric] = Field(default={}, examples=["Age"])
    """Numbers by name, with the same rule for defaults."""
    time: dict[str, TimeParts] = Field(default={}, examples=[{"pickup": ["hour", "weekday", {"age": "booked_at"}]}])
    """What is derived from columns of dates, timestamps or ISO 8601 texts: `pickup: [hour]` adds the field
    `pickup_hour`. `hour`, `weekday` (1 is Monday) and `month` are fields; `day` (of the month), `year` and `age` are
    numbers. `{age: booked_at}` is the number of days since `booked_at` in the same row; `age` alone counts from the
    column of `split.time`. The derived columns can have settings below categorical or numeric."""
    time_zone: TimeZone = Field(default=None, examples=["Europe/Berlin"])
    """Zone in which `time` reads times with a zone; by default that of the Spark session of the feature job. The
    encoding stores it, and scoring uses it. Times without a zone are taken as they are."""

    @model_validator(mode="before")
    @classmethod
    def _empty_settings(cls, data: Any) -> Any:
        return add_inputs(fill_defaults(data))

    @model_validator(mode="after")
    def _names(self) -> Self:
        if not self.categorical and all(s.buckets is None and s.as_ == "dense" for s in self.numeric.values()):
            raise ValueError(
                "no feature enters the pooling: add a column under categorical, or a number with buckets, as: field or "
                "as: bins"
            )
        if repeated := sorted(self.categorical.keys() & self.numeric.keys()):
            raise ValueError(
                f"{', '.join(map(repr, repeated))} is in both categorical and numeric: remove one, or rename one and "
                "set its raw column with `column:`"
            )
        taken = set(DATASET_COLUMNS)
        for name in self.outputs:
            if name.lower() in taken:
                raise ValueError(
                    f"two columns of the dataset would be named {name!r} ({', '.join(DATASET_COLUMNS)} are reserved): "
                    "rename the field and set its raw column with `column:`"
                )
            taken.add(name.lower())
        check_read(list_derived(self.time), self._read)
        if self.time_zone is not None and not self.time:
            raise ValueError("time_zone is only for columns.time: add time, or remove time_zone")
        if self.label is not None and self.label in self.inputs:
            raise ValueError(
                f"the label {self.label!r} is also an input, so the model would see the answer: "
                "remove it from the inputs"
            )
        return self

    @model_validator(mode="after")
    def _shared(self) -> Self:
        for name, settings in self.categorical.items():
            other = settings.share_with
            if other is None:
                continue
            owner = self.categorical.get(other)
            if owner is None or other == name:
                raise ValueError(
                    f"categorical.{name}.share_with: {other!r} given, which is not another categorical field"
                )
            if owner.share_with or owner.hash_buckets or owner.cross:
                raise ValueError(
                    f"categorical.{name}.share_with: {other!r} has no vocabulary of its own to share "
                    "(it is hashed, a cross, or shares another field's)"
                )
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """Columns of the dataset that are fields and numbers."""
        bags = (weights_name(n) for n, s in self.categorical.items() if s.bag)
        flags = (flag_name(n) for n, s in self.numeric.items() if s.missing_flag)
        bins = (make(n) for n, s in self.numeric.items() if s.is_binned for make in (bin_name, fraction_name))
        return (*self.categorical, *bags, *self.numeric, *flags, *bins)

    def key_names(self, folders: tuple[str, ...] = ()) -> dict[str, str]:
        """Return the raw key columns by their names in the dataset: key_NAME where a field or a folder has the name."""
        taken = {name.lower() for name in (*self.outputs, *folders, *DATASET_COLUMNS)}
        names = {name: key_name(name, taken) for name in self.key}
        for name, made in names.items():
            if made.lower() in taken or [other.lower() for other in names.values()].count(made.lower()) > 1:
                raise ValueError(
                    f"key: the key column {name!r} would be named {made!r} in the dataset, like another column: rename "
                    "the field of that name and set its raw column with `column:`"
                )
        return {made: name for name, made in names.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Raw columns that fields and numbers read, or are derived from, each once."""
        return raw_columns(self._read, list_derived(self.time))

    @property
    def _read(self) -> list[str]:
        categorical = [
            c for n, s in self.categorical.items() for c in (*s.columns(n), *([s.weights] if s.weights else []))
        ]
        return categorical + [s.column or n for n, s in self.numeric.items()]
