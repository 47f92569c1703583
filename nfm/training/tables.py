"""The tables of the features in the training: what a step reads of them, and how it moves their rows.

They are NumPy arrays, which the loops of `kernels` change in place; the Keras model's own variables take over their
memory when the model is measured or written (`publish`). There is no second copy of a large table.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow as tf
from numpy.typing import NDArray

from nfm.contract.schema import Spec
from nfm.kernels import tables as kernels
from nfm.kernels.tables import Batch, ByRow, Floats, Ints, Tables
from nfm.training.data.batches import BAG_FEATURES
from nfm.training.threads import even, shared

_ALIGNED = 64  # bytes: a row of 16 floats is in one cache line, and TensorFlow takes the memory as it is


class Rule(NamedTuple):
    """How weights move."""

    formula: int  # of `kernels`
    slots: Sequence[float | Callable[[Any], Any]]  # what they start with: a number, or a function of the weights
    numbers: Callable[[float, int], Sequence[float]]  # (rate, step from 1 on) → what the formula takes


class Read(NamedTuple):
    """A batch's features, and what the network takes of them."""

    rows_BM: Ints
    x_BM: Floats
    sum_BK: Floats
    pooled_BK: Floats
    linear_BC: Floats


class RowTables:
    """The embeddings and the first-order weights with their slots."""

    def __init__(self, variables: Sequence[Any], rules: Sequence[Rule], threads: int | None = None) -> None:
        """Take over the values of the variables.

        Args:
            variables: of the embeddings (R + 1, K) and of the first-order weights (R + 1, C).
            rules: of the two.
            threads: that share the work; one for each core unless set. The weights do not depend on it.
        """
        self._variables, self._rules = variables, rules
        self.threads = threads or pa.cpu_count()
        self.weights = Tables(*(_aligned(variable.shape) for variable in variables))
        self.adopt()
        #: of each variable
        self.slots = [
            [started(start, array) for start in rule.slots] for rule, array in zip(rules, self.weights, strict=True)
        ]

    def adopt(self) -> None:
        """Take the variables' values, which were set from elsewhere."""
        for array, variable in zip(self.weights, self._variables, strict=True):
            array[:] = np.asarray(variable.value.read_value())
        self.publish()

    def publish(self) -> None:
        """Give the variables the values of now; later ones they may show or not.

        TensorFlow takes the arrays' memory over as it is (DLPack) and copies it before an operation of its own would
        write there. Did it copy at once, the values would be the same.
        """
        for array, variable in zip(self.weights, self._variables, strict=True):
            variable.assign(taken_over(array))

    def read(self, rows_BM: Ints, x_BM: Floats) -> Read:
        """Pool the embeddings and add up the first-order weights of each sample's features."""
        count = len(rows_BM)
        sum_BK, pooled_BK = (_aligned((count, self.weights.embedding.shape[1])) for _ in range(2))
        linear_BC = _aligned((count, self.weights.linear.shape[1]))
        arrays = rows_BM, x_BM, self.weights, pooled_BK, sum_BK, linear_BC
        shared(self.threads, even(count, self.threads), kernels.pool, *arrays)
        return Read(rows_BM, x_BM, sum_BK, pooled_BK, linear_BC)

    def grouped(self, read: Read) -> ByRow:
        """The batch's features by their rows."""
        by_row: ByRow = kernels.order(read.rows_BM, read.x_BM, len(self.weights.embedding) - 1)
        return by_row

    def square_norm(self, by_row: ByRow, batch: Batch, decays: Floats) -> float:
        """Σ g² over the rows of the batch, each with its features' gradients added up."""
        norms_D = np.zeros(len(by_row.distinct_D))
        if len(norms_D):
            self._rows(by_row, batch, decays, 1.0, 0.0, 1, norms_D)
        return float(norms_D.sum())

    def move(self, by_row: ByRow, batch: Batch, decays: Floats, scale: float, rate: float, step: int) -> None:
        """Move the rows of the batch.

        Args:
            by_row: its features.
            batch: what the gradients follow from.
            decays: (2,), twice the factors of the penalties on a feature's squared weights.
            scale: of the gradients.
            rate: the learning rate.
            step: counted from 1.
        """
        self._rows(by_row, batch, decays, scale, rate, step, np.empty(0))

    def _rows(
        self,
        by_row: ByRow,
        batch: Batch,
        decays: Floats,
        scale: float,
        rate: float,
        step: int,
        norms_D: NDArray[np.float64],
    ) -> None:
        none = np.empty((0, 1), np.float32)
        of_both = [[], []] if len(norms_D) else self.slots  # which nothing moves
        slots = [Tables(*([*of, none, none][i] for of in of_both)) for i in range(2)]
        numbers = tuple(np.array(rule.numbers(rate, step), np.float32) for rule in self._rules)
        formulas = tuple(rule.formula for rule in self._rules)
        # Ranges of distinct rows with about as many features each
        shares = len(by_row.places) * np.arange(self.threads + 1) / self.threads
        bounds = np.searchsorted(by_row.starts, shares).tolist()
        given = (by_row, batch, self.weights, decays, np.float32(scale), formulas, numbers, *slots, norms_D)
        shared(self.threads, bounds, kernels.move, *given)


def taken_over(array: Floats) -> Any:
    """A tensor of an array's memory, as it is (DLPack)."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _aligned(shape: Sequence[int]) -> Floats:
    size = int(np.prod(shape))
    bytes_ = np.empty(4 * size + _ALIGNED, np.uint8)
    start = -bytes_.ctypes.data % _ALIGNED
    return bytes_[start : start + 4 * size].view(np.float32).reshape(shape)


def started(start: float | Callable[[Any], Any], weights: Floats) -> Floats:
    """A slot of some weights, as its rule says."""
    slot = _aligned(weights.shape)
    slot[:] = start(weights) if callable(start) else start
    return slot


def features_by_sample(features: Mapping[str, Any], spec: Spec) -> tuple[Ints, Floats]:
    """The model's inputs as rows of the tables, and the x of each: (B, M), M = F + N + P.

    Args:
        features: as `training.data.features_of` arranges them.
        spec: of the encoding.
    """
    offsets = [offset for offset, field in zip(spec.offsets, spec.fields, strict=True) if field.bag is None]
    ids_BF, values_BN = np.asarray(features["ids"]), np.asarray(features["values"])
    numbers = np.arange(spec.rows - values_BN.shape[1], spec.rows, dtype=np.int32)
    rows = [ids_BF + np.array(offsets, np.int32), np.broadcast_to(numbers, values_BN.shape)]
    x: list[NDArray[Any]] = [np.ones(ids_BF.shape, np.float32), values_BN]
    if BAG_FEATURES[0] in features:
        rows.append(np.asarray(features[BAG_FEATURES[0]]))
        x.append(np.asarray(features[BAG_FEATURES[1]]))
    return np.concatenate(rows, axis=1), np.concatenate(x, axis=1)
