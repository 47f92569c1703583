"""Scores of a model by its Keras file, with which the scores of the forward pass without TensorFlow are compared."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact
from nfm.contract.dataset import Inputs
from nfm.contract.errors import DataError, ReplacedError
from nfm.kernels.activations import compute_scores
from nfm.training.layers import make_keras_inputs  # the import also registers the layers of saved models


def keras_scores(artifact: Artifact, rows: Inputs) -> NDArray[np.float64]:
    """Return (N, C) scores of at least one encoded row, computed in one batch by the model's `keras/model.keras`.

    Scores are probabilities of label 1 (binary), numbers (regression), or probabilities of the classes (multiclass).
    Raises DataError if the file is missing, cannot be read, or contains a model with other inputs or outputs.
    """
    path = artifact.path / "keras" / "model.keras"
    try:
        model = artifact.read_more(lambda: _load(path, artifact.fingerprint))
        logits_NC = model(make_keras_inputs(rows, artifact.encoding.spec), training=False).numpy()
    except ReplacedError:
        raise
    except Exception as error:  # Keras and TensorFlow raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path} cannot score the rows that the model's encoding makes ({reason}). The files of a model must not "
            "be changed. Restore it from a copy, or run nfm train again."
        ) from error
    if logits_NC.shape != (len(rows.ids_BF), artifact.network.outputs):
        raise DataError(
            f"{path} returns scores of shape {logits_NC.shape}, but the model's exported weights return "
            f"{(len(rows.ids_BF), artifact.network.outputs)}: they do not belong together. Run nfm train again."
        )
    return compute_scores(artifact.network.task, logits_NC.astype(np.float64))


@lru_cache(maxsize=1)
def _load(path: Path, fingerprint: str) -> Any:
    """Load the Keras model; the fingerprint makes the cache miss if the model was replaced."""
    return keras.models.load_model(path, compile=False)
