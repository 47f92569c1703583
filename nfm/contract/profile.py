"""Training data of a model in bins, to measure how far a later table has moved from it.

    model/profile.json   fields and numbers of the train fold; scores of the validation fold

A field's bins are missing, out-of-vocabulary, and ranges of the vocabulary's ids that are about as frequent; a number's
and the scores' are about as frequent ranges of values. Numbers are binned as they are encoded (clipped, imputed,
scaled), so that a raw table and a dataset are measured alike.
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

PROFILE = "profile.json"  # in the artifact
_ID_BINS = 20  # of a field's vocabulary
_VALUE_BINS = 10  # of a number or of the scores, as is usual for a PSI
_LEAST_CELLS = 256  # of an output
_LEAST_SHARE = 1e-4  # of a bin: an empty one would make any PSI infinite
_CHANCE_Z = 3.0902  # the normal quantile that one in a thousand exceeds


@dataclass(frozen=True)
class Bins:
    """Counts of a column in E + 1 bins: x is in the bin i for which edges[i - 1] <= x < edges[i]."""

    edges: tuple[float, ...]  # (E,) ascending
    counts: tuple[float, ...]  # (E + 1,)

    @classmethod
    def of_cells(cls, cells: Cells, group: int = 0) -> Self:
        """Ranges of values that are about as frequent. Edges are between values, never on one."""
        values, counts = cells.values, cells.counts[:, group].astype(np.float64)
        values, counts = values[counts > 0], counts[counts > 0]
        if len(values) < 2:
            return cls((), (float(counts.sum()),))
        ends = np.cumsum(counts)
        wanted = ends[-1] * np.arange(1, _VALUE_BINS) / _VALUE_BINS
        after = np.searchsorted(ends, wanted)  # the value behind which the cut lies, if it is not nearer before it
        before = np.where(after > 0, ends[after - 1], 0.0)
        after -= wanted - before < ends[after] - wanted
        cuts = np.unique(after[(after >= 0) & (after < len(values) - 1)])
        edges = values[cuts] + (values[cuts + 1] - values[cuts]) / 2
        return cls(tuple(edges.tolist()), tuple(np.add.reduceat(counts, np.r_[0, cuts + 1]).tolist()))

    @property
    def rows(self) -> float:
        """Number of values."""
        return math.fsum(self.counts)


def most_cells(outputs: int) -> int:
    """The limit of cells for each output's scores: the same for all outputs together, but some for each."""
    return max(_LEAST_CELLS, LIMIT // outputs)


def has_unseen(field: Field) -> bool:
    """Return whether a value can be out of the field's vocabulary: a hashed or a bucketed field takes every value."""
    return field.vocabulary is not None


def id_bins(field: Field, counts: NDArray[np.float64]) -> Bins:
    """Bins of a field: missing, out-of-vocabulary (if it has that), ranges of ids that are about as frequent.

    `counts`: (size,) how often each of its ids occurs.
    """
    start = plain_edges(field)[-1]
    region = counts[start:]
    ends = np.cumsum(region)
    cuts = np.empty(0, np.int64)
    if len(region) and ends[-1] > 0:
        share = np.minimum(((ends - region) * _ID_BINS / ends[-1]).astype(np.int64), _ID_BINS - 1)
        cuts = np.flatnonzero(np.diff(share)) + 1
    edges = np.r_[np.array(plain_edges(field), np.int64), cuts + start]
    parts = np.add.reduceat(counts, np.r_[0, edges[edges < len(counts)]])
    found = np.zeros(len(edges) + 1)  # a vocabulary without values has an edge behind its last id
    found[: len(parts)] = parts
    return Bins(tuple(edges.tolist()), tuple(found.tolist()))


def plain_edges(field: Field) -> tuple[int, ...]:
    """The edges that separate missing and out-of-vocabulary from the values."""
    return (1, field.first_value) if has_unseen(field) else (1,)


@dataclass(frozen=True)
class Profile:
    """The table that a model was trained on, and the scores that it gave to unseen rows."""

    fields: Mapping[str, Bins]  # of the train fold, by field
    numbers: Mapping[str, Bins]  # of the train fold, by number
    fold: str  # whose scores these are: valid; train where there is no validation fold
    scores: tuple[Cells, ...]  # (C,) a class each; of one group

    @classmethod
    def load(cls, folder: Path, spec: Spec) -> "Profile | None":
        """Read the profile of an artifact; None where it was made without one."""
        path = folder / PROFILE
        if not path.exists():
            return None
        content = json.loads(path.read_text())

        def bins(of: Mapping[str, Any], names: Sequence[str]) -> dict[str, Bins]:
            return {name: Bins(tuple(of[name]["edges"]), tuple(of[name]["counts"])) for name in names}

        return cls(
            bins(content["fields"], [field.name for field in spec.fields]),
            bins(content["numbers"], [number.name for number in spec.numbers]),
            content["fold"],
            tuple(cells_from(one) for one in content["scores"]),
        )

    def save(self, folder: Path) -> None:
        """Write the profile into an artifact."""
        content = {
            "fields": {name: vars(bins) for name, bins in self.fields.items()},
            "numbers": {name: vars(bins) for name, bins in self.numbers.items()},
            "fold": self.fold,
            "scores": [cells_as_json(cells) for cells in self.scores],
        }
        (folder / PROFILE).write_text(json.dumps(content))


def cells_as_json(cells: Cells) -> dict[str, Any]:
    """Cells of one group as JSON: keys as their distances, which are short."""
    return {
        "bits": cells.bits,
        "steps": np.diff(cells.keys, prepend=0).tolist(),
        "counts": cells.counts[:, 0].tolist(),
    }


def cells_from(content: Mapping[str, Any]) -> Cells:
    """The cells that `cells_as_json` has written."""
    keys = np.cumsum(np.array(content["steps"], np.int64))
    return Cells(content["bits"], keys, np.array(content["counts"], np.int64)[:, None])


def psi(expected: Sequence[float], actual: Sequence[float]) -> float | None:
    """Population stability index: Σ (a - e) ln(a / e) over the shares of the bins; None without any rows.

    A bin without rows counts as half a row, and a share below 0.0001 as 0.0001: the logarithm needs a value, and a
    small table that lacks a rare value says little. Usual reading: below 0.1 stable, above 0.25 another population.
    Takes the (E + 1,) counts of the reference, and those of the table.
    """
    e, a = (np.array(counts, np.float64) for counts in (expected, actual))
    if e.sum() <= 0 or a.sum() <= 0:
        return None
    e, a = (np.maximum(np.maximum(counts, 0.5) / counts.sum(), _LEAST_SHARE) for counts in (e, a))
    return float(np.sum((a - e) * np.log(a / e)))


def psi_by_chance(expected: Sequence[float], actual: Sequence[float]) -> float | None:
    """The PSI that one table in a thousand exceeds by chance alone, given the number of its rows.

    Two samples of n and m rows from one population have a PSI of about (1/n + 1/m) χ², with a degree of freedom less
    than bins (Yurdakul 2018). The quantile of χ² is Wilson and Hilferty's. Arguments as for `psi`.
    """
    n, m, freedom = float(np.sum(actual)), float(np.sum(expected)), len(expected) - 1
    if n <= 0 or m <= 0:
        return None
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    return (1 / n + 1 / m) * freedom * (1 - spread + _CHANCE_Z * math.sqrt(spread)) ** 3
