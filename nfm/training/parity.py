"""The scores of an artifact's own Keras model: what the forward pass without TensorFlow is held against."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact
from nfm.contract.encoder import Inputs
from nfm.contract.errors import DataError
from nfm.kernels.activations import scores_of
from nfm.training.layers import make_keras_inputs  # its import registers the layers of saved models, too


def keras_scores(artifact: Artifact, rows: Inputs) -> NDArray[np.float64]:
    """Return (N, C) scores by `keras/model.keras` of at least one encoded row; all N are computed together.

    Scores are probabilities of label 1 (binary), numbers (regression), or probabilities of the classes (multiclass).
    Raises DataError if the file is missing, cannot be read, or contains a model of other inputs or outputs.
    """
    path = artifact.path / "keras" / "model.keras"
    try:
        model = _loaded(path, artifact.fingerprint)
        logits_NC = model(make_keras_inputs(rows, artifact.encoding.spec), training=False).numpy()
    except Exception as error:  # Keras and TensorFlow raise their own, of many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path} cannot score the rows that the artifact's encoding makes ({reason}). An artifact is used only as "
            "it was written. Restore it from a copy, or run jobs/train.py again."
        ) from error
    if logits_NC.shape != (len(rows.ids_BF), artifact.network.outputs):
        raise DataError(
            f"{path} gives scores of the shape {logits_NC.shape} where the artifact's weights give "
            f"{(len(rows.ids_BF), artifact.network.outputs)}: they do not belong together. Run jobs/train.py again."
        )
    return scores_of(artifact.network.task, logits_NC.astype(np.float64))


@lru_cache(maxsize=1)
def _loaded(path: Path, fingerprint: str) -> Any:
    """The fingerprint tells an artifact that was replaced."""
    return keras.models.load_model(path, compile=False)
