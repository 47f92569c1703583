"""The settings: frozen and validated; every key is documented where it is declared. `nfm.config.file` reads them."""

import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, SerializationInfo, field_serializer, model_validator

from nfm.config.columns import DATASET_COLUMNS, Columns, Fraction, Settings, changed
from nfm.config.train import MONITORS, Model, Train, Tune
from nfm.contract.errors import ConfigError

SECRETS = object()  # context of a serialization that keeps passwords
_SECRET = re.compile(r"password|secret|token|key", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # a name that --set gives a value: scores/ds={ds}


def check_filled(key: str, text: str | None) -> None:
    """Raise ConfigError for a name in braces without a value."""
    if text is not None and (waiting := PLACEHOLDER.search(text)):
        name = waiting.group(1)
        raise ConfigError(f"{key}: {text!r} has no value for {{{name}}}: give it with --set {name}=…")


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
    """The first moment of a fold. YAML reads 2026-10-01 as a date, and 2026-10-01 12:00 as a text."""
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
    options: dict[str, Annotated[Any, PlainValidator(_scalar)]] = Field(default={})  # passed to Spark's reader
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
    def _without_secrets(self, options: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
        # The settings are written into every model and its report; a database's password is not.
        if info.context is SECRETS:
            return options
        return {key: "***" if _SECRET.search(key) else value for key, value in options.items()}

    def __str__(self) -> str:
        """The table's name in messages."""
        return f"table {self.table}" if self.table else ", ".join(self.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders; empty for a table of the catalog."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    def check_filled(self) -> None:
        """Raise ConfigError for a name in braces without a value."""
        for key, text in (*(("path", path) for path in self.paths), ("table", self.table), ("where", self.where)):
            check_filled(f"source.{key}", text)


class Split(Settings):
    """Which fold a row belongs to: by a hash of key columns, by time, or by a column."""

    # By hash, a row keeps its fold whatever the order, the partitions and the new rows.
    by: tuple[str, ...] = ()  # columns.key unless set
    valid: Fraction = 0.1  # share of the rows
    test: Fraction = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
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
        """The settings ask for a validation fold."""
        return self.column is not None or (self.valid_from is not None if self.time is not None else self.valid > 0)


class Dataset(Settings):
    """How the encoded rows are stored."""

    partition_by: tuple[str, ...] = ()  # raw columns: a folder for each of their values, inside each fold's


class Gates(Settings):
    """Conditions for publishing the scores of a table; a gate that is not set never fires."""

    # Share of a field's values that are out of its vocabulary.
    max_oov_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    # Population stability index of the scores, against those on the validation fold. 0.25 is a usual limit. No gate on
    # a PSI closes where the table has so few rows that chance alone explains it.
    max_psi: Annotated[float, Field(gt=0)] | None = None
    max_field_psi: Annotated[float, Field(gt=0)] | None = None  # of any field or number, against the train fold
    min_rows: Annotated[int, Field(ge=0)] | None = None  # of the table

    @property
    def limits(self) -> dict[str, float]:
        """The gates that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


class Score(Settings):
    """Settings of the score job: what it reads and writes."""

    source: Source | None = None  # the top-level source unless set
    model: str | None = None  # workdir/model unless set
    output: str | None = None  # workdir/scores unless set
    columns: tuple[str, ...] = ()  # carried along, besides the key
    encoded: bool = False  # the source is a dataset/ of the feature job, or a fold of it, rather than a raw table
    partition_by: tuple[str, ...] = ()  # columns of the source: a folder for each of their values
    format: Literal["parquet", "csv", "delta"] = "parquet"  # delta: the package deltalake is needed
    file_mb: Annotated[int, Field(ge=1)] = 128  # files are about this large
    explain: Annotated[int, Field(ge=0, le=10)] = 0  # adds so many reasons: the fields that moved the score most
    rank: bool = False  # adds score_rank: 1 is the highest score of all
    quantile: bool = False  # adds score_quantile: the share of the rows that score no higher
    gates: Annotated[Gates, BeforeValidator(lambda given: {} if given is None else given)] = Gates()  # null: none


class Config(Settings):
    """Settings of a configuration file, for all jobs."""

    name: str
    workdir: str  # holds dataset/ encoding/ model/ scores/
    source: Source
    columns: Columns
    split: Split = Split()
    dataset: Dataset = Dataset()
    model: Model = Model()
    train: Train = Train()
    tune: Tune = Tune()
    score: Score = Score()

    @model_validator(mode="after")
    def _local(self) -> Self:
        folders = {"workdir": self.workdir, "score.model": self.score.model, "score.output": self.score.output}
        for key, path in folders.items():
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
        self._check_train()
        stopping = self.train.early_stopping
        if stopping and stopping.monitor.startswith("val_") and not self.split.has_valid:
            raise ValueError(
                "early stopping watches the validation fold, but split.valid is 0 (or, by time, valid_from is not "
                "there): give it a share of the rows"
            )
        return self

    def _check_train(self) -> None:
        task, train = self.model.task, self.train
        monitors = [f"{fold}{name}" for fold in ("", "val_") for name in ("loss", *MONITORS[task])]
        for key, name in (
            ("train.early_stopping.monitor", train.early_stopping and train.early_stopping.monitor),
            ("tune.metric", self.tune.metric),
        ):
            if name is not None and name not in monitors:
                raise ValueError(f"{key}: {name!r} given; allowed of the task {task}: {', '.join(monitors)}")
        if task != "binary" and self.split.negative_rate != 1:
            raise ValueError(f"split.negative_rate is for the binary task, but model.task is {task}: leave it out")
        if task == "regression" and train.class_weights is not None:
            raise ValueError("train.class_weights: a regression has no classes; use columns.weight")
        if train.group is not None and (train.group not in self.columns.key or task != "binary"):
            raise ValueError(
                f"train.group: {train.group!r} given; it is for the binary task, and one of columns.key "
                f"({', '.join(self.columns.key)})"
            )

    def for_plan(self) -> Self:
        """The same settings without the search for corrupt files: a plan reads no rows."""
        refuse = {"on_corrupt": "refuse"}
        source = self.score.source and self.score.source.model_copy(update=refuse)
        score = self.score.model_copy(update={"source": source})
        return self.model_copy(update={"source": self.source.model_copy(update=refuse), "score": score})

    @property
    def of_dataset(self) -> dict[str, Any]:
        """The settings that differ from their defaults, of the sections that determine a dataset."""
        found = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"columns", "split"})
        columns, split = found["columns"], found.setdefault("split", {})
        # What only says what would be so anyway.
        for name, settings in (*columns.get("categorical", {}).items(), *columns.get("numeric", {}).items()):
            if settings.get("column") == name:
                del settings["column"]
        if split.get("by") == columns["key"]:
            del split["by"]
        return found

    @property
    def dataset_folder(self) -> Path:
        """Where the features job writes the encoded rows."""
        return self._below("dataset")

    @property
    def encoding_folder(self) -> Path:
        """Where the features job writes the encoding."""
        return self._below("encoding")

    @property
    def model_folder(self) -> Path:
        """Where the train job writes the artifact and the score job reads it."""
        check_filled("score.model", self.score.model)
        return Path(self.score.model or self._below("model"))

    @property
    def scores_folder(self) -> Path:
        """Where the score job writes."""
        check_filled("score.output", self.score.output)
        return Path(self.score.output or self._below("scores"))

    def _below(self, name: str) -> Path:
        check_filled("workdir", self.workdir)
        return Path(self.workdir, name)
