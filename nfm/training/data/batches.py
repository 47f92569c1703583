"""The dataset on disk → batches, in memory that does not grow with its rows.

An epoch is a sequence of windows. The row groups of all files are shuffled and dealt out to windows of about
`shuffle_rows` rows; a window's rows are shuffled, and batches are cut from one window after the other. Which rows are
in which batch follows from (seed, epoch) and the files' footers alone: not from threads, nor from whether a fold is
kept in memory; and an epoch can be entered in its middle.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nfm.contract.errors import DataError
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.training.data.files import RowGroup, open_files
from nfm.training.data.rows import Rows, join_rows, slice_rows, take_rows

__all__ = ["Fold", "Rows", "read_folds"]

KEPT_BYTES = 256 << 20  # a fold whose arrays take no more stays in memory once it was read
PIECE = 1 << 16  # rows, about, that are made ready together


@dataclass(frozen=True)
class Fold:
    """Rows of a fold, in the order of the files' names."""

    spec: Spec
    _row_groups: Sequence[RowGroup]
    _kept_in_memory: bool
    digest: str  # SHA-256 of what the batches follow from: names (below the dataset's folder), sizes and rows of files

    @cached_property
    def rows(self) -> int:
        """How many rows."""
        return int(self._sizes.sum())

    def steps(self, size: int) -> int:
        """Batches of an epoch."""
        return -(-self.rows // size)

    def pieces(self, most: int = PIECE) -> Iterator[Rows]:
        """Yield all rows, at most `most` at once; DataError if a file cannot be read, was changed, or has a null."""
        for i, chunk in enumerate(self._row_groups):
            rows, places = self._window(np.array([i]))
            for start in range(0, chunk.rows, most):
                yield slice_rows(rows, places[start], places[0] + min(start + most, chunk.rows))

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, shuffle_rows: int = 1_000_000
    ) -> Iterator[Rows]:
        """Yield the batches of one epoch, of `size` rows (the last may have fewer); a thread makes the next ones ready.

        The order follows from the `seed` (not negative; None: as in `pieces`) and the `epoch`; the first `skip` batches
        are left out. `shuffle_rows` are shuffled together, rounded to whole row groups: about twice as many are in
        memory, unless the fold is small enough to be kept. Raises DataError as `pieces` does.
        """
        pieces = self._shuffled(size, seed, epoch, skip, shuffle_rows)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, pieces, None)
            while (piece := coming.result()) is not None:
                coming = pool.submit(next, pieces, None)
                for start in range(0, len(piece.label), size):
                    yield slice_rows(piece, start, min(start + size, len(piece.label)))

    def _shuffled(self, size: int, seed: int | None, epoch: int, skip: int, shuffle_rows: int) -> Iterator[Rows]:
        """The epoch's rows, in pieces of whole batches; the next window is read while one is handed out."""
        windows = list(enumerate(self._windows(seed, epoch, shuffle_rows), start=1))
        left_out, wanted = skip * size, max(1, PIECE // size) * size
        while windows and left_out >= (skipped := int(self._sizes[windows[0][1]].sum())):
            left_out -= skipped
            del windows[0]
        if not windows:
            return
        waiting: list[Rows] = []
        missing = wanted  # to a full piece
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._window, windows[0][1])
            for i, (number, _) in enumerate(windows, start=1):
                rows, places = coming.result()
                if i < len(windows):
                    coming = pool.submit(self._window, windows[i][1])
                if seed is not None:
                    places = np.random.default_rng([seed, epoch, number]).permutation(places)
                at, left_out = left_out, 0
                while at < len(places):
                    waiting.append(take_rows(rows, places[at : at + missing]))
                    at += missing
                    missing -= len(waiting[-1].label)
                    if not missing:
                        yield join_rows(waiting, wanted)
                        waiting, missing = [], wanted
        if waiting:
            yield join_rows(waiting, wanted - missing)

    def _windows(self, seed: int | None, epoch: int, shuffle_rows: int) -> list[NDArray[np.int64]]:
        """Which row_groups each window has. They are of even size, so that no few rows are left to be shuffled alone."""
        order = np.arange(len(self._row_groups))
        if seed is None:
            return list(order[:, np.newaxis])
        order = np.random.default_rng([seed, epoch]).permutation(order)
        ends = np.cumsum(self._sizes[order])
        window_of = (ends - self._sizes[order]) * -(-self.rows // shuffle_rows) // max(1, self.rows)
        return [order[window_of == i] for i in np.unique(window_of)]

    def _window(self, row_groups: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Rows, and which of them are the row_groups', in the row_groups' order."""
        if not self._kept_in_memory:
            rows = join_rows(
                (self._row_groups[i].read() for i in row_groups.tolist()), int(self._sizes[row_groups].sum())
            )
            return rows, np.arange(len(rows.label))
        starts = np.cumsum(self._sizes) - self._sizes
        return self._kept, np.concatenate([np.arange(starts[i], starts[i] + self._sizes[i]) for i in row_groups])

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array([chunk.rows for chunk in self._row_groups], np.int64)

    @cached_property
    def _kept(self) -> Rows:
        return join_rows((chunk.read() for chunk in self._row_groups), self.rows)


def read_folds(folder: Path, spec: Spec, group: str | None = None) -> dict[str, Fold]:
    """Open the dataset's folds: only the files' footers are read. One without rows is an empty fold.

    `group`: a key column that `Fold.pieces` is to give along. Raises DataError for no dataset, one made with another
    encoding, a file that cannot be read or has other columns, rows that were lost, or no rows to train on.
    """
    marker = folder / DATASET_MARKER
    try:
        facts = json.loads(marker.read_text())
        made_with, rows = facts["encoding_fingerprint"], {fold: facts["rows"][fold] for fold in FOLDS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"There is no dataset in {folder}: {marker.name} cannot be read. Run jobs/features.py first."
        ) from error
    if made_with != spec.fingerprint:
        raise DataError(
            f"{folder} was written with the encoding {made_with[:12]}…, but the encoding beside it is "
            f"{spec.fingerprint[:12]}…: they do not belong together. Run jobs/features.py again."
        )
    folds = {}
    for fold in FOLDS:
        files = open_files(folder, f"fold={fold}", spec, group)
        folds[fold] = Fold(spec, files.row_groups, files.array_bytes <= KEPT_BYTES, files.digest)
    for name, opened in folds.items():
        if opened.rows != rows[name]:
            raise DataError(
                f"{folder}/fold={name} holds {opened.rows} rows where {marker.name} says {rows[name]}: files were "
                "taken away or added. Run jobs/features.py again."
            )
    if not folds["train"].rows:
        raise DataError(f"The train fold of {folder} is empty: there is nothing to learn from. Check split.")
    return folds
