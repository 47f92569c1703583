"""Search for better settings: Optuna chooses the settings of trainings on the same dataset.

    tune/  journal.log  best.yaml  report.html

The settings of a trial depend on the values of the trials before it (tree-structured Parzen estimator: Bergstra et al.,
"Algorithms for Hyper-Parameter Optimization", NIPS 2011); the first trial uses the unchanged configuration. Each trial
has its own random seed, so that a killed search resumes to the same trials as one that was not killed.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
from optuna.trial import TrialState

from nfm.config.file import as_yaml
from nfm.config.space import Numbers, Space, shown
from nfm.contract.errors import ConfigError, DataError, DivergedError
from nfm.contract.publishing.publish import locked
from nfm.contract.publishing.replace import replacing
from nfm.contract.schema import Spec
from nfm.training.checkpoint import list_dependencies
from nfm.training.control import choose_sign
from nfm.training.data.batches import Fold
from nfm.training.fit import Places
from nfm.training.search.study import list_counted_trials, load_study, open_study
from nfm.training.train import fit_from, read
from nfm.training.warm_start import start_from_model

log = logging.getLogger(__name__)

BEST = "best.yaml"
_FOR_IMPORTANCE = 10  # least trials for an importance: with fewer it would be a guess
_UNCHANGED, _REASON = "as it is", "reason"  # keys in the journal


@dataclass(frozen=True)
class Trial:
    """Training of the search."""

    number: int  # counted from 1
    value: float | None  # of the metric; None if the training did not finish
    settings: Mapping[str, Any]  # of the space; the first trial lacks those whose value is outside the space
    is_unchanged: bool  # uses the unchanged configuration
    reason: str | None  # why it did not finish, or was not trained


@dataclass(frozen=True)
class Search:
    """State of a search."""

    folder: Path
    metric: str  # such as val_auc
    sign: int  # 1 if higher is better, -1 if lower is
    trials: Sequence[Trial]
    exhausted: bool  # every combination of the space was tried
    importance: Mapping[str, float]  # setting → share of the metric's variance that it explains; empty if unknown

    @property
    def best(self) -> Trial | None:
        """Trial with the best value, the first of equal ones; None if no trial finished."""
        finished = [trial for trial in self.trials if trial.value is not None]
        return max(finished, key=lambda trial: self.sign * (trial.value or 0.0), default=None)


def tune(space: Space, trials: int) -> Search:
    """Run trials until there are `trials` in all or all combinations were tried, and write the best configuration.

    Raises ConfigError if the metric is measured on the rows that the trials learn from; BusyError if another search is
    running; DataError as `nfm.training.train`, if an earlier search in the folder had other settings or data, or if no
    trial finished.
    """
    data = _Data.read(space)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # TensorFlow warns of a new graph for each trial
    with locked(data.folder):
        study = open_study(data.folder, data.depends_on, data.sign)
        if not any(trial.user_attrs.get(_UNCHANGED) for trial in study.trials if trial.state != TrialState.FAIL):
            study.enqueue_trial(space.as_it_is(), {_UNCHANGED: True})
        search = _make_search(study, data)
        while len(search.trials) < trials and not search.exhausted:
            seed = np.random.SeedSequence([space.base.train.seed, len(search.trials)]).generate_state(1)
            study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]), multivariate=False)
            _run(study, data)
            search = _make_search(study, data)
            log.info("trial %d of %d: %s", len(search.trials), trials, _describe_last_trial(search))
            if search.best is not None:
                _write_best(data, search.best)
        if search.best is None:
            reasons = "\n".join(f"  trial {trial.number}: {trial.reason}" for trial in search.trials[:5])
            raise DataError(
                f"None of the {len(search.trials)} trials finished:\n{reasons}\nChange tune.space, and delete "
                f"{data.folder}."
            )
        _write_best(data, search.best)
    return replace(search, importance=_importance(study))


def read_search(space: Space) -> Search:
    """Return the state of the search so far, without writing anything. Raises as `tune` does."""
    data = _Data.read(space)
    return _make_search(load_study(data.folder, data.depends_on), data)


@dataclass(frozen=True)
class _Data:
    """Data and settings that all trials share."""

    space: Space
    folder: Path
    metric: str
    sign: int
    spec: Spec
    folds: Mapping[str, Fold]
    depends_on: Mapping[str, Any]

    @classmethod
    def read(cls, space: Space) -> "_Data":
        base = space.base
        stopping, metric = base.train.early_stopping, base.tune.metric
        mode = stopping.mode if stopping and metric in (None, stopping.monitor) else "auto"
        metric = metric or (stopping.monitor if stopping else "val_loss")
        if not metric.startswith("val_"):
            raise ConfigError(
                f"{space.origin}: the trials would be compared by {metric}, measured on the rows that they learn from, "
                f"which rewards overfitting. Set tune.metric to a metric of the validation fold, such as val_{metric}."
            )
        encoding, folds = read(base)
        spec = encoding.spec
        if not folds["valid"].rows:
            raise DataError(
                f"The trials are compared by {metric}, but the validation fold of {base.dataset_folder} has no rows. "
                "Give it a larger share (split.valid), and run nfm features again."
            )
        initial = None
        if base.train.init_from is not None:
            initial = start_from_model(Path(base.train.init_from), spec, base.model).name
        dependencies = {
            **list_dependencies(spec, base.model, base.train, folds, initial),
            "tune.metric": metric,
            **{f"tune.space.{key}": value for key, value in base.model_dump(mode="json")["tune"]["space"].items()},
        }
        return cls(space, base.below("tune"), metric, choose_sign(metric, mode), spec, folds, dependencies)


def _run(study: optuna.Study, data: _Data) -> None:
    """Run one trial. If it is refused, stopped or diverges, its reason is recorded; a DataError ends the search."""
    trial = study.ask()
    values = data.space.values(_draw(trial, data.space))
    earlier = list_counted_trials(study)
    twin = next((number for number, other in enumerate(earlier, start=1) if other.params == trial.params), None)

    def each_epoch(epoch: int, history: Mapping[str, Sequence[float]]) -> None:
        trial.report(_last_value(history, data.metric), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"stopped after epoch {epoch}: worse than the median of the earlier trials")

    if twin is not None:
        trial.set_user_attr(_REASON, f"the same settings as trial {twin}: not trained again")
        finished = earlier[twin - 1].state == TrialState.COMPLETE
        study.tell(trial, earlier[twin - 1].value if finished else None, None if finished else TrialState.PRUNED)
        return
    try:
        config = data.space.config(values)
        keras.utils.clear_session()
        fitted = fit_from(config, data.spec, data.folds, Places(), each_epoch)
    except (ConfigError, DivergedError, optuna.TrialPruned) as error:
        # PRUNED, not FAIL: the sampler ignores failed trials, but it should avoid settings that are refused or diverge.
        trial.set_user_attr(_REASON, str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return
    study.tell(trial, fitted.history[data.metric][fitted.best_epoch - 1])


def _draw(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    fixed = space.as_it_is() if trial.user_attrs.get(_UNCHANGED) else space.settings
    for key, setting in space.settings.items():
        if key not in fixed:
            continue
        if not isinstance(setting, Numbers):
            trial.suggest_categorical(key, setting)
        elif setting.whole:
            trial.suggest_int(key, int(setting.low), int(setting.high), log=setting.log)
        else:
            trial.suggest_float(key, setting.low, setting.high, log=setting.log)
    return trial.params


def _last_value(history: Mapping[str, Sequence[float]], metric: str) -> float:
    values = history.get(metric)
    if not values:
        raise DataError(
            f"The trials are compared by {metric}, which is not defined: in the validation fold, no row has a positive "
            "weight, or all rows with one have the same class. Set tune.metric to another metric, or give the fold "
            "more rows (split)."
        )
    return values[-1]


def _make_search(study: optuna.Study | None, data: _Data) -> Search:
    frozen = list_counted_trials(study) if study is not None else []
    trials = [
        Trial(
            number,
            trial.value if trial.state == TrialState.COMPLETE else None,
            data.space.values(trial.params),
            trial.user_attrs.get(_UNCHANGED, False),
            trial.user_attrs.get(_REASON),
        )
        for number, trial in enumerate(frozen, start=1)
    ]
    tried = {repr(trial.settings) for trial in trials if len(trial.settings) == len(data.space.settings)}
    return Search(data.folder, data.metric, data.sign, trials, len(tried) >= data.space.size, {})


def _describe_last_trial(search: Search) -> str:
    last, best = search.trials[-1], search.best
    result = last.reason if last.value is None else f"{search.metric} {last.value:.4f}"
    settings = "the unchanged configuration" if last.is_unchanged else shown(last.settings)
    return f"{result}; {settings}" + (f" (best so far: {best.value:.4f}, trial {best.number})" if best else "")


def _write_best(data: _Data, best: Trial) -> None:
    """Write a copy of the user's configuration with the best settings, replaced in one step."""
    path, source = data.folder / BEST, data.space.path
    content = data.space.content if best.is_unchanged else data.space.changed(best.settings)
    head = (
        f"# {data.space.origin} with the settings of trial {best.number}: {data.metric} {best.value:.6g} (nfm tune)\n"
    )
    with replacing(path) as staging:
        staging.touch(mode=0o600)
        if source is not None:
            shutil.copymode(source, staging)  # it may contain a password, and be closed to others
        staging.write_text(head + as_yaml(content), encoding="utf-8")


def _importance(study: optuna.Study) -> dict[str, float]:
    """Return the share of the metric's variance that each setting explains (fANOVA: Hutter et al. 2014)."""
    settings = list(study.trials[-1].params)
    trials = [t for t in list_counted_trials(study) if t.state == TrialState.COMPLETE]
    finished = [trial for trial in trials if trial.params.keys() == set(settings)]
    if len(finished) < _FOR_IMPORTANCE or len({trial.value for trial in finished}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=settings)
