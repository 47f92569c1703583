"""The search: first trial, best.yaml, resuming after a kill, and refusals, with real trainings."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution

from nfm.config.file import load, put, read
from nfm.config.space import Space, read_space
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.publishing.publish import BusyError, locked
from nfm.contract.schema import Field, Spec
from nfm.training import train
from nfm.training.fit import Places
from nfm.training.search import summary as tune_summary
from nfm.training.search.study import JOURNAL, _open_storage, list_counted_trials
from nfm.training.search.tune import Search, _importance, read_search, tune
from tests.forks import Forks

BUCKETS = 6
SPEC = Spec(("k",), tuple(Field(name, (name,), ("text",), BUCKETS, 0, None) for name in ("a", "b")), (), ())
TEXT = """
# A comment that is lost
name: checkerboard
workdir: {workdir}
source: {{path: unused}}
columns: {{key: [k], label: y, categorical: {{a: {{hash_buckets: 6}}, b: {{hash_buckets: 6}}}}}}
model: {{embedding_dim: 4, hidden_units: [8], batch_norm: false, pooling_dropout: 0.0, hidden_dropout: 0.0}}
train: {{optimizer: adam, learning_rate: 0.001, batch_size: 64, epochs: 3, early_stopping: {{monitor: val_auc}}}}
"""
SPACE = "{train.learning_rate: {low: 0.001, high: 0.1, log: true}, model.hidden_units: [[8], [16, 8]]}"


def write_dataset(workdir: Path, seed: int = 0) -> None:
    """Write a dataset whose label is whether a + b is even; a is missing (0) in some rows."""
    rng = np.random.default_rng(seed)
    rows = {"train": 300, "valid": 120, "test": 40}
    for fold, count in rows.items():
        a, b = rng.integers(0, BUCKETS + 1, count), rng.integers(1, BUCKETS + 1, count)
        columns = {"label": ((a + b) % 2 == 0).astype(np.float32), "weight": np.ones(count, np.float32)}
        columns |= {"a": a.astype(np.int32), "b": b.astype(np.int32)}
        (workdir / "dataset" / f"fold={fold}").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), workdir / "dataset" / f"fold={fold}" / "part-0.parquet")
    facts = {"encoding_fingerprint": SPEC.fingerprint, "rows": rows}
    (workdir / "dataset" / "_dataset.json").write_text(json.dumps(facts))
    (workdir / "encoding").mkdir(exist_ok=True)
    (workdir / "encoding" / "spec.json").write_text(SPEC.to_json())


def prepare(folder: Path) -> Path:
    """Write a dataset and the configuration file of a model for it, and return the path of the file."""
    write_dataset(folder / "work")
    path = folder / "c.yaml"
    path.write_text(TEXT.format(workdir=folder / "work"))
    return path


def space_of(path: Path, *changes: str, space: str = SPACE) -> Space:
    return read_space(path, read(path, [f"tune.space={space}", *changes]))


def by_epoch(search: Search) -> list[list[float]]:
    """Return the metric of each trial by epoch, from the journal."""
    study = optuna.load_study(study_name="nfm", storage=_open_storage(search.folder))
    return [[value for _, value in sorted(trial.intermediate_values.items())] for trial in list_counted_trials(study)]


def outcome(search: Search) -> list[tuple[Any, ...]]:
    trials = zip(search.trials, by_epoch(search), strict=True)
    return [(t.number, t.value, dict(t.settings), t.is_unchanged, values, t.reason) for t, values in trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Space, Search]]:
    space = space_of(prepare(tmp_path_factory.mktemp("searched")))
    yield space, tune(space, 3)


def test_the_first_trial_is_the_configuration_and_best_yaml_has_the_best_trial(searched: tuple[Space, Search]) -> None:
    space, search = searched
    first, best = search.trials[0], search.best
    assert (search.metric, search.sign, len(search.trials)) == ("val_auc", 1, 3)
    assert first.is_unchanged
    assert dict(first.settings) == {"train.learning_rate": 0.001, "model.hidden_units": [8]}
    assert not any(trial.is_unchanged for trial in search.trials[1:])
    assert best is not None
    values = [trial.value for trial in search.trials if trial.value is not None]
    assert best.value == max(values)
    assert len(set(values)) > 1
    assert best.value == max(by_epoch(search)[best.number - 1])  # early stopping watches the same metric

    path = search.folder / "best.yaml"
    expected = space.content
    for key, value in best.settings.items():
        expected = put(expected, key, value, "")
    assert read(path) == expected
    config = load(path)
    assert config.train.learning_rate == best.settings["train.learning_rate"]
    encoding, folds = train.read(config)
    fitted = train.fit_from(config, encoding.spec, folds, Places())
    assert fitted.history["val_auc"][fitted.best_epoch - 1] == best.value

    text = tune_summary.summary(space, search, 3)
    assert f"best      {best.value:.4f}, trial {best.number}" in text
    assert f"unchanged {first.value:.4f}" in text
    assert f"nfm train --config {path}" in text


def test_a_killed_search_resumes_to_the_trials_of_an_uninterrupted_one(
    searched: tuple[Space, Search], trainings: Forks, tmp_path: Path
) -> None:
    path = prepare(tmp_path)
    journal = tmp_path / "work" / "tune" / JOURNAL
    job = trainings.start("tune", "--config", str(path), "--trials", "3", "--set", f"tune.space={SPACE}")
    # One trial has finished, and the second has measured an epoch.
    while not job.has_ended() and (not journal.exists() or len(re.findall(r'"step":1,', journal.read_text())) < 2):
        time.sleep(0.005)
    assert not job.has_ended(), f"the search ended before it could be killed: {job.stderr()}"
    job.send_signal(signal.SIGKILL)
    assert job.wait().returncode == -signal.SIGKILL
    lock = Path(f"{journal}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(journal)  # as after a kill during a write
    with journal.open("a") as file:
        file.write('{"op_code":6,"wor')
    space = space_of(path)
    assert outcome(read_search(space)) == outcome(searched[1])[:1]
    assert "2 to run, 1 done" in tune_summary.plan(space, read_search(space), 3)
    assert outcome(tune(space, 2)) == outcome(searched[1])[:2]
    assert outcome(tune(space, 3)) == outcome(searched[1])  # a later run with more trials
    assert outcome(tune(space, 2)) == outcome(searched[1])  # there are already more


def test_changed_settings_and_data_are_named(searched: tuple[Space, Search], tmp_path: Path) -> None:
    path = prepare(tmp_path)
    tune(space_of(path), 1)
    for changed, name in (
        (space_of(path, "train.batch_size=32"), "train.batch_size was "),
        (space_of(path, "tune.metric=val_loss"), 'tune.metric was "val_auc" and is "val_loss" now'),
        (
            space_of(path, space="{model.embedding_dim: [4, 8]}"),
            "tune.space.model.embedding_dim was not set and is [4, 8] now; tune.space.model.hidden_units was ",
        ),
    ):
        with pytest.raises(DataError, match=f"this changed: {re.escape(name)}") as error:
            tune(changed, 2)
        assert f"delete or rename {tmp_path}/work/tune" in str(error.value)
    write_dataset(tmp_path / "work", seed=1)
    pq.write_table(
        pq.read_table(tmp_path / "work/dataset/fold=train/part-0.parquet"),
        tmp_path / "work/dataset/fold=train/part-0.parquet",
        compression="none",
    )
    with pytest.raises(DataError, match="this changed: train fold"):
        read_search(space_of(path))


def test_unreadable_journals_and_concurrent_searches_are_refused(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    folder = tmp_path / "work" / "tune"
    with locked(folder), pytest.raises(BusyError, match="Another run is writing"):
        tune(space_of(path), 1)
    folder.mkdir()
    (folder / JOURNAL).write_text("nothing of the kind\n{}\n")
    with pytest.raises(DataError, match=r"journal\.log, cannot be read .* Delete"):
        tune(space_of(path), 1)


def test_refused_combinations_and_divergence_are_trials_with_a_reason(tmp_path: Path) -> None:
    space = space_of(
        prepare(tmp_path),
        "tune.metric=val_loss",
        "train.optimizer=adagrad",
        "train.learning_rate=0.05",
        "train.epochs=2",
        space="{train.optimizer: [adagrad, sgd], train.momentum: [0.0, 0.9], train.learning_rate: [0.05, 1.0e+30]}",
    )
    search = tune(space, 9)
    assert search.sign == -1
    for trial in search.trials:
        settings = trial.settings
        refused = settings["train.optimizer"] == "adagrad" and settings["train.momentum"]
        diverged = settings["train.learning_rate"] > 1
        if "not trained again" in (trial.reason or ""):
            twin = search.trials[int((trial.reason or "").split()[5].rstrip(":")) - 1]
            assert (twin.settings, twin.value) == (settings, trial.value)
        elif refused:
            assert trial.value is None
            assert "momentum is only for optimizer: sgd, but it is adagrad" in (trial.reason or "")
        elif diverged:
            assert trial.value is None
            assert "the training diverged" in (trial.reason or "")
        elif trial.value is None:
            assert "worse than the median" in (trial.reason or "")
    reasons = " ".join(trial.reason or "" for trial in search.trials)
    assert "momentum is only for optimizer: sgd" in reasons
    assert "diverged" in reasons
    assert search.best is not None
    assert search.best.value == min(trial.value for trial in search.trials if trial.value is not None)


def test_a_small_space_without_the_configuration_is_exhausted(tmp_path: Path) -> None:
    space = space_of(prepare(tmp_path), "train.epochs=1", space="{model.embedding_dim: [2, 3]}")  # it is 4
    search = tune(space, 30)
    first = search.trials[0]
    assert (first.is_unchanged, dict(first.settings)) == (True, {})
    assert first.value is not None
    assert search.exhausted
    assert {trial.settings.get("model.embedding_dim") for trial in search.trials} == {None, 2, 3}
    assert "every combination of the space was tried" in tune_summary.summary(space, search, 30)


def test_a_search_without_a_finished_trial_is_an_error(tmp_path: Path) -> None:
    space = space_of(prepare(tmp_path), "train.optimizer=sgd", space="{train.learning_rate: [1.0e+30, 1.0e+31]}")
    space = read_space(space.path, put(space.content, "train.learning_rate", 1e30, ""))
    with pytest.raises(DataError, match=r"None of the \d trials finished:\n  trial 1: .*the training diverged"):
        tune(space, 2)
    assert not (tmp_path / "work/tune/best.yaml").exists()


def test_the_metric_must_be_of_the_validation_fold(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    with pytest.raises(
        ConfigError, match=r"compared by loss, measured on the rows that they learn from.*such as val_loss"
    ):
        read_search(space_of(path, "train.early_stopping.monitor=loss"))
    valid = tmp_path / "work/dataset/fold=valid/part-0.parquet"
    table = pq.read_table(valid)
    pq.write_table(table.set_column(0, "label", pa.array(np.ones(len(table), np.float32))), valid)
    with pytest.raises(DataError, match=r"val_auc, which is not defined"):
        tune(space_of(path, "train.early_stopping=null", "tune.metric=val_auc"), 2)
    facts = json.loads((tmp_path / "work/dataset/_dataset.json").read_text())
    facts["rows"]["valid"] = 0
    valid.unlink()
    (tmp_path / "work/dataset/_dataset.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"the validation fold of .* has no rows"):
        read_search(space_of(path))


def test_importance_is_highest_for_the_setting_that_changes_the_metric() -> None:
    rng, study = np.random.default_rng(0), optuna.create_study()
    unit: dict[str, BaseDistribution] = {name: FloatDistribution(0, 1) for name in ("moves", "noise")}
    importances = []
    for _ in range(40):
        drawn = dict(zip(unit, rng.random(2).tolist(), strict=True))
        study.add_trial(optuna.create_trial(params=drawn, distributions=unit, value=drawn["moves"] ** 2))
        importances.append(_importance(study))
    assert [bool(shares) for shares in importances[:10]] == [False] * 9 + [True]
    assert importances[-1]["moves"] > 0.9
    assert sum(importances[-1].values()) == pytest.approx(1)
