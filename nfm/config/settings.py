"""Settings of all jobs: frozen and validated. `nfm.config.file` reads them from YAML."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, SerializationInfo, field_serializer, model_validator

from nfm.config.columns import DATASET_COLUMNS, Columns, Settings
from nfm.config.split import Dataset, Split
from nfm.config.time import complete_ages, list_derived
from nfm.config.train import MONITORS, Model, Train, Tune
from nfm.contract.errors import ConfigError
from nfm.contract.paths import without_loop
from nfm.contract.times.derived import Derived

SECRETS = object()  # context of a serialization that keeps passwords
_SECRET = re.compile(r"password|secret|token|key", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # a name whose value comes from --set: scores/ds={ds}


def check_filled(key: str, text: str | None) -> None:
    """Raise ConfigError if a name in braces has no value."""
    if text is not None and (waiting := PLACEHOLDER.search(text)):
        name = waiting.group(1)
        raise ConfigError(f"{key}: {text!r} has no value for {{{name}}}: set it with --set {name}=…")


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{value!r} given; an option is a string, a number, true or false")
    return value


def _paths(value: Any) -> str | tuple[str, ...] | None:
    listed = isinstance(value, tuple) and value and all(isinstance(path, str) for path in value)
    if value is not None and not listed and not isinstance(value, str):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{shown!r} given; a path is a string or a list of strings")
    return value  # type: ignore[no-any-return]


class Source(Settings):
    """A raw table, anything that Spark reads: `path` with a format, or `table`."""

    format: str = "parquet"
    """Data source of Spark: parquet, csv, json, orc, …"""
    path: Annotated[str | tuple[str, ...] | None, PlainValidator(_paths)] = Field(
        default=None, examples=["raw/orders", ["2025.parquet", "2026.parquet"]]
    )
    """A file or a folder, or a list of them."""
    table: str | None = Field(default=None, examples=["shop.orders"])
    """A table of Spark's catalog, instead of `path`."""
    options: dict[str, Annotated[Any, PlainValidator(_scalar)]] = Field(
        default={}, examples=[{"sep": ";", "nullValue": "NA"}]
    )
    """Options of Spark's reader. Values of options named like a password, secret, token or key are not stored in the
    model."""
    where: str | None = Field(default=None, examples=["country = 'NL'"])
    """SQL condition; other rows are left out."""
    scan: Literal["auto", "parquet", "spark"] = "auto"
    """`parquet`: tasks read Parquet files themselves, which is fast. `spark`: rows come through Spark, from any source.
    `auto`: `parquet` where possible; `--plan` shows which, and why."""
    on_corrupt: Literal["refuse", "skip"] = "refuse"
    """A file that cannot be read ends the job (`refuse`) or is left out and reported (`skip`)."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """For text files (csv, json, xml): rows with the wrong number of values, or with a value that does not have its
    column's type, end the job (`refuse`) or are left out and reported (`skip`)."""
    types: dict[str, str] = Field(default={}, examples=[{"zip": "string", "price": "decimal(18,2)"}])
    """For text files: types of columns in Spark's SQL, instead of inferred ones. Scoring uses the types of the
    training."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.table is None):
            raise ValueError("give either path (with format and options) or table")
        if (self.types or self.on_bad_row == "skip") and (self.table or self.format not in ("csv", "json", "xml")):
            raise ValueError(
                "types and on_bad_row: skip are for csv, json and xml; other tables have types of their own"
            )
        return self

    @field_serializer("options")
    def _without_secrets(self, options: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
        # Every model and its report contain the settings, but no password of a database.
        if info.context is SECRETS:
            return options
        return {key: "***" if _SECRET.search(key) else value for key, value in options.items()}

    def __str__(self) -> str:
        """Return the table's name for messages."""
        return f"table {self.table}" if self.table else ", ".join(self.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders; empty for a table of the catalog."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    def check_filled(self) -> None:
        """Raise ConfigError if a name in braces has no value."""
        for key, text in (*(("path", path) for path in self.paths), ("table", self.table), ("where", self.where)):
            check_filled(f"source.{key}", text)


class Gates(Settings):
    """Limits for publishing scores. Beyond one, nothing is published and the exit code is 4. `null`: no limit."""

    max_oov_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, examples=[0.2])
    """Maximum rate of out-of-vocabulary values in a field."""
    max_psi: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[0.25])
    """Maximum PSI (population stability index) of the scores, against the scores of the valid fold (with train.refit:
    of the test fold); 0.25 is usual. A PSI gate fires only when the shift is statistically significant for the table's
    size (p < 0.001)."""
    max_field_psi: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[0.5])
    """Maximum PSI of any field or number, against the train fold."""
    min_rows: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[1_000_000])
    """Smallest number of rows of the table."""
    max_duplicate_keys: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[0])
    """Maximum number of keys (values of `columns.key`) that occur in more than one row."""

    @property
    def limits(self) -> dict[str, float]:
        """The gates that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


class Score(Settings):
    """Settings of the score job: its input and output."""

    source: Source | None = None
    """Table to score, with the same keys as `source`. Default: `source`."""
    model: str | None = None
    """Folder of the model; `workdir`/model unless set."""
    output: str | None = Field(default=None, examples=["scores/ds={ds}"])
    """Folder of the scores; `workdir`/scores unless set. A name in braces gets its value from `--set ds=2026-11-20`;
    only that folder is replaced. With `format: delta`, it is a partition of the table in the folder above."""
    columns: tuple[str, ...] = ()
    """Columns to copy to the output, besides the key."""
    encoded: bool = False
    """The source is a dataset/ of the feature job, or a fold of it, instead of a raw table."""
    partition_by: tuple[str, ...] = Field(default=(), examples=[["country"]])
    """Columns of the source; the output has one folder for each of their values."""
    format: Literal["parquet", "csv", "delta"] = "parquet"
    """Format of the output; `delta` needs the package deltalake, and keeps the versions of earlier runs."""
    file_mb: Annotated[int, Field(ge=1)] = 128
    """Approximate size of an output file, in MB."""
    explain: Annotated[int, Field(ge=0, le=10)] = 0
    """Number of reason codes: adds reason_1, reason_1_effect, …, the fields and numbers that changed the row's score
    most. An effect is the score minus the score with this value missing; above 0, the value raised the score. Null if
    fewer fields had an effect. For multiclass, effects are on the row's highest class."""
    rank: bool = False
    """Add score_rank; 1 is the highest score of the table. Not for multiclass."""
    quantile: bool = False
    """Add score_quantile, the fraction of rows whose score is not higher. Not for multiclass."""
    count_duplicate_keys: bool = True
    """Count the keys that occur in more than one row, exactly, and the rows with a null in their key."""
    gates: Annotated[Gates, BeforeValidator(lambda given: {} if given is None else given)] = Gates()

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.gates.max_duplicate_keys is not None and not self.count_duplicate_keys:
            raise ValueError("gates.max_duplicate_keys needs count_duplicate_keys: true")
        return self


