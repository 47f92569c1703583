"""The journal of a search: Optuna's study in one file, from which a killed search resumes."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nfm.contract.errors import DataError
from nfm.contract.messages import differences, listed

log = logging.getLogger(__name__)

JOURNAL = "journal.log"
_NAME, _DEPENDS_ON = "nfm", "depends_on"
_UNSTOPPED = 5  # trials that finish before a trial can be stopped for being worse than the median, …
_FIRST_EPOCHS = 2  # … and epochs after which a trial can be stopped


def open_study(folder: Path, depends_on: Mapping[str, Any], direction: int) -> optuna.Study:
    """Open the study in a folder, or create it. No other process may use the folder at the same time.

    `depends_on`: everything that the values of the trials depend on, by readable names; `direction`: 1 if higher is
    better, else -1. Raises DataError if the journal cannot be read or its dependencies have changed.
    """
    folder.mkdir(exist_ok=True)
    journal = folder / JOURNAL
    # A kill may have left the lock of the journal, and an incomplete last line.
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        log.warning("the last line of %s is incomplete and was removed", journal)
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    study = load_study(folder, depends_on)
    if study is None:
        goal: Any = "maximize" if direction > 0 else "minimize"
        study = optuna.create_study(storage=_open_storage(folder), study_name=_NAME, direction=goal)
    if _DEPENDS_ON not in study.user_attrs:
        study.set_user_attr(_DEPENDS_ON, dict(depends_on))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        log.info("a killed trial is not counted")
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNSTOPPED, n_warmup_steps=_FIRST_EPOCHS)
    return study


def load_study(folder: Path, depends_on: Mapping[str, Any]) -> optuna.Study | None:
    """Load the study in a folder without changing it; None if there is none. Raises DataError as `open_study` does."""
    if not (folder / JOURNAL).exists():
        return None
    try:
        storage = _open_storage(folder)
        if _NAME not in [study.study_name for study in storage.get_all_studies()]:
            return None
        study = optuna.load_study(study_name=_NAME, storage=storage)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The journal of the search, {folder / JOURNAL}, cannot be read ({error}). Delete {folder} to start again."
        ) from error
    # A kill during the creation of the study leaves it without trials and without dependencies.
    current = json.loads(json.dumps(depends_on))
    changed = sorted(differences(study.user_attrs.get(_DEPENDS_ON, current), current))
    if changed:
        raise DataError(
            f"The search in {folder} cannot be resumed, because its trials could not be compared: since it was "
            f"started, this changed: {listed(changed, '; ')}. Restore it. To start again, delete or rename {folder}."
        )
    return study


def list_counted_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count, in order: all except killed ones."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _open_storage(folder: Path) -> optuna.storages.BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
