"""The embedding tables in training: pool the features of a batch and update its rows, in several threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.dataset import Inputs
from nfm.contract.schema import RATE_PARTS, Spec
from nfm.kernels import pooling
from nfm.kernels import tables as kernels
from nfm.kernels.averages import NO_AVERAGES, Averages, catch_up
from nfm.kernels.pooling import Features, Offsets
from nfm.kernels.rates import Rates, look_up
from nfm.kernels.tables import ByRow, Floats, Pooled, Rule, Tables, Upstream
from nfm.training.data.rows import Rows


class Formula(NamedTuple):
    """Update rule of an optimizer, as the compiled loops need it."""

    kind: int  # such as `kernels.ADAGRAD`
    slots: Sequence[float | Callable[[Any], Any]]  # initial values: a number, or a function of the weights
    numbers: Callable[[float, int], Sequence[float]]  # (rate, step from 1 on) → `numbers` of `kernels.Rule`


class TableReader:
    """List and pool the features of batches. The results do not depend on the number of threads."""

    def __init__(
        self,
        spec: Spec,
        weights: Tables,
        threads: int | None = None,
        rates: Rates | None = None,
        offsets: Offsets | None = None,
    ) -> None:
        """Start the threads.

        Args:
            spec: specification of the encoding.
            weights: the tables.
            threads: number of threads that share the work; by default one for each core.
            rates: target rates; None: the model has none.
            offsets: first rows of the fields and numbers; by default those of the specification.
        """
        singles = [offset for offset, field in zip(spec.offsets, spec.fields, strict=True) if field.bag is None]
        self._offsets = offsets or Offsets(
            np.array(singles, np.int64), np.array(spec.bin_offsets[:-1], np.int64), spec.bin_offsets[-1]
        )
        #: rows of the bins in the tables
        self.bins = slice(spec.bin_offsets[0], spec.bin_offsets[-1])
        self.weights, self.threads, self._rates = weights, threads or pa.cpu_count(), rates
        self._executor = ThreadPoolExecutor(self.threads)

    def list_features(self, inputs: Inputs) -> Features:
        """List the features of a batch, sample by sample."""
        rows = pooling.Rows(*inputs)
        features: Features = pooling.list_features(self._offsets, rows, 0, len(inputs.ids_BF))
        return features

    def append_rates(self, rows: Rows) -> Rows:
        """Return rows whose dense numbers are followed by their target rates."""
        if self._rates is None:
            return rows
        dense_BD = rows.inputs.dense_BD
        count, columns = dense_BD.shape
        joined = np.empty((count, columns + self._rates.columns), np.float32)
        joined[:, :columns] = dense_BD
        part_B = np.full(count, RATE_PARTS, np.int8) if rows.part is None else rows.part
        look_up(self._rates, pooling.Rows(*rows.inputs), part_B, 0, count, joined, columns)
        return rows._replace(inputs=rows.inputs._replace(dense_BD=joined))

    def group(self, features: Features) -> "Future[ByRow]":
        """Group the features of a batch by row of the table, in another thread."""
        return self._executor.submit(kernels.group_by_row, features, len(self.weights.embedding))

    def pool(self, features: Features) -> Pooled:
        """Pool the embeddings (B, K), and sum the linear weights (B, C), of each sample."""
        bounds = np.linspace(0, len(features.splits) - 1, self.threads + 1).astype(int)
        pooled_BK, sum_BK = (np.empty((bounds[-1], self.weights.embedding.shape[1]), np.float32) for _ in range(2))
        linear_BC = np.zeros((bounds[-1], self.weights.linear.shape[1]), np.float32)
        self.share(pooling.pool, bounds, features, *self.weights, pooled_BK, sum_BK, linear_BC)
        return Pooled(sum_BK, pooled_BK, linear_BC)

    def share(self, loop: Callable[..., object], bounds: NDArray[Any], *arguments: Any) -> None:
        """Call loop(start, stop, *arguments) for each range between bounds, the first range in this thread."""
        first, *others = [(a, b) for a, b in pairwise(bounds.tolist()) if a < b] or [(0, 0)]
        futures = [self._executor.submit(loop, *limits, *arguments) for limits in others]
        loop(*first, *arguments)
        for future in futures:
            future.result()


class TableUpdater:
    """Update the rows of the tables that occur in a batch; keeps the tables' optimizer slots."""

    def __init__(self, reader: TableReader, formulas: Sequence[Formula], averages: Averages = NO_AVERAGES) -> None:
        """Make the slots.

        Args:
            reader: reader of the tables, whose weights are changed in place.
            formulas: update rules of the embeddings and of the linear weights.
            averages: moving averages of the tables, which are changed in place.
        """
        self._reader, self._formulas, self._averages = reader, formulas, averages
        #: slots of each table
        self.slots = [
            [make_slot(start, table) for start in formula.slots]
            for formula, table in zip(formulas, reader.weights, strict=True)
        ]

    def square_norm(self, by_row: ByRow, upstream: Upstream, decays: Floats) -> float:
        """Return Σ g² over the gradients of the rows of the batch."""
        norms_D = np.empty(len(by_row.distinct_D))
        self._share(kernels.square_norms, by_row, upstream, self._reader.weights, decays, norms_D)
        return float(norms_D.sum())

    def update(self, by_row: ByRow, upstream: Upstream, decays: Floats, scale: float, rate: float, step: int) -> None:
        """Update the rows of the batch, their slots and their averages, in place.

        Args:
            by_row: features of the batch, grouped by row.
            upstream: derivatives of the objective.
            decays: (2,) twice the L2 factor of a feature's embedding and of its linear weight.
            scale: factor of the gradients.
            rate: the learning rate.
            step: number of the step, counted from 1.
        """
        none = np.empty((0, 1), np.float32)
        first, second = (Tables(*([*slots, none, none][i] for slots in self.slots)) for i in range(2))
        embedding, linear = (np.array(formula.numbers(rate, step), np.float32) for formula in self._formulas)
        kinds = self._formulas[0].kind, self._formulas[1].kind
        rule = Rule(kinds, (embedding, linear), np.float32(scale), decays, step)
        self._share(kernels.update, by_row, upstream, self._reader.weights, (first, second), self._averages, rule)

    def finish_averages(self, step: int) -> None:
        """Include all steps up to number `step` in the averages of all rows."""
        rows_R = np.arange(len(self._averages.steps_R), dtype=np.int32)
        bounds = np.linspace(0, len(rows_R), self._reader.threads + 1).astype(int)
        self._reader.share(catch_up, bounds, rows_R, self._reader.weights, self._averages, step)

    def _share(self, loop: Callable[..., object], by_row: ByRow, *arguments: Any) -> None:
        """Divide the distinct rows among the threads, in ranges with about equally many features."""
        shares = len(by_row.samples_P) * np.arange(self._reader.threads + 1) / self._reader.threads
        self._reader.share(loop, np.searchsorted(by_row.starts, shares), by_row, *arguments)


def make_slot(start: float | Callable[[Any], Any], weights: Floats) -> Floats:
    """Make an optimizer slot for an array of weights, with its initial value."""
    slot = np.empty_like(weights)
    slot[:] = start(weights) if callable(start) else start
    return slot
