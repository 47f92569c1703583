"""Read batches from the dataset on disk, in memory that does not grow with its rows.

An epoch is a sequence of windows. The row groups of all files are shuffled and divided into windows of about
`shuffle_rows` rows; the rows of a window are shuffled, and batches are cut from one window after the other. Which rows
are in which batch depends only on (seed, epoch) and the files' footers, not on threads or on whether a fold is kept in
memory. An epoch can start partway through.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nfm.contract.errors import DataError
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec
from nfm.training.data.files import RowGroup, open_files
from nfm.training.data.rows import Rows, join_rows, slice_rows, take_rows

if TYPE_CHECKING:
    from nfm.training.ranking.data import Ranked

__all__ = ["Fold", "Rows", "join_folds", "read_folds"]

KEPT_BYTES = 256 << 20  # a fold whose arrays take at most this stays in memory once it was read
PIECE = 1 << 16  # rows, about, that are prepared together


@dataclass(frozen=True)
class Fold:
    """Rows of a fold, in the order of the files' names."""

    spec: Spec
    _row_groups: Sequence[RowGroup]
    _kept_in_memory: bool
    digest: str  # SHA-256 of the files' names (below the dataset's folder), sizes and rows, which determine the batches
    has_parts: bool = True  # see `files.Files`
    is_train: bool = False  # models learn from its rows, so that target rates leave out the labels of their own part
    ranked: "Ranked | None" = None  # of a ranking
    name: str = ""  # of a ranking

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._sizes.sum())

    def steps(self, size: int) -> int:
        """Return the number of batches of `size` rows in an epoch."""
        return -(-self.rows // size)

    def even(self, size: int) -> int:
        """Return the size of batches that are about equally large, with at most `size` rows.

        A small last batch would count as much as a full one: 5,150 rows have batches of 859 rows, not of 1,024 and 30.
        A small fold has five batches, because one step an epoch trains too little, unless they have fewer than 32 rows.
        """
        return -(-self.rows // max(1, self.steps(size), min(5, self.rows // 32)))

    def pieces(self, most: int = PIECE) -> Iterator[Rows]:
        """Yield all rows in order, at most `most` at a time.

        Raises DataError if a file cannot be read, was changed since the fold was opened, or contains a null.
        """
        for i, chunk in enumerate(self._row_groups):
            rows, places = self._window(np.array([i]))
            for start in range(0, chunk.rows, most):
                yield slice_rows(rows, places[start], places[0] + min(start + most, chunk.rows))

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, shuffle_rows: int = 1_000_000
    ) -> Iterator[Rows]:
        """Yield the batches of one epoch, of `size` rows (the last may have fewer); a thread prepares the next ones.

        The `seed` (not negative; None: the order of `pieces`) and the `epoch` determine the order; the first `skip`
        batches are left out. `shuffle_rows` rows, rounded to whole row groups, are shuffled together: about twice as
        many are in memory, unless the fold is small enough to stay there. Raises DataError as `pieces` does.
        """
        pieces = self._shuffled(size, seed, epoch, skip, shuffle_rows)
        with ThreadPoolExecutor(1) as pool:
            next_piece = pool.submit(next, pieces, None)
            while (piece := next_piece.result()) is not None:
                next_piece = pool.submit(next, pieces, None)
                for start in range(0, len(piece.label), size):
                    yield slice_rows(piece, start, min(start + size, len(piece.label)))

    def _shuffled(self, size: int, seed: int | None, epoch: int, skip: int, shuffle_rows: int) -> Iterator[Rows]:
        """Yield the rows of an epoch in pieces of whole batches; a thread reads the next window meanwhile."""
        windows = list(enumerate(self._windows(seed, epoch, shuffle_rows), start=1))
        left_to_skip, piece_rows = skip * size, max(1, PIECE // size) * size
        while windows and left_to_skip >= (window_rows := int(self._sizes[windows[0][1]].sum())):
            left_to_skip -= window_rows
            del windows[0]
        if not windows:
            return
        waiting: list[Rows] = []
        missing = piece_rows  # rows until the piece is full
        with ThreadPoolExecutor(1) as pool:
            next_window = pool.submit(self._window, windows[0][1])
            for i, (number, _) in enumerate(windows, start=1):
                rows, places = next_window.result()
                if i < len(windows):
                    next_window = pool.submit(self._window, windows[i][1])
                if seed is not None:
                    places = np.random.default_rng([seed, epoch, number]).permutation(places)
                at, left_to_skip = left_to_skip, 0
                while at < len(places):
                    waiting.append(take_rows(rows, places[at : at + missing]))
                    at += missing
                    missing -= len(waiting[-1].label)
                    if not missing:
                        yield join_rows(waiting, piece_rows)
                        waiting, missing = [], piece_rows
        if waiting:
            yield join_rows(waiting, piece_rows - missing)

    def _windows(self, seed: int | None, epoch: int, shuffle_rows: int) -> list[NDArray[np.int64]]:
        """Return the row groups of each window; all have about the same size, so no small rest is shuffled alone."""
        order = np.arange(len(self._row_groups))
        if seed is None:
            return list(order[:, np.newaxis])
        order = np.random.default_rng([seed, epoch]).permutation(order)
        ends = np.cumsum(self._sizes[order])
        window_of = (ends - self._sizes[order]) * -(-self.rows // shuffle_rows) // max(1, self.rows)
        return [order[window_of == i] for i in np.unique(window_of)]

    def _window(self, row_groups: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Return rows, and the places in them of the rows of these row groups, in order."""
        if not self._kept_in_memory:
            rows = join_rows(
                (self._row_groups[i].read() for i in row_groups.tolist()), int(self._sizes[row_groups].sum())
            )
            return rows, np.arange(len(rows.label))
        starts = np.cumsum(self._sizes) - self._sizes
        return self._kept, np.concatenate([np.arange(starts[i], starts[i] + self._sizes[i]) for i in row_groups])

    def _read(self, row_group: int) -> Rows:
        """Return the rows of a row group; rows that are kept in memory are not copied."""
        rows, places = self._window(np.array([row_group]))
        return slice_rows(rows, places[0], places[-1] + 1)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array([chunk.rows for chunk in self._row_groups], np.int64)

    @cached_property
    def _kept(self) -> Rows:
        return join_rows((chunk.read() for chunk in self._row_groups), self.rows)


def join_folds(first: Fold, second: Fold) -> Fold:
    """Return a fold of all rows of two folds; what either of them keeps in memory is there once."""
    row_groups = [
        RowGroup(group.rows, partial(fold._read, i))
        for fold in (first, second)
        for i, group in enumerate(fold._row_groups)
    ]
    digest = hashlib.sha256(f"{first.digest} {second.digest}".encode()).hexdigest()
    ranked = first.ranked and replace(first.ranked, trained=(first.name, second.name))
    has_parts = first.has_parts and second.has_parts
    return Fold(first.spec, row_groups, False, digest, has_parts, is_train=True, ranked=ranked, name=first.name)


def read_folds(folder: Path, spec: Spec, group: str | None = None, whole: Spec | None = None) -> dict[str, Fold]:
    """Open the folds of a dataset; only the footers of its files are read. A fold may be empty.

    `group`: a key column that is read with the rows. `whole`: the specification of the dataset, if `spec` has only some
    of its inputs. Raises DataError if there is no dataset, it was made with another
    encoding, a file cannot be read or has other columns, the number of rows is not the one that the feature job wrote,
    or the train fold is empty.
    """
    marker = folder / DATASET_MARKER
    try:
        facts = json.loads(marker.read_text())
        made_with, rows = facts["encoding_fingerprint"], {fold: facts["rows"][fold] for fold in FOLDS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"There is no dataset in {folder}: {marker.name} cannot be read. Run nfm features first."
        ) from error
    fingerprint = (whole or spec).fingerprint
    if made_with != fingerprint:
        raise DataError(
            f"{folder} was written with the encoding {made_with[:12]}…, but the encoding folder contains "
            f"{fingerprint[:12]}…: they do not belong together. Run nfm features again."
        )
    folds = {}
    for fold in FOLDS:
        files = open_files(folder, f"fold={fold}", spec, group)
        keep, is_train = files.array_bytes <= KEPT_BYTES, fold == FOLDS[0]
        folds[fold] = Fold(spec, files.row_groups, keep, files.digest, files.have_parts, is_train)
    for name, fold_read in folds.items():
        if fold_read.rows != rows[name]:
            raise DataError(
                f"{folder}/fold={name} has {fold_read.rows} rows, but {marker.name} says {rows[name]}: files were "
                "removed or added. Run nfm features again."
            )
    if not folds["train"].rows:
        raise DataError(
            f"The train fold of {folder} is empty, so no model can be trained. Check the shares under split."
        )
    return folds
