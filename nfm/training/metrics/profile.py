"""The folds as the health report of a later table needs them: `contract.profile`, collected while they are measured."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.cells import Cells, CellTable
from nfm.contract.profile import Bins, Profile, id_bins, most_cells
from nfm.contract.schema import Spec
from nfm.kernels.activations import scores_of
from nfm.training.data.rows import Rows


class Collector:
    """Counts of the train fold's ids and numbers, and the scores of the fold that stands for unseen rows."""

    def __init__(self, spec: Spec, task: str, outputs: int) -> None:
        """Create an empty collector for C outputs."""
        self._spec, self._task = spec, task
        self._ids = np.zeros(spec.rows, np.float64)
        self._numbers = [CellTable(2) for _ in spec.numbers]
        self._scores = [CellTable(1, most_cells(outputs)) for _ in range(outputs)]
        singles = [start for field, start in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
        self._offsets = np.array(singles, np.int64)

    def add_rows(self, rows: Rows) -> None:
        """Count the ids and the numbers of some rows. Where negatives were left out, one stands for several."""
        spec, given, rate = self._spec, rows.inputs, self._spec.negative_rate
        weight_B = np.where(rows.label > 0, 1.0, 1 / rate) if rate != 1 else np.ones(len(rows.label))
        np.add.at(self._ids, given.ids_BF + self._offsets, weight_B[:, None])
        np.add.at(self._ids, given.bag_rows, np.repeat(weight_B, np.diff(given.bag_splits)))
        kept = ((rows.label > 0) if rate != 1 else np.zeros(len(rows.label))).astype(np.int64)
        for number, found in zip(spec.numbers, self._numbers, strict=True):
            dense = number.placement == "dense"
            values, names = (given.dense_BD, spec.dense) if dense else (given.values_BN, spec.field_numbers)
            found.add(values[:, names.index(number.name)], kept)

    def add_scores(self, logits_BC: NDArray[Any]) -> None:
        """Count the scores of some rows."""
        scores_BC = scores_of(self._task, logits_BC.astype(np.float64)).astype(np.float32)
        for of_class, found in zip(scores_BC.T, self._scores, strict=True):
            found.add(of_class[np.isfinite(of_class)], np.zeros(len(of_class), np.int64))

    def make_profile(self, fold: str) -> Profile:
        """The profile of all that was added; the scores are those of `fold`."""
        spec = self._spec
        parts = zip(spec.fields, spec.offsets, strict=True)
        fields = {field.name: id_bins(field, self._ids[start : start + field.size]) for field, start in parts}
        numbers = {
            number.name: Bins.of_cells(self._restore_dropped_negatives(found.cells()))
            for number, found in zip(spec.numbers, self._numbers, strict=True)
        }
        return Profile(fields, numbers, fold, tuple(found.cells() for found in self._scores))

    def _restore_dropped_negatives(self, found: Cells) -> Cells:
        """Counts that include the negatives that were left out."""
        counts = found.counts / np.array([self._spec.negative_rate, 1.0])
        return Cells(found.bits, found.keys, counts.sum(axis=1, keepdims=True))
