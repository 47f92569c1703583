"""The settings: frozen and validated; every key is documented where it is declared. `nfm.config_file` reads them."""

import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, field_serializer, model_validator

from nfm.config_columns import DATASET_COLUMNS, Columns, Fraction, Positive, Settings, changed

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{value!r} given; an option is a text, a number, true or false")
    return value


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


class Source(Settings):
    """A raw table: anything Spark reads. Either `path` with a format, or `table`."""

    format: str = "parquet"  # a Spark data source: parquet, csv, json, orc, …
    path: Annotated[str | tuple[str, ...] | None, PlainValidator(_paths)] = None  # a file or a folder, or several
    table: str | None = None  # a table of Spark's catalog, instead of path
    options: dict[str, Annotated[Any, PlainValidator(_scalar)]] = Field(
        default={}
    )  # handed to Spark's reader as they are
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
        given = changed(self)
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
        taken = {name.lower() for name in (*self.columns.outputs, *DATASET_COLUMNS)}
        for name in self.dataset.partition_by:
            if name.lower() in taken:
                raise ValueError(
                    f"dataset.partition_by: the folders of {name!r} would be taken for the column of that name: give "
                    "the field another name and say which column it reads with `column:`"
                )
        self.columns.key_names(self.dataset.partition_by)
        stopping = self.train.early_stopping
        if stopping and stopping.monitor.startswith("val_") and not self.split.has_valid:
            raise ValueError(
                "early stopping watches the validation fold, but split.valid is 0 (or, by time, valid_from is not "
                "there): give it a share of the rows"
            )
        return self

    def for_plan(self) -> Self:
        """The same, but that no source is looked through for corrupt files: a plan reads no rows."""
        refuse = {"on_corrupt": "refuse"}
        source = self.score.source and self.score.source.model_copy(update=refuse)
        score = self.score.model_copy(update={"source": source})
        return self.model_copy(update={"source": self.source.model_copy(update=refuse), "score": score})

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
