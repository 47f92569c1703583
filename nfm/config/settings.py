"""Settings of all jobs: frozen and validated. `nfm.config.file` reads them from YAML."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from nfm.config.columns import DATASET_COLUMNS, Columns, Settings
from nfm.config.ranking import Ranking, check_ranking, default_monitor, join_columns
from nfm.config.recommend import Recommend, check_recommend
from nfm.config.score import Score
from nfm.config.source import Source, check_filled
from nfm.config.split import Dataset, Split
from nfm.config.time import complete_ages, list_derived
from nfm.config.train import MONITORS, Model, Train, Tune
from nfm.contract.dataset import FOLD
from nfm.contract.paths import without_loop
from nfm.contract.times.derived import Derived


class Config(Settings):
    """Settings of a configuration file, for all jobs."""

    name: str = Field(examples=["reference"])
    """Name in summaries and reports."""
    workdir: str = Field(examples=["build/reference"])
    """Folder of dataset/, encoding/, model/ and scores/, at the same path on every machine."""
    source: Source = Field(examples=[{"format": "csv", "path": "tests/data/titanic.csv"}])
    columns: Columns = Field(examples=[{"label": "Survived"}])
    split: Split = Split()
    ranking: Ranking | None = None
    dataset: Dataset = Dataset()
    model: Model = Model()
    train: Train = Train()
    tune: Tune = Tune()
    score: Score = Score()
    recommend: Recommend = Recommend()

    @model_validator(mode="before")
    @classmethod
    def _default_monitor(cls, data: Any) -> Any:
        """Let early stopping of a ranking watch NDCG."""
        if not isinstance(data, dict):
            return data
        ranking, train = data.get("ranking"), data.get("train", {})
        if not isinstance(ranking, dict | Ranking) or not isinstance(train, dict):
            return data
        stopping = train.get("early_stopping", {})
        if isinstance(stopping, dict) and "monitor" not in stopping:
            k = ranking.get("k", (10,)) if isinstance(ranking, dict) else ranking.k
            monitor = default_monitor(k) if isinstance(k, tuple) and k else "val_ndcg@10"
            return {**data, "train": {**train, "early_stopping": {**stopping, "monitor": monitor}}}
        return data

    @model_validator(mode="after")
    def _task(self) -> Self:
        task = self.model.task
        if (task == "ranking") != (self.ranking is not None):
            raise ValueError(
                "model.task: ranking needs the section ranking, with user and item"
                if self.ranking is None
                else f"the section ranking is only for model.task: ranking, but it is {task}: set it, or remove ranking"
            )
        check_recommend(self.recommend, self.ranking, task)
        if self.ranking is not None:
            check_ranking(self.ranking, self.columns, self.split)
        elif self.columns.label is None:
            raise ValueError("columns.label: this key is required")
        elif self.split.last is not None:
            raise ValueError(f"split.last is only for model.task: ranking, but it is {task}: remove it")
        return self

    @model_validator(mode="after")
    def _local(self) -> Self:
        folders = {"workdir": self.workdir, "score.model": self.score.model, "score.output": self.score.output}
        folders["recommend.output"] = self.recommend.output
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
        if self.ranking is None:
            monitors = [f"{fold}{name}" for fold in ("", "val_") for name in ("loss", *MONITORS[task])]
        else:
            monitors = ["loss", *(f"val_{name}" for name in self.ranking.monitors)]
        for key, name in (
            ("train.early_stopping.monitor", train.early_stopping and train.early_stopping.monitor),
            ("tune.metric", self.tune.metric),
        ):
            if name is not None and name not in monitors:
                raise ValueError(f"{key}: {name!r} given; allowed for the task {task}: {', '.join(monitors)}")
        if self.ranking is not None and train.schedule.kind == "plateau" and train.early_stopping is None:
            raise ValueError(
                "train.schedule kind: plateau watches the metric of train.early_stopping, but it is null: set it, or "
                "set kind: constant or cosine"
            )
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
        if task in ("regression", "ranking") and train.class_weights is not None:
            raise ValueError(f"train.class_weights: a {task} has no classes; use columns.weight")
        if train.group is not None and (train.group not in self.columns.key or task != "binary"):
            raise ValueError(
                f"train.group: {train.group!r} given; it must be one of columns.key ({', '.join(self.columns.key)}), "
                f"and model.task must be binary (it is {task})"
            )

    @property
    def joined(self) -> "Config":
        """For ranking, the settings of the table that joins interactions, users and items; otherwise this object."""
        if self.ranking is None:
            return self
        split = self.split if self.split.last is None else Split(column=FOLD)
        return self.model_copy(update={"columns": join_columns(self.ranking, self.columns), "split": split})

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
        return found if self.ranking is None else found | {"ranking": self.ranking.of_dataset}

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

    @property
    def recommendations_folder(self) -> Path:
        """Folder of the users' lists."""
        return self._folder("recommend.output", self.recommend.output, "recommendations")

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
