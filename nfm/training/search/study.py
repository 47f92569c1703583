"""The journal of a search: Optuna's study in one file, which a killed search goes on from."""

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
_UNSTOPPED = 5  # trials that come to their end before one is stopped for being worse than their median, …
_FIRST_EPOCHS = 2  # … and epochs that every trial is given


def open_study(folder: Path, depends_on: Mapping[str, Any], direction: int) -> optuna.Study:
    """Open the study of a folder, new or to be resumed. No other process may use it.

    `depends_on`: what the values of the trials follow from, by readable names; `direction`: 1 where higher is better,
    else -1. Raises DataError if the journal cannot be read, or what it depends on has changed.
    """
    folder.mkdir(exist_ok=True)
    journal = folder / JOURNAL
    # What a kill may have left: the lock of the journal, and at its end a line that is not whole.
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        log.warning("the last line of %s was not written to its end, and is left out", journal)
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    study = load_study(folder, depends_on)
    if study is None:
        way: Any = "maximize" if direction > 0 else "minimize"
        study = optuna.create_study(storage=_storage(folder), study_name=_NAME, direction=way)
    if _DEPENDS_ON not in study.user_attrs:
        study.set_user_attr(_DEPENDS_ON, dict(depends_on))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        log.info("a trial that was killed is not counted")
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNSTOPPED, n_warmup_steps=_FIRST_EPOCHS)
    return study


def load_study(folder: Path, depends_on: Mapping[str, Any]) -> optuna.Study | None:
    """Load the study of a folder, to look at; None if none was begun. Raises DataError as `open_study` does."""
    if not (folder / JOURNAL).exists():
        return None
    try:
        storage = _storage(folder)
        if _NAME not in [study.study_name for study in storage.get_all_studies()]:
            return None
        study = optuna.load_study(study_name=_NAME, storage=storage)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The journal of the search, {folder / JOURNAL}, cannot be read ({error}). Delete {folder} to begin anew."
        ) from error
    # A kill while the study was made leaves one without a trial, that says nothing yet.
    now = json.loads(json.dumps(depends_on))
    changed = sorted(differences(study.user_attrs.get(_DEPENDS_ON, now), now))
    if changed:
        raise DataError(
            f"The search in {folder} cannot be resumed, because its trials could not be compared: since it was begun, "
            f"this changed: {listed(changed, '; ')}. Put it back; or, to start again, delete {folder} or give it "
            "another name."
        )
    return study


def done(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count, in order: all except killed ones."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _storage(folder: Path) -> optuna.storages.BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
