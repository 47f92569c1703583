"""Defaults of the model that depend on the dataset."""

import logging
from pathlib import Path
from typing import Any

from nfm.config.settings import Config
from nfm.config.train import L2
from nfm.contract.artifact import Artifact

log = logging.getLogger(__name__)

SMALL = 100_000  # train rows; with fewer, a classification has the defaults of small tables
SMALL_L2 = 0.01  # model.l2.embedding of small tables
_NORM = {"batch_norm", "batch_norm_momentum", "batch_norm_epsilon"}


def complete(config: Config, train_rows: int) -> Config:
    """Return the configuration with the defaults of `model.batch_norm` and `model.l2.embedding` for this train fold.

    With few rows, each value's embedding has few rows to learn from: the penalty keeps it near 0 unless many rows
    agree, which a batch norm of the pooled vector would undo. Larger tables learn faster with batch norm, and the best
    penalty of a regression depends on its noise. docs/performance.md has the figures. A training that starts from a
    model (`train.init_from`) takes that model's settings. Settings that the configuration names stay.
    """
    model = config.model
    if config.ranking is not None:
        return _complete_ranking(config)
    if _NORM & model.model_fields_set or "embedding" in model.l2.model_fields_set:
        return config
    if config.train.init_from is not None:
        before = Artifact.load(Path(config.train.init_from)).metadata["configuration"]["model"]
        norm, penalty = before["batch_norm"], before.get("l2", {}).get("embedding", 0.0)
    elif model.task != "regression" and train_rows < SMALL:
        norm, penalty = False, SMALL_L2
        log.info(
            "model.batch_norm: false and model.l2.embedding: %g, the defaults for a classification of fewer than %s "
            "train rows",
            penalty,
            f"{SMALL:,}",
        )
    else:
        return config
    l2 = L2(**{**model.l2.model_dump(), "embedding": penalty})
    return config.model_copy(update={"model": model.model_copy(update={"batch_norm": norm, "l2": l2})})


def _complete_ranking(config: Config) -> Config:
    defaults: dict[str, Any] = {"hidden_units": (), "batch_norm": False}
    if config.train.init_from is not None:
        before = Artifact.load(Path(config.train.init_from)).metadata["configuration"]["model"]
        defaults = {"hidden_units": tuple(before["hidden_units"]), "batch_norm": before["batch_norm"]}
    unset = {name: value for name, value in defaults.items() if name not in config.model.model_fields_set}
    return config.model_copy(update={"model": config.model.model_copy(update=unset)})
