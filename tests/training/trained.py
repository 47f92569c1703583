"""Results of a training: outputs and weights of the model, and the values in its event files."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.kernels.tables import Tables
from nfm.training.data.batches import Fold, Rows
from nfm.training.model import TABLES, Weights
from nfm.training.optimizers import list_arrays
from nfm.training.result import Fitted
from nfm.training.unit import Unit


class Recorder:
    """Object with the interface of a tally that keeps the logits."""

    def __init__(self) -> None:
        self.logits: list[NDArray[Any]] = []
        self.linear: list[NDArray[Any]] = []

    def add(self, label: Any, weight: Any, logits_BC: NDArray[Any], linear_BC: NDArray[Any], group: Any) -> None:
        self.logits.append(logits_BC)
        self.linear.append(linear_BC)


def rows(fold: Fold) -> Rows:
    (all_rows,) = fold.pieces()
    return all_rows


def logits(fitted: Fitted, fold: Fold, unit: Unit | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (B, C) logits of the model, and of its linear part, in the published unit or in another."""
    recorder: Any = Recorder()
    fitted.measure(fold, recorder, unit=unit or fitted.unit)
    return np.concatenate(recorder.logits).astype(np.float64), np.concatenate(recorder.linear).astype(np.float64)


def linear_part(model: keras.Model) -> keras.Model:
    """Return a model with the same inputs, and two outputs: (B, C) logits, and those of the linear part alone."""
    return keras.Model(model.input, [model.output, model.get_layer("score").input[0]])


def weights_of(model: keras.Model) -> Weights:
    """Return the weights of a Keras model as arrays, without the padding rows of its tables."""
    arrays = {variable.path: variable.numpy() for variable in model.variables}
    tables = Tables(*(np.array(arrays.pop(path)[:-1]) for path in TABLES))
    rates = np.array(arrays.pop("rates/table")[:-1]) if "rates/table" in arrays else None
    network = {path: np.array(array) for path, array in arrays.items() if array.dtype == np.float32}
    return Weights(tables, network, rates)


def sigmoid(logit: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-logit)))


def weights(fitted: Fitted) -> list[NDArray[Any]]:
    return [array.copy() for array in list_arrays(fitted.weights)]


def are_same(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def read_events(folder: Path) -> list[tuple[int, str, float]]:
    """Return (epoch, name, value) of all event files, in the order in which they were written."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.append((event.step, value.tag, float(tf.make_ndarray(value.tensor))))
    return found
