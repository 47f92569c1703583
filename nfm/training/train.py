"""The train job's work: dataset and encoding → model/."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nfm
from nfm.config import Config
from nfm.contract import artifact
from nfm.contract.encoder import Encoding
from nfm.contract.schema import FOLDS, Spec
from nfm.training import report
from nfm.training.data import Fold, read_folds
from nfm.training.fit import Fitted, evaluate, fit
from nfm.training.model import export, network


@dataclass(frozen=True)
class Trained:
    """What there is to tell of a training."""

    spec: Spec
    statistics: Mapping[str, Any]  # of the feature job
    fitted: Fitted
    metrics: Mapping[str, Mapping[str, Any]]  # by fold
    folds: Mapping[str, Fold]
    scores: Mapping[str, NDArray[np.float64]]  # (B,) probabilities by fold


def train(config: Config) -> Trained:
    """Read the dataset, fit, measure, and publish the artifact with its report.

    Raises:
        DataError: no dataset or encoding, two that do not belong together, or nothing to train on.
    """
    encoding, folds = read(config)
    statistics = json.loads((config.encoding_folder / "statistics.json").read_text())
    fitted = fit(encoding.spec, config.model, config.train, folds)
    metrics, scores = evaluate(fitted.model, folds)
    trained = Trained(encoding.spec, statistics, fitted, metrics, folds, scores)

    def write_more(folder: Path) -> None:
        (folder / "keras").mkdir()
        fitted.model.save(folder / "keras" / "model.keras")
        report.write(folder / "report.html", config, trained)

    artifact.save(
        Path(config.workdir, "model"),
        encoding_folder=config.encoding_folder,
        network=network(config.model),
        weights=export(fitted.model, encoding.spec, config.model),
        facts=_facts(config, trained),
        write_more=write_more,
    )
    return trained


def read(config: Config) -> tuple[Encoding, dict[str, Fold]]:
    """The encoding and the folds that were written with it."""
    encoding = Encoding.load(config.encoding_folder)
    encoding.verify(str(config.encoding_folder))
    return encoding, read_folds(config.dataset_folder, encoding.spec)


def _facts(config: Config, trained: Trained) -> dict[str, Any]:
    return {
        "name": config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": config.model_dump(mode="json", by_alias=True),
        "rows": {fold: trained.folds[fold].rows for fold in FOLDS},
        "metrics": trained.metrics,
        "epochs": len(trained.fitted.history["loss"]),
        "best_epoch": trained.fitted.best_epoch,
        "libraries": {name: version(name) for name in ("tensorflow", "keras", "numpy", "pyarrow")},
        "nfm": nfm.__version__,
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The commit this code is from; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603 (fixed arguments)
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