class Config(Settings):
    """Settings of a configuration file, for all jobs."""

    name: str = Field(examples=["reference"])
    """Name in summaries and reports."""
    workdir: str = Field(examples=["build/reference"])
    """Folder of dataset/, encoding/, model/ and scores/, at the same path on every machine."""
    source: Source = Field(examples=[{"format": "csv", "path": "tests/data/titanic.csv"}])
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
                    f"dataset.partition_by: the folders of {name!r} would collide with the dataset's column of that "
                    "name: rename the field and set its raw column with `column:`"
                )
        self.columns.key_names(self.dataset.partition_by)
        if any(self.columns.label in one.columns for one in self.derived):
            raise ValueError(
                f"columns.time: an age counts from the label {self.columns.label!r}, so the model would see the answer"
            )
        self._check_train()
        stopping = self.train.early_stopping
        if stopping and stopping.monitor.startswith("val_") and not self.split.has_valid:
            raise ValueError(
                "train.early_stopping needs a valid fold, but split.valid is 0 (for a split by time: valid_from is not "
                "set): set it, or set train.early_stopping: null"
            )
        return self

    def _check_train(self) -> None:
        task, train, split = self.model.task, self.train, self.split
        monitors = [f"{fold}{name}" for fold in ("", "val_") for name in ("loss", *MONITORS[task])]
        for key, name in (
            ("train.early_stopping.monitor", train.early_stopping and train.early_stopping.monitor),
            ("tune.metric", self.tune.metric),
        ):
            if name is not None and name not in monitors:
                raise ValueError(f"{key}: {name!r} given; allowed for the task {task}: {', '.join(monitors)}")
        if task != "binary" and split.negative_rate != 1:
            raise ValueError(f"split.negative_rate is only for the binary task, but model.task is {task}: remove it")
        if train.refit and not split.has_valid:
            raise ValueError(
                "train.refit adds the rows of the valid fold to those of the train fold, but split.valid is 0 (for a "
                "split by time: valid_from is not set): set it, or remove train.refit"
            )
        if train.refit and split.negative_rate != 1:
            raise ValueError(
                f"train.refit cannot be combined with split.negative_rate ({split.negative_rate:g}): the valid fold "
                "has all of its negatives, the train fold only some: remove one"
            )
        if task == "regression" and train.class_weights is not None:
            raise ValueError("train.class_weights: a regression has no classes; use columns.weight")
        if train.group is not None and (train.group not in self.columns.key or task != "binary"):
            raise ValueError(
                f"train.group: {train.group!r} given; it must be one of columns.key ({', '.join(self.columns.key)}), "
                f"and model.task must be binary (it is {task})"
            )

    @property
    def derived(self) -> tuple[Derived, ...]:
        """Columns that are derived from times."""
        return tuple(complete_ages(list_derived(self.columns.time), self.split.time))

    @property
    def of_dataset(self) -> dict[str, Any]:
        """Settings that determine a dataset and differ from their defaults; `as` in any case: its default changed."""
        found = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"columns", "split"})
        columns, split = found["columns"], found.setdefault("split", {})
        # Settings that only repeat the default.
        for name, settings in (*columns.get("categorical", {}).items(), *columns.get("numeric", {}).items()):
            if settings.get("column") == name:
                del settings["column"]
        for name, settings in columns.get("numeric", {}).items():
            if "buckets" not in settings:
                settings["as"] = self.columns.numeric[name].as_
        if split.get("by") == columns["key"]:
            del split["by"]
        return found

    @property
    def dataset_folder(self) -> Path:
        """Folder of the encoded rows, which the feature job writes."""
        return self.below("dataset")

    @property
    def encoding_folder(self) -> Path:
        """Folder of the encoding, which the feature job writes."""
        return self.below("encoding")

    @property
    def model_folder(self) -> Path:
        """Folder of the model, which the train job writes and the score job reads."""
        return self._folder("score.model", self.score.model, "model")

    @property
    def scores_folder(self) -> Path:
        """Folder of the scores."""
        return self._folder("score.output", self.score.output, "scores")

    def _folder(self, key: str, path: str | None, name: str) -> Path:
        """Return the folder that a setting names, or a folder of the working folder."""
        if not path:
            return self.below(name)
        check_filled(key, path)
        return without_loop(Path(path), key)

    def below(self, name: str) -> Path:
        """Return a folder of the working folder."""
        check_filled("workdir", self.workdir)
        return without_loop(Path(self.workdir, name), "workdir")
