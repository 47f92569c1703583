"""Per-task counts of the scored rows. Merged in any order, they give the counts of the table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_numpy
from nfm.contract.artifact import Artifact
from nfm.contract.cells import EXACT, Cells, count_cells, merge
from nfm.contract.encoder import BatchCounts
from nfm.contract.profile import Bins, cells_as_json, cells_from_json, max_cells, special_edges
from nfm.kernels.bins import count_in_bins

_MANY = 1 << 16  # scores of one batch: to count more of them exactly takes longer than to compute them
_COARSE = 12  # bits of the cells for larger batches
_NEW_COUNTED, _NEW_REPORTED = 4000, 200  # most new values of a field that a task counts, and that it reports


@dataclass(frozen=True)
class Scores:
    """Counts of one score column, without infinite scores."""

    low: float
    high: float
    total: float
    bins: list[int]  # counts in the bins of the profile
    cells: Cells

    def merged(self, other: "Scores", limit: int) -> "Scores":
        """Return the counts of both; `limit` is the largest number of cells."""
        low, high, total = min(self.low, other.low), max(self.high, other.high), self.total + other.total
        return Scores(low, high, total, _sum(self.bins, other.bins), merge([self.cells, other.cells], limit))


@dataclass
class Tally:
    """Counts of N rows. JSON carries them from a task to the driver."""

    rows: int = 0
    not_finite: int = 0  # rows with a score that is not finite
    null_keys: int = 0  # rows with a null in a key column
    values: dict[str, list[int]] = field(default_factory=dict)  # by field and number: counts of the bins
    missing: dict[str, int] = field(default_factory=dict)  # by number
    new: dict[str, dict[str, int]] = field(default_factory=dict)  # by field: counts of values not seen in training
    dropped: list[str] = field(default_factory=list)  # fields with more new values than were counted
    scores: list[Scores] = field(default_factory=list)  # by class; empty while there are no finite scores
    read: dict[str, tuple[int, int]] = field(default_factory=dict)  # by file: rows read, and rows of the file

    def add(
        self, artifact: Artifact, columns: Mapping[str, Any], batch_counts: BatchCounts, scores_NC: NDArray[np.float32]
    ) -> None:
        """Add a batch: its encoded columns, what the encoder counted, and the scores."""
        finite = np.isfinite(scores_NC).all(axis=1)
        kept = scores_NC if finite.all() else scores_NC[finite]
        value_edges, score_edges = _bin_edges(artifact)
        most = max_cells(artifact.network.outputs)
        scores = zip(kept.T, score_edges, strict=True) if len(kept) else ()
        batch = Tally(
            rows=len(scores_NC),
            not_finite=len(scores_NC) - len(kept),
            values={name: count_in_bins(_flatten(columns[name]), edges) for name, edges in value_edges.items()},
            missing=dict(batch_counts.missing),
            new={name: dict(counts) for name, (counts, _) in batch_counts.out_of_vocabulary.items()},
            dropped=[name for name, (_, all_counted) in batch_counts.out_of_vocabulary.items() if not all_counted],
            scores=[_count_scores(x, edges, most) for x, edges in scores],
        )
        self.merge(batch)

    def merge(self, other: Self) -> None:
        """Add the rows of another tally."""
        self.rows, self.not_finite = self.rows + other.rows, self.not_finite + other.not_finite
        self.null_keys += other.null_keys
        for name, bins in other.values.items():
            self.values[name] = _sum(self.values[name], bins) if name in self.values else bins
        for name, count in other.missing.items():
            self.missing[name] = self.missing.get(name, 0) + count
        for name, new in other.new.items():
            counts = self.new.setdefault(name, {})
            for value, count in new.items():
                counts[value] = counts.get(value, 0) + count
            self._drop_rare(name, _NEW_COUNTED)
        self.dropped += [name for name in other.dropped if name not in self.dropped]
        if self.scores and other.scores:
            limit = max_cells(len(self.scores))
            self.scores = [a.merged(b, limit) for a, b in zip(self.scores, other.scores, strict=True)]
        else:
            self.scores = self.scores or other.scores
        for path, (rows, rows_of_file) in other.read.items():
            self.read[path] = (self.read.get(path, (0, 0))[0] + rows, rows_of_file)

    def _drop_rare(self, name: str, most: int) -> None:
        counts = self.new[name]
        if len(counts) > most:
            ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            # Drop half of them, so that the next batches need no sorting.
            self.new[name] = dict(ordered[: most // 2])
            self.dropped += [name] * (name not in self.dropped)

    def to_json(self) -> str:
        """Serialize the tally for the driver."""
        for name in self.new:
            self._drop_rare(name, 2 * _NEW_REPORTED)
        scores = [{**vars(column), "cells": cells_as_json(column.cells)} for column in self.scores]
        return json.dumps({**vars(self), "scores": scores})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the tally that `to_json` returns."""
        content = json.loads(text)
        content["read"] = {path: tuple(rows) for path, rows in content["read"].items()}
        content["scores"] = [
            Scores(**{**column, "cells": cells_from_json(column["cells"])}) for column in content["scores"]
        ]
        return cls(**content)


def _sum(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _count_scores(x: NDArray[np.float32], edges: NDArray[np.float32], most: int) -> Scores:
    x = np.ascontiguousarray(x)
    bits = EXACT if len(x) <= _MANY else _COARSE
    counts = count_cells(x.astype(np.float64), np.zeros(len(x), np.int64), 1, bits, most)
    return Scores(float(x.min()), float(x.max()), float(x.sum(dtype=np.float64)), count_in_bins(x, edges), counts)


def _flatten(values: Any) -> NDArray[Any]:
    """Flatten bags; a null bag counts as one missing member."""
    flat = to_numpy(values.flatten()) if isinstance(values, pa.ListArray) else values
    return np.ascontiguousarray(flat)


def _bin_edges(artifact: Artifact) -> tuple[dict[str, NDArray[Any]], list[NDArray[np.float32]]]:
    """Return the lower edges of the profile's bins: int32 by field and float32 by number, and for each class.

    A model without a profile has bins for missing and out-of-vocabulary values only.
    """
    if artifact.fingerprint not in _edges:
        _edges.clear()
        spec, profile = artifact.encoding.spec, artifact.profile
        fields = {f.name: profile.fields[f.name].edges if profile else special_edges(f) for f in spec.fields}
        numbers = {n.name: profile.numbers[n.name].edges if profile else () for n in spec.numbers}
        scores = [Bins.from_cells(c).edges for c in profile.scores] if profile else [()] * artifact.network.outputs
        values: dict[str, NDArray[Any]] = {name: np.array(edges, np.int32) for name, edges in fields.items()}
        values |= {name: np.array(edges, np.float32) for name, edges in numbers.items()}
        _edges[artifact.fingerprint] = values, [np.array(edges, np.float32) for edges in scores]
    return _edges[artifact.fingerprint]


_edges: dict[str, tuple[dict[str, NDArray[Any]], list[NDArray[np.float32]]]] = {}  # for the latest model of this worker
