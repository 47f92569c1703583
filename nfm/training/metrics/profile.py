"""Collect the profile that later health reports compare tables with (`contract.profile`), while folds are measured."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.cells import Cells, CellTable
from nfm.contract.profile import Bins, Profile, make_id_bins, max_cells
from nfm.contract.schema import Spec
from nfm.kernels.activations import compute_scores
from nfm.training.data.rows import Rows


class Collector:
    """Counts of the train fold's ids and numbers, and of the scores of a fold that represents unseen rows."""

    def __init__(self, spec: Spec, task: str, outputs: int) -> None:
        """Create an empty collector for C outputs."""
        self._spec, self._task = spec, task
        self._ids = np.zeros(spec.rows, np.float64)
        self._numbers = [CellTable(2) for _ in spec.numbers]
        self._scores = [CellTable(1, max_cells(outputs)) for _ in range(outputs)]
        singles = [start for field, start in zip(spec.fields, spec.offsets, strict=True) if field.bag is None]
        self._offsets = np.array(singles, np.int64)

    def add_rows(self, rows: Rows) -> None:
        """Count ids and numbers of rows; a negative counts 1 / negative_rate times, for those that were left out."""
        spec, inputs, rate = self._spec, rows.inputs, self._spec.negative_rate
        weight_B = np.where(rows.label > 0, 1.0, 1 / rate) if rate != 1 else np.ones(len(rows.label))
        np.add.at(self._ids, inputs.ids_BF + self._offsets, weight_B[:, None])
        np.add.at(self._ids, inputs.bag_rows, np.repeat(weight_B, np.diff(inputs.bag_splits)))
        group = ((rows.label > 0) if rate != 1 else np.zeros(len(rows.label))).astype(np.int64)
        for number, table in zip(spec.numbers, self._numbers, strict=True):
            dense = number.placement == "dense"
            values, names = (inputs.dense_BD, spec.dense) if dense else (inputs.values_BN, spec.field_numbers)
            table.add(values[:, names.index(number.name)], group)

    def add_scores(self, logits_BC: NDArray[Any]) -> None:
        """Count the scores of rows with (B, C) logits; scores that are not finite are left out."""
        scores_BC = compute_scores(self._task, logits_BC.astype(np.float64)).astype(np.float32)
        for scores_B, table in zip(scores_BC.T, self._scores, strict=True):
            table.add(scores_B[np.isfinite(scores_B)], np.zeros(len(scores_B), np.int64))

    def make_profile(self, fold: str) -> Profile:
        """Make the profile of all rows and scores that were added; `fold` is the name of the fold of the scores."""
        spec = self._spec
        blocks = zip(spec.fields, spec.offsets, strict=True)
        fields = {field.name: make_id_bins(field, self._ids[start : start + field.size]) for field, start in blocks}
        numbers = {
            number.name: Bins.from_cells(self._restore_dropped_negatives(table.cells()))
            for number, table in zip(spec.numbers, self._numbers, strict=True)
        }
        return Profile(fields, numbers, fold, tuple(table.cells() for table in self._scores))

    def _restore_dropped_negatives(self, cells: Cells) -> Cells:
        """Add the counts of label 0, scaled up for the negatives that were left out, and of label 1."""
        counts = cells.counts / np.array([self._spec.negative_rate, 1.0])
        return Cells(cells.bits, cells.keys, counts.sum(axis=1, keepdims=True))
