"""The settings: frozen and validated; every key is documented where it is declared. `nfm.config_file` reads them."""

import math
import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_serializer, model_validator

from nfm.contract.schema import flag_name, weights_name

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{value!r} given; an option is a text, a number, true or false")
    return value


def _impute(value: Any) -> str | float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number and value not in ("mean", "median"):
        raise ValueError(f"{value!r} given; allowed: 'mean', 'median' or a number")
    return value  # type: ignore[no-any-return]


def _paths(value: Any) -> str | tuple[str, ...] | None:
    listed = isinstance(value, tuple) and value and all(isinstance(path, str) for path in value)
    if value is not None and not listed and not isinstance(value, str):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{shown!r} given; a path is a text, or a list of texts")
    return value  # type: ignore[no-any-return]


def _moment(value: Any) -> str | int | None:
    """When a fold begins. YAML reads 2026-10-01 as a date, and 2026-10-01 12:00 as a text."""
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{value!r} given; a date, a time, a text or a whole number")
    return value


class Settings(BaseModel):
    """A section: unknown keys and wrong types are refused, nothing is converted in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _changed(section: Settings) -> set[str]:
    """Keys that are set to something else than their default."""
    fields = type(section).model_fields
    return {key for key in section.model_fields_set if getattr(section, key) != fields[key].default}


class Source(Settings):
    """A raw table: anything Spark reads. Either `path` with a format, or `table`."""

    format: str = "parquet"  # a Spark data source: parquet, csv, json, orc, …
    path: Annotated[str | tuple[str, ...] | None, PlainValidator(_paths)] = None  # a file or a folder, or several
    table: str | None = None  # a table of Spark's catalog, instead of path
    options: dict[str, Annotated[Any, PlainValidator(_scalar)]] = {}  # handed to Spark's reader as they are
    where: str | None = None  # an SQL condition; rows that do not meet it are left out
    # parquet: tasks read the files themselves. spark: through Spark's reader. auto: parquet where it can
    scan: Literal["auto", "parquet", "spark"] = "auto"
    on_corrupt: Literal["refuse", "skip"] = "refuse"  # skip: a file that cannot be read is left out, and reported

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.table is None):
            raise ValueError("give either path (with format and options) or table")
        return self

    @field_serializer("options")
    def _without_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        # The settings are written into every model and its report; a database's password is not.
        return {
            k: "***" if re.search(r"password|secret|token|key", k, re.IGNORECASE) else v for k, v in options.items()
        }

    def __str__(self) -> str:
        """How messages name the table."""
        return f"table {self.table}" if self.table else ", ".join(self.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders; none for a table of the catalog."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()


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
        given = _changed(self)
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
        """The raw columns that the field of this name is made of."""
        return self.cross or (self.column or name,)


class Numeric(Settings):
    """A numeric column → one float, or with `buckets` a field of ids."""

    column: str | None = None  # the raw column; the number's own name unless set
    # dense: beside the pooled vector, into the MLP and the linear part. field: a feature with x = value in the pooling
    as_: Literal["dense", "field"] = Field("dense", alias="as")
    impute: Annotated[str | float, PlainValidator(_impute)] = (
        "mean"  # what stands in for a missing number, before scaling
    )
    missing_flag: bool = False  # one more number: 1 where this one is missing
    # standard: (x - mean) / std; minmax: to 0 … 1 of the train fold; log1p: sign(x) log(1 + |x|); none: as it is
    scale: Literal["standard", "minmax", "log1p", "none"] = "standard"
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


class Columns(Settings):
    """What the columns of the table are."""

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
        names = [
            *self.categorical,
            *(weights_name(n) for n, s in self.categorical.items() if s.bag),
            *self.numeric,
            *(flag_name(n) for n, s in self.numeric.items() if s.missing_flag),
        ]
        taken: set[str] = {"label", "weight", "fold"}  # columns that the dataset has anyway
        for name in names:
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
    def inputs(self) -> tuple[str, ...]:
        """Raw columns that become fields and numbers, each once."""
        categorical = [
            c for n, s in self.categorical.items() for c in (*s.columns(n), *([s.weights] if s.weights else []))
        ]
        return tuple(dict.fromkeys(categorical + [s.column or n for n, s in self.numeric.items()]))


class Split(Settings):
    """Which fold a row belongs to: by a hash of key columns, by time, or as a column says."""

    # By hash, a row keeps its fold whatever the order, the partitions and the new rows.
    by: tuple[str, ...] = ()  # columns.key unless set
    valid: Fraction = 0.1  # share of the rows
    test: Fraction = 0.2
    seed: int = 1
    # By time: a date, a timestamp, or texts or whole numbers in the order of time.
    time: str | None = None  # the column
    valid_from: Annotated[str | int | None, PlainValidator(_moment)] = None  # the first that is no longer train
    test_from: Annotated[str | int | None, PlainValidator(_moment)] = None  # the first that is test
    column: str | None = None  # holds train, valid or test
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the train fold's rows of label 0 that is kept

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "by, valid, test": {"by", "valid", "test"},
            "time, valid_from, test_from": {"time", "valid_from", "test_from"},
            "column": {"column"},
        }
        given = _changed(self)
        used = [name for name, keys in ways.items() if keys & given]
        if len(used) > 1 and (self.time is not None or self.column is not None):
            raise ValueError(f"rows are split in one way, but this names several: {'; '.join(used)}")
        if self.time is None and {"valid_from", "test_from"} & given:
            raise ValueError("valid_from and test_from need time, the column they speak of")
        if self.time is not None and self.valid_from is None and self.test_from is None:
            raise ValueError("a split by time needs valid_from, test_from or both")
        if self.valid_from is not None and self.test_from is not None:
            if type(self.valid_from) is not type(self.test_from):
                raise ValueError("valid_from and test_from are of two kinds: write them alike")
            if self.valid_from > self.test_from:  # type: ignore[operator]
                raise ValueError("test_from comes before valid_from: the folds follow each other train, valid, test")
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test is {self.valid + self.test:g}, which leaves nothing to train on")
        return self

    @property
    def has_valid(self) -> bool:
        """Whether there is a validation fold, as far as the settings tell."""
        return self.column is not None or (self.valid_from is not None if self.time is not None else self.valid > 0)


class Dataset(Settings):
    """How the encoded rows lie on disk."""

    partition_by: tuple[str, ...] = ()  # raw columns: a folder for each of their values, inside each fold's


class L2(Settings):
    """Factors of the squared weights that are added to the loss."""

    embedding: NotNegative = 0.0  # over the rows of the batch, averaged over its samples
    linear: NotNegative = 0.0  # the same, of the first-order weights
    hidden: NotNegative = 0.0  # kernels of the hidden layers


class Model(Settings):
    """The Neural Factorization Machine (He & Chua 2017)."""

    task: Literal["binary"] = "binary"  # log loss; the score is a probability
    embedding_dim: Positive = 64  # K
    hidden_units: tuple[Positive, ...] = (128, 128)  # [] for none
    activation: Literal["relu", "sigmoid", "tanh", "linear"] = "relu"  # of the hidden layers
    batch_norm: bool = True  # on the pooled vector and on each hidden layer, before its activation
    pooling_dropout: Fraction = 0.5
    hidden_dropout: Fraction = 0.2
    l2: L2 = L2()
    output: Literal["trained", "ones"] = "trained"  # h; ones without hidden layers is a factorization machine

    @model_validator(mode="after")
    def _machine(self) -> Self:
        if self.output == "ones" and self.hidden_units:
            raise ValueError("output: ones makes a factorization machine, which has no hidden layers: hidden_units: []")
        return self


class EarlyStopping(Settings):
    """When to stop; the weights of the best epoch are the ones kept."""

    monitor: str = "val_loss"  # loss, auc or accuracy, of the validation fold with val_ before it
    mode: Literal["auto", "min", "max"] = "auto"  # auto: auc and accuracy up, loss down
    patience: Positive = 5  # epochs without improvement
    min_delta: NotNegative = 0.0  # smaller changes are no improvement


MONITORS = ("loss", "auc", "accuracy", "val_loss", "val_auc", "val_accuracy")


class Train(Settings):
    """How the model is fitted."""

    optimizer: Literal["adagrad", "adam"] = "adagrad"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    batch_size: Positive = 1024
    epochs: Positive = 50  # at most
    seed: int = 1  # of the initial weights, the shuffling and the dropout
    early_stopping: EarlyStopping | None = EarlyStopping()  # null: all epochs, the last weights

    @model_validator(mode="after")
    def _monitor(self) -> Self:
        if self.early_stopping and self.early_stopping.monitor not in MONITORS:
            raise ValueError(
                f"early_stopping.monitor: {self.early_stopping.monitor!r} given; allowed: {', '.join(MONITORS)}"
            )
        return self


class Score(Settings):
    """What the score job reads and writes."""

    source: Source | None = None  # the top-level source unless set
    model: str | None = None  # workdir/model unless set
    output: str | None = None  # workdir/scores unless set
    columns: tuple[str, ...] = ()  # carried along, besides the key


class Config(Settings):
    """One configuration file, for all jobs."""

    name: str
    workdir: str  # holds dataset/ encoding/ model/ scores/
    source: Source
    columns: Columns
    split: Split = Split()
    dataset: Dataset = Dataset()
    model: Model = Model()
    train: Train = Train()
    score: Score = Score()

    @model_validator(mode="after")
    def _local(self) -> Self:
        for key, path in (
            ("workdir", self.workdir),
            ("score.model", self.score.model),
            ("score.output", self.score.output),
        ):
            if path is not None and "://" in path:
                raise ValueError(f"{key}: {path!r} given; it must be a folder that every machine sees at the same path")
        stopping = self.train.early_stopping
        if stopping and stopping.monitor.startswith("val_") and not self.split.has_valid:
            raise ValueError(
                "early stopping watches the validation fold, but split.valid is 0 (or, by time, valid_from is not "
                "there): give it a share of the rows"
            )
        return self

    @property
    def dataset_folder(self) -> Path:
        """Where the features job writes the encoded rows."""
        return Path(self.workdir, "dataset")

    @property
    def encoding_folder(self) -> Path:
        """Where the features job writes the encoding."""
        return Path(self.workdir, "encoding")

    @property
    def model_folder(self) -> Path:
        """Where the train job writes the artifact and the score job reads it."""
        return Path(self.score.model or Path(self.workdir, "model"))

    @property
    def scores_folder(self) -> Path:
        """Where the score job writes."""
        return Path(self.score.output or Path(self.workdir, "scores"))
