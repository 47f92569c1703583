"""Run the jobs as functions: features, train, tune, score and recommend. `nfm` exports them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfm.config.file import load_config, read
from nfm.config.settings import Config
from nfm.config.source import SECRETS
from nfm.config.space import Space, read_space
from nfm.contract.errors import ConfigError, require_extra
from nfm.contract.paths import without_loop
from nfm.results import FeaturesResult, RecommendResult, ScoreResult, TrainResult, TuneResult

if TYPE_CHECKING:  # train and tune need no Spark
    from pyspark.sql import SparkSession

Configuration = str | Path | Mapping[str, Any] | Config


def build_features(
    config: Configuration,
    spark: "SparkSession | None" = None,
    *,
    grow_from: str | Path | None = None,
    refresh_numbers: bool = False,
) -> FeaturesResult:
    """Turn a raw table into a dataset and its encoding, with Spark.

    Args:
        config: path of a YAML file, its content as a mapping, or a loaded configuration.
        spark: the session to use; by default the active one, or a new one.
        grow_from: an older `encoding/`, whose ids stay valid; values that it lacks are appended.
        refresh_numbers: with `grow_from`, learn means, deviations and quantiles again instead of keeping them.

    Returns:
        The folders that were written, rows by fold, and the fingerprint of the encoding.

    Raises:
        ConfigError: the configuration is wrong, or Spark is not installed.
        DataError: the table breaks its contract; nothing is published.
        BusyError: another run writes the same folders.

    Example:
        >>> result = nfm.build_features("conf/titanic.yaml")
        >>> result.rows
        {'train': 656, 'valid': 69, 'test': 166}
    """
    started, config = time.monotonic(), load_config(config)
    check_growth(grow_from, refresh_numbers)
    require_extra("spark", "making features")
    from nfm.features.dataset import Growth, build, prepare
    from nfm.features.summary import summary
    from nfm.table.session import session_for

    growth = (
        None if grow_from is None else Growth(without_loop(Path(grow_from), "--grow-from").resolve(), refresh_numbers)
    )
    with session_for(f"{config.name} features", spark) as session:
        statistics = build(session, config, prepare(session, config, growth))
    return FeaturesResult(
        config.dataset_folder,
        config.encoding_folder,
        config.encoding_folder / "report.html",
        statistics["rows"],
        statistics["fingerprint"],
        time.monotonic() - started,
        summary(config, statistics),
    )


def check_growth(grow_from: str | Path | None, refresh_numbers: bool) -> None:
    """Raise ConfigError if `refresh_numbers` is set without `grow_from`."""
    if refresh_numbers and grow_from is None:
        raise ConfigError(
            "--refresh-numbers (refresh_numbers) needs --grow-from (grow_from); without it, numbers are always learned "
            "again"
        )


def train(config: Configuration) -> TrainResult:
    """Train the model on the dataset that `build_features` wrote, with TensorFlow.

    A killed training is resumed from its checkpoint.

    Args:
        config: path of a YAML file, its content as a mapping, or a loaded configuration.

    Returns:
        The folder of the model, its metrics on each fold, and its fingerprint.

    Raises:
        ConfigError: the configuration is wrong, or TensorFlow is not installed.
        DataError: there is no dataset, or it does not fit the configuration.
        BusyError: another training writes the same model.

    Example:
        >>> result = nfm.train("conf/titanic.yaml")
        >>> result.metrics["test"]["auc"] > 0.8
        True
    """
    started, config = time.monotonic(), load_config(config)
    require_extra("train", "training")
    from nfm.training.report.summary import summary
    from nfm.training.train import train as train_model

    trained, model = train_model(config), config.below("model")
    assert trained.fingerprint is not None
    return TrainResult(
        model,
        model / "report.html",
        trained.rows,
        trained.metrics,
        trained.fingerprint,
        time.monotonic() - started,
        summary(trained),
    )


def tune(config: Configuration, trials: int = 20) -> TuneResult:
    """Search the settings of `tune.space` for better ones, on the dataset that `build_features` wrote.

    Args:
        config: path of a YAML file, its content as a mapping, or a loaded configuration.
        trials: total number of trainings, including those of earlier calls.

    Returns:
        The best trial, and a configuration file with its settings.

    Raises:
        ConfigError: the configuration or its search space is wrong, or TensorFlow is not installed.
        DataError: there is no dataset, or the search was started with other settings.
        BusyError: another search uses the same folder.

    Example:
        >>> space = "tune.space={train.learning_rate: [0.02, 0.1]}"
        >>> config = nfm.load_config("conf/titanic.yaml", [space, "train.epochs=3"])
        >>> nfm.tune(config, trials=2).metric
        'val_loss'
    """
    if isinstance(config, Config):
        content = config.model_dump(by_alias=True, exclude_unset=True, context=SECRETS)
        return tune_space(read_space(None, content), trials)
    if isinstance(config, Mapping):
        return tune_space(read_space(None, dict(config)), trials)
    return tune_space(read_space(Path(config), read(Path(config))), trials)


def tune_space(space: Space, trials: int) -> TuneResult:
    """Run `tune` on a search space that is already read."""
    started = time.monotonic()
    check_trials(trials)
    require_extra("train", "tuning")
    from nfm.training.search import tune
    from nfm.training.search.summary import summary

    search = tune.tune(space, trials)
    best = search.best
    assert best is not None
    assert best.value is not None
    return TuneResult(
        search.folder / tune.BEST,
        len(search.trials),
        search.metric,
        best.value,
        best.settings,
        time.monotonic() - started,
        summary(space, search, trials),
    )


def check_trials(trials: int) -> None:
    """Raise ConfigError unless `trials` is at least 1."""
    if trials < 1:
        raise ConfigError(f"--trials (trials) is {trials}, but must be at least 1")


def score_table(config: Configuration, spark: "SparkSession | None" = None) -> ScoreResult:
    """Score every row of a raw table with a trained model and publish the scores, with Spark.

    A killed run is resumed: rows that are already scored are not scored again.

    Args:
        config: path of a YAML file, its content as a mapping, or a loaded configuration.
        spark: the session to use; by default the active one, or a new one.

    Returns:
        The folder of the scores, the number of rows, and the fingerprint of the model.

    Raises:
        ConfigError: the configuration is wrong, or Spark is not installed.
        DataError: the table or the model breaks its contract; nothing is published.
        GateError: the table is beyond a limit of `score.gates`; nothing is published.
        BusyError: another run writes the same folder.

    Example:
        >>> result = nfm.score_table("conf/titanic.yaml")
        >>> result.rows
        891
    """
    started, config = time.monotonic(), load_config(config)
    require_extra("spark", "scoring a table")
    from nfm.scoring.health.page import REPORT
    from nfm.scoring.score import score_table as score
    from nfm.scoring.summary import summary
    from nfm.table.session import session_for

    with session_for(f"{config.name} score", spark) as session:
        report = score(session, config)
    return ScoreResult(
        config.scores_folder,
        config.scores_folder / REPORT,
        report["rows"],
        report["model_fingerprint"],
        time.monotonic() - started,
        summary(config, report),
    )


def recommend(config: Configuration, spark: "SparkSession | None" = None) -> RecommendResult:
    """Make the list of every user with a trained ranking model and publish the lists, with Spark.

    A killed run is resumed: lists that are already made are not made again.

    Args:
        config: path of a YAML file, its content as a mapping, or a loaded configuration.
        spark: the session to use; by default the active one, or a new one.

    Returns:
        The folder of the lists, the number of users, and the fingerprint of the model.

    Raises:
        ConfigError: the configuration is wrong, or Spark is not installed.
        DataError: a table or the model breaks its contract; nothing is published.
        GateError: the lists are beyond a limit of `recommend.gates`; nothing is published.
        BusyError: another run writes the same folder.
    """
    started, config = time.monotonic(), load_config(config)
    require_extra("spark", "making lists")
    from nfm.ranking.page import REPORT
    from nfm.ranking.recommend import recommend as make_lists
    from nfm.ranking.summary import summary
    from nfm.table.session import session_for

    with session_for(f"{config.name} recommend", spark) as session:
        report = make_lists(session, config)
    return RecommendResult(
        config.recommendations_folder,
        config.recommendations_folder / REPORT,
        report["users"],
        report["lists"],
        report["model_fingerprint"],
        time.monotonic() - started,
        summary(config, report),
    )
