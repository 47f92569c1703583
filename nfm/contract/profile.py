"""Distributions of a model's training data in bins, to measure the drift of later tables.

    model/profile.json   fields and numbers of the train fold; scores of the valid fold

The bins of a field are missing, out-of-vocabulary, and ranges of the vocabulary's ids with about the same frequency.
The bins of a number and of the scores are ranges of values with about the same frequency. Numbers are binned after
encoding (clipped, imputed, scaled), so that a raw table and a dataset are measured in the same way.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nfm.contract.cells import LIMIT, Cells
from nfm.contract.schema import Field, Spec

PROFILE = "profile.json"  # in the model folder
_ID_BINS = 20  # for a field's vocabulary
_VALUE_BINS = 10  # for a number or the scores, as is usual for a PSI
_MIN_CELLS = 256  # for each output
_MIN_SHARE = 1e-4  # of a bin: an empty bin would make any PSI infinite
_CHANCE_Z = 3.0902  # the normal quantile that one in a thousand exceeds


@dataclass(frozen=True)
class Bins:
    """Counts of a column in E + 1 bins: x is in the bin i for which edges[i - 1] <= x < edges[i]."""

    edges: tuple[float, ...]  # (E,) ascending
    counts: tuple[float, ...]  # (E + 1,)

    @classmethod
    def from_cells(cls, cells: Cells, group: int = 0) -> Self:
        """Make bins with about the same frequency; edges are between values, never on a value."""
        values, counts = cells.values, cells.counts[:, group].astype(np.float64)
        values, counts = values[counts > 0], counts[counts > 0]
        if len(values) < 2:
            return cls((), (float(counts.sum()),))
        ends = np.cumsum(counts)
        wanted = ends[-1] * np.arange(1, _VALUE_BINS) / _VALUE_BINS
        after = np.searchsorted(ends, wanted)  # cut after this value, or before it where that is nearer
        before = np.where(after > 0, ends[after - 1], 0.0)
        after -= wanted - before < ends[after] - wanted
        cuts = np.unique(after[(after >= 0) & (after < len(values) - 1)])
        edges = values[cuts] + (values[cuts + 1] - values[cuts]) / 2
        return cls(tuple(edges.tolist()), tuple(np.add.reduceat(counts, np.r_[0, cuts + 1]).tolist()))

    @property
    def rows(self) -> float:
        """Number of values."""
        return math.fsum(self.counts)


def max_cells(outputs: int) -> int:
    """Return the limit of cells for each output's scores: LIMIT shared by all outputs, but a minimum for each."""
    return max(_MIN_CELLS, LIMIT // outputs)


def has_out_of_vocabulary(field: Field) -> bool:
    """Return whether a value can be out-of-vocabulary; a hashed or a bucketed field has an id for every value."""
    return field.vocabulary is not None


def make_id_bins(field: Field, counts: NDArray[np.float64]) -> Bins:
    """Make the bins of a field: missing, out-of-vocabulary (if possible), ranges of ids with about the same frequency.

    `counts`: (size,) frequency of each id.
    """
    start = special_edges(field)[-1]
    region = counts[start:]
    ends = np.cumsum(region)
    cuts = np.empty(0, np.int64)
    if len(region) and ends[-1] > 0:
        share = np.minimum(((ends - region) * _ID_BINS / ends[-1]).astype(np.int64), _ID_BINS - 1)
        cuts = np.flatnonzero(np.diff(share)) + 1
    edges = np.r_[np.array(special_edges(field), np.int64), cuts + start]
    sums = np.add.reduceat(counts, np.r_[0, edges[edges < len(counts)]])
    padded = np.zeros(len(edges) + 1)  # an empty vocabulary has an edge after its last id
    padded[: len(sums)] = sums
    return Bins(tuple(edges.tolist()), tuple(padded.tolist()))


def special_edges(field: Field) -> tuple[int, ...]:
    """Return the edges that separate missing and out-of-vocabulary from the values."""
    return (1, field.first_value) if has_out_of_vocabulary(field) else (1,)


@dataclass(frozen=True)
class Profile:
    """Distributions of a model's training data, and of its scores for rows that it was not trained on."""

    fields: Mapping[str, Bins]  # field → bins of the train fold
    numbers: Mapping[str, Bins]  # number → bins of the train fold
    fold: str  # fold of the scores: valid, or train without a valid fold
    scores: tuple[Cells, ...]  # (C,) for each output; one group

    @classmethod
    def load(cls, folder: Path, spec: Spec) -> "Profile | None":
        """Read the profile of a model; None if the model was saved without one."""
        path = folder / PROFILE
        if not path.exists():
            return None
        content = json.loads(path.read_text())

        def bins(stored: Mapping[str, Any], names: Sequence[str]) -> dict[str, Bins]:
            return {name: Bins(tuple(stored[name]["edges"]), tuple(stored[name]["counts"])) for name in names}

        return cls(
            bins(content["fields"], [field.name for field in spec.fields]),
            bins(content["numbers"], [number.name for number in spec.numbers]),
            content["fold"],
            tuple(cells_from_json(cells) for cells in content["scores"]),
        )

    def save(self, folder: Path) -> None:
        """Write the profile into a model folder."""
        content = {
            "fields": {name: vars(bins) for name, bins in self.fields.items()},
            "numbers": {name: vars(bins) for name, bins in self.numbers.items()},
            "fold": self.fold,
            "scores": [cells_as_json(cells) for cells in self.scores],
        }
        (folder / PROFILE).write_text(json.dumps(content))


def cells_as_json(cells: Cells) -> dict[str, Any]:
    """Convert cells of one group to JSON, with the keys as differences, which are short."""
    return {
        "bits": cells.bits,
        "steps": np.diff(cells.keys, prepend=0).tolist(),
        "counts": cells.counts[:, 0].tolist(),
    }


def cells_from_json(content: Mapping[str, Any]) -> Cells:
    """Restore cells from the result of `cells_as_json`."""
    keys = np.cumsum(np.array(content["steps"], np.int64))
    return Cells(content["bits"], keys, np.array(content["counts"], np.int64)[:, None])


def psi(expected: Sequence[float], actual: Sequence[float]) -> float | None:
    """Return the population stability index: Σ (a - e) ln(a / e) over the shares of the bins; None without rows.

    Usual interpretation: below 0.1 stable, above 0.25 another population. A bin without rows counts as half a row, and
    a share below 0.0001 as 0.0001: the logarithm must be finite, and a small table may lack a rare value without drift.

    Args:
        expected: (E + 1,) counts of the reference.
        actual: (E + 1,) counts of the table.
    """
    e, a = (np.array(counts, np.float64) for counts in (expected, actual))
    if e.sum() <= 0 or a.sum() <= 0:
        return None
    e, a = (np.maximum(np.maximum(counts, 0.5) / counts.sum(), _MIN_SHARE) for counts in (e, a))
    return float(np.sum((a - e) * np.log(a / e)))


def psi_by_chance(expected: Sequence[float], actual: Sequence[float]) -> float | None:
    """Return the PSI that one table in a thousand exceeds by chance, for tables of this size; arguments as for `psi`.

    Two samples of n and m rows from one population have a PSI of about (1/n + 1/m) χ², with one degree of freedom fewer
    than bins (Yurdakul 2018). The quantile of χ² is Wilson and Hilferty's approximation.
    """
    n, m, freedom = float(np.sum(actual)), float(np.sum(expected)), len(expected) - 1
    if n <= 0 or m <= 0:
        return None
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    return (1 / n + 1 / m) * freedom * (1 - spread + _CHANCE_Z * math.sqrt(spread)) ** 3
