"""Settings of the columns: fields and numbers. All others are in `settings`."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from nfm.contract.scaling import ScaleName
from nfm.contract.schema import flag_name, weights_name

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


def _impute(value: Any) -> str | float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if value not in ("mean", "median"):
        raise ValueError(f"{value!r} given; allowed: 'mean', 'median' or a number")
    return str(value)


class Settings(BaseModel):
    """A section: unknown keys and wrong types are refused, nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def changed(section: Settings) -> set[str]:
    """Keys that are set to a value other than their default."""
    fields = type(section).model_fields
    return {key for key in section.model_fields_set if getattr(section, key) != fields[key].default}


class Categorical(Settings):
    """A categorical column → a field of ids."""

    column: str | None = None  # the raw column; the field's own name unless set
    cross: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # columns whose values together are one value
    min_count: Positive = 1  # values seen less often in the train fold are out-of-vocabulary
    max_size: Positive | None = None  # keep at most so many values, the most frequent ones
    oov_buckets: Positive = 1  # out-of-vocabulary values are spread over so many ids by hash
    hash_buckets: Positive | None = None  # no vocabulary: every value's id is its hash, one of so many
    share_with: str | None = None  # another field, whose vocabulary is made of both columns' values
    bag: bool = False  # several values a row: an array, or a text whose members `delimiter` parts
    weights: str | None = None  # of a bag: the column of its members' weights, an array or a text like it
    delimiter: Annotated[str, Field(min_length=1)] = ","
    max_length: Positive | None = None  # of a bag: members behind it are left out

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = changed(self)
        vocabulary = {"min_count", "max_size", "oov_buckets"}
        for key, excludes, reason in (
            ("cross", {"column", "bag", "share_with"}, "a cross is made of the columns it names"),
            ("hash_buckets", vocabulary | {"share_with"}, "a hashed field has no vocabulary"),
            ("share_with", vocabulary, "the vocabulary is the other field's, and is set up there"),
        ):
            both = sorted(excludes & given)
            if getattr(self, key) is not None and both:
                raise ValueError(f"{reason}, so {key} and {', '.join(both)} cannot stand together: leave out one side")
        of_bags = sorted({"weights", "delimiter", "max_length"} & given)
        if of_bags and not self.bag:
            raise ValueError(f"{', '.join(of_bags)} is for bags: add bag: true, or leave it out")
        return self

    def columns(self, name: str) -> tuple[str, ...]:
        """The raw columns of the field of this name."""
        return self.cross or (self.column or name,)


class Numeric(Settings):
    """A numeric column → one float, or with `buckets` a field of ids."""

    column: str | None = None  # the raw column; the number's own name unless set
    # dense: beside the pooled vector, into the MLP and the linear part. field: a feature with x = value in the pooling
    as_: Literal["dense", "field"] = Field("dense", alias="as")
    impute: Annotated[str | float, PlainValidator(_impute)] = "mean"  # replaces a missing number, before scaling
    missing_flag: bool = False  # one more number: 1 where this one is missing
    # standard: (x - mean) / std; minmax: to 0 … 1 of the train fold; log1p: sign(x) log(1 + |x|); none: as it is
    scale: ScaleName = "standard"
    clip: tuple[Fraction, Annotated[float, Field(gt=0, le=1)]] | None = None  # quantiles of the train fold
    buckets: Annotated[int, Field(ge=2)] | None = None  # quantile buckets of the train fold → a categorical field

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clip and self.clip[0] >= self.clip[1]:
            raise ValueError("clip takes two quantiles, the lower one first")
        if self.buckets is not None:
            others = {"as_", "impute", "missing_flag", "scale", "clip"} & self.model_fields_set
            if others:
                names = ", ".join(sorted(name.rstrip("_") for name in others))
                raise ValueError(f"buckets makes a categorical field, to which {names} cannot apply: leave it out")
        return self


DATASET_COLUMNS = ("label", "weight", "fold")  # that the dataset has anyway


class Columns(Settings):
    """The roles of the table's columns."""

    key: Annotated[tuple[str, ...], Field(min_length=1)]  # carried into every output
    label: str  # what the model learns; the score job does not read it
    weight: str | None = None  # sample weight, ≥ 0
    categorical: dict[str, Categorical] = {}
    numeric: dict[str, Numeric] = {}

    @model_validator(mode="before")
    @classmethod
    def _empty_settings(cls, data: Any) -> Any:
        # `Pclass:` with nothing behind it means the defaults, as `Pclass: {}` does.
        if isinstance(data, dict):
            for name in ("categorical", "numeric"):
                if isinstance(data.get(name), dict):
                    data = {**data, name: {k: {} if v is None else v for k, v in data[name].items()}}
        return data

    @model_validator(mode="after")
    def _names(self) -> Self:
        if not self.categorical and all(s.buckets is None and s.as_ == "dense" for s in self.numeric.values()):
            raise ValueError(
                "nothing enters the pooling: name a column under categorical, or a number with buckets or as: field"
            )
        taken = set(DATASET_COLUMNS)
        for name in self.outputs:
            if name.lower() in taken:
                raise ValueError(
                    f"two columns of the dataset would be called {name!r} (label, weight and fold are taken): "
                    "give the field another name and say which column it reads with `column:`"
                )
            taken.add(name.lower())
        if self.label in self.inputs:
            raise ValueError(f"the label {self.label!r} is also an input: the model would only learn to repeat it")
        return self

    @model_validator(mode="after")
    def _shared(self) -> Self:
        for name, settings in self.categorical.items():
            other = settings.share_with
            if other is None:
                continue
            owner = self.categorical.get(other)
            if owner is None or other == name:
                raise ValueError(f"categorical.{name}.share_with: {other!r} given, which is no other categorical field")
            if owner.share_with or owner.hash_buckets or owner.cross:
                raise ValueError(
                    f"categorical.{name}.share_with: {other!r} has no vocabulary of its own to share "
                    "(it is hashed, a cross, or shares another's)"
                )
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The dataset's columns of fields and numbers."""
        bags = (weights_name(n) for n, s in self.categorical.items() if s.bag)
        flags = (flag_name(n) for n, s in self.numeric.items() if s.missing_flag)
        return (*self.categorical, *bags, *self.numeric, *flags)

    def key_names(self, folders: tuple[str, ...] = ()) -> dict[str, str]:
        """Raw key columns by their names in the dataset: key_… where a field or a folder has the name."""
        taken = {name.lower() for name in (*self.outputs, *folders, *DATASET_COLUMNS)}
        names = {name: f"key_{name}" if name.lower() in taken else name for name in self.key}
        for name, made in names.items():
            if made.lower() in taken or [other.lower() for other in names.values()].count(made.lower()) > 1:
                raise ValueError(
                    f"key: the key column {name!r} would be called {made!r} in the dataset, as another column is: give "
                    "the field of that name another one and say which column it reads with `column:`"
                )
        return {made: name for name, made in names.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Raw columns that become fields and numbers, each once."""
        categorical = [
            c for n, s in self.categorical.items() for c in (*s.columns(n), *([s.weights] if s.weights else []))
        ]
        return tuple(dict.fromkeys(categorical + [s.column or n for n, s in self.numeric.items()]))
