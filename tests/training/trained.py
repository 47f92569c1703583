"""What a training leaves, for the tests to read: a model's outputs and weights, and the values in its event files."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold, Rows, features_of
from nfm.training.model import linear_part
from nfm.training.result import Fitted
from tests.training.examples import CHECKERBOARD


def rows(fold: Fold) -> Rows:
    (all_rows,) = fold.pieces()
    return all_rows


def logits(fitted: Fitted, fold: Fold, spec: Spec = CHECKERBOARD) -> tuple[NDArray[Any], NDArray[Any]]:
    """(B, C) of the model, and of its linear part."""
    both = linear_part(fitted.model)(features_of(rows(fold).inputs, spec), training=False)
    return np.asarray(both[0], np.float64), np.asarray(both[1], np.float64)


def sigmoid(logit: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-logit)))


def weights(fitted: Fitted) -> list[NDArray[Any]]:
    return [np.asarray(variable) for variable in fitted.model.variables]


def same(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def values_of(folder: Path) -> list[tuple[int, str, float]]:
    """(epoch, name, value) of all event files, in the order in which they were written."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda one: one.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.append((event.step, value.tag, float(tf.make_ndarray(value.tensor))))
    return found
