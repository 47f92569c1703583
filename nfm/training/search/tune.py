"""The search for better settings: trainings with other settings on the same dataset, chosen by Optuna.

    tune/  journal.log  best.yaml  report.html

A trial's settings come from the values of those before it (tree-structured Parzen estimator: Bergstra et al.,
"Algorithms for Hyper-Parameter Optimization", NIPS 2011); the first trial is the configuration as it is. Each trial
draws from random numbers of its own, so that a killed search goes on to the very trials of an undisturbed one.
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
from nfm.contract.publish import locked
from nfm.contract.replace import replacing
from nfm.contract.schema import Spec
from nfm.training.control import sign
from nfm.training.data.batches import Fold
from nfm.training.fit import Places, list_dependencies
from nfm.training.search.study import done, load_study, open_study
from nfm.training.train import fit_from, read
from nfm.training.warm_start import start_from_model

log = logging.getLogger(__name__)

BEST = "best.yaml"
_FOR_IMPORTANCE = 10  # trials; of fewer it would be a guess
_AS_IT_IS, _REASON = "as it is", "reason"  # names in the journal


@dataclass(frozen=True)
class Trial:
    """A training of the search."""

    number: int  # from 1
    value: float | None  # of the metric; None where the training did not come to its end
    settings: Mapping[str, Any]  # of the space; the first trial lacks those whose value lies outside
    as_it_is: bool
    reason: str | None  # why it did not come to its end, or was not trained


@dataclass(frozen=True)
class Search:
    """The state of a search."""

    folder: Path
    metric: str  # such as val_auc
    sign: int  # 1 where higher is better, -1 where lower is
    trials: Sequence[Trial]
    exhausted: bool  # every combination of the space was tried
    importance: Mapping[str, float]  # setting → its share of what moved the metric; empty where that cannot be told

    @property
    def best(self) -> Trial | None:
        """The trial with the best value; the first one of several."""
        ended = [trial for trial in self.trials if trial.value is not None]
        return max(ended, key=lambda trial: self.sign * (trial.value or 0.0), default=None)


def tune(space: Space, trials: int) -> Search:
    """Search until there are `trials` in all, or the space has no more combinations; write the best configuration.

    Raises ConfigError if the trials would be judged by the rows that they learn from; BusyError if another search is
    running; DataError as `nfm.training.train`, if the search was begun with other settings or data, or no trial ended.
    """
    data = _Data.of(space)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of a graph for each trial, which is meant
    with locked(data.folder):
        study = open_study(data.folder, data.depends_on, data.sign)
        if not any(trial.user_attrs.get(_AS_IT_IS) for trial in study.trials if trial.state != TrialState.FAIL):
            study.enqueue_trial(space.as_it_is(), {_AS_IT_IS: True})
        search = _search(study, data)
        while len(search.trials) < trials and not search.exhausted:
            seed = np.random.SeedSequence([space.base.train.seed, len(search.trials)]).generate_state(1)
            study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]), multivariate=False)
            _run(study, data)
            search = _search(study, data)
            log.info("trial %d of %d: %s", len(search.trials), trials, _last_trial(search))
            if search.best is not None:
                _write_best(data, search.best)
        if search.best is None:
            reasons = "\n".join(f"  trial {trial.number}: {trial.reason}" for trial in search.trials[:5])
            raise DataError(
                f"None of the {len(search.trials)} trials came to its end:\n{reasons}\nChange tune.space, and delete "
                f"{data.folder}."
            )
        _write_best(data, search.best)
    return replace(search, importance=_importance(study))


def read_search(space: Space) -> Search:
    """The search so far; writes nothing. Raises as `tune` does."""
    data = _Data.of(space)
    return _search(load_study(data.folder, data.depends_on), data)


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
    def of(cls, space: Space) -> "_Data":
        base = space.base
        stopping, metric = base.train.early_stopping, base.tune.metric
        mode = stopping.mode if stopping and metric in (None, stopping.monitor) else "auto"
        metric = metric or (stopping.monitor if stopping else "val_loss")
        if not metric.startswith("val_"):
            raise ConfigError(
                f"{space.path}: the trials would be judged by {metric} of the rows that they learn from, which rewards "
                f"overfitting. Set tune.metric to one of the validation fold, such as val_{metric}."
            )
        encoding, folds = read(base)
        spec = encoding.spec
        if not folds["valid"].rows:
            raise DataError(
                f"The trials are judged by {metric}, but no row of {base.dataset_folder} fell to the validation fold. "
                "Give it a larger share (split.valid), and run jobs/features.py again."
            )
        initial = None
        if base.train.init_from is not None:
            initial = start_from_model(Path(base.train.init_from), spec, base.model).name
        of_trials = {
            **list_dependencies(spec, base.model, base.train, folds, initial),
            "tune.metric": metric,
            **{f"tune.space.{key}": value for key, value in base.model_dump(mode="json")["tune"]["space"].items()},
        }
        return cls(space, Path(base.workdir, "tune"), metric, sign(metric, mode), spec, folds, of_trials)


def _run(study: optuna.Study, data: _Data) -> None:
    """Run one trial. A reason that ends it early is recorded; errors of the data end the search."""
    trial = study.ask()
    values = data.space.values(_drawn(trial, data.space))
    earlier = done(study)
    twin = next((number for number, one in enumerate(earlier, start=1) if one.params == trial.params), None)

    def each_epoch(epoch: int, history: Mapping[str, Sequence[float]]) -> None:
        trial.report(_last(history, data.metric), epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"stopped after epoch {epoch}: worse than the median of the trials before")

    if twin is not None:
        trial.set_user_attr(_REASON, f"the settings of trial {twin} once more: not trained again")
        ended = earlier[twin - 1].state == TrialState.COMPLETE
        study.tell(trial, earlier[twin - 1].value if ended else None, None if ended else TrialState.PRUNED)
        return
    try:
        config = data.space.config(values)
        keras.utils.clear_session()
        fitted = fit_from(config, data.spec, data.folds, Places(), each_epoch)
    except (ConfigError, DivergedError, optuna.TrialPruned) as error:
        # Not FAIL, from which the sampler learns nothing: it should avoid settings that are refused or diverge.
        trial.set_user_attr(_REASON, str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return
    study.tell(trial, fitted.history[data.metric][fitted.best_epoch - 1])


def _drawn(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    fixed = space.as_it_is() if trial.user_attrs.get(_AS_IT_IS) else space.settings
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


def _last(history: Mapping[str, Sequence[float]], metric: str) -> float:
    values = history.get(metric)
    if not values:
        raise DataError(
            f"The trials are judged by {metric}, which is not defined: the rows of the validation fold that have a "
            "weight are none, or all of one class. Set tune.metric to another, or give the fold more rows (split)."
        )
    return values[-1]


def _search(study: optuna.Study | None, data: _Data) -> Search:
    frozen = done(study) if study is not None else []
    trials = [
        Trial(
            number,
            trial.value if trial.state == TrialState.COMPLETE else None,
            data.space.values(trial.params),
            trial.user_attrs.get(_AS_IT_IS, False),
            trial.user_attrs.get(_REASON),
        )
        for number, trial in enumerate(frozen, start=1)
    ]
    tried = {repr(trial.settings) for trial in trials if len(trial.settings) == len(data.space.settings)}
    return Search(data.folder, data.metric, data.sign, trials, len(tried) >= data.space.size, {})


def _last_trial(search: Search) -> str:
    last, best = search.trials[-1], search.best
    result = last.reason if last.value is None else f"{search.metric} {last.value:.4f}"
    settings = "the configuration as it is" if last.as_it_is else shown(last.settings)
    return f"{result}; {settings}" + (f" (best so far: {best.value:.4f}, trial {best.number})" if best else "")


def _write_best(data: _Data, best: Trial) -> None:
    """Write the user's file with the best settings in place; a reader always sees a complete one."""
    path, source = data.folder / BEST, data.space.path
    content = data.space.content if best.as_it_is else data.space.changed(best.settings)
    head = f"# {source} with the settings of trial {best.number}: {data.metric} {best.value:.6g} (jobs/tune.py)\n"
    with replacing(path) as staging:
        staging.touch(mode=0o600)
        shutil.copymode(source, staging)  # it may contain a password, and be closed to others
        staging.write_text(head + as_yaml(content), encoding="utf-8")


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of the metric's variance that each setting explains (fANOVA: Hutter, Hoos & Leyton-Brown 2014)."""
    settings = list(study.trials[-1].params)
    ended = [t for t in done(study) if t.state == TrialState.COMPLETE and t.params.keys() == set(settings)]
    if len(ended) < _FOR_IMPORTANCE or len({trial.value for trial in ended}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, params=settings)
