"""Recommend task: reads the users of a split, makes their lists, writes and counts them. Does not need Spark."""

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import null_mask, to_arrow, to_numpy
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS
from nfm.contract.schema import Kind
from nfm.contract.values import decode_dictionary
from nfm.forward.lists import Lists
from nfm.forward.ranker import NO_SEGMENT, Ranker, Rules, Segments, Users, list_rows, read_seen
from nfm.ranking.stored import SEEN, SEGMENT, Items, load_segments, read_segment
from nfm.table.jobs.hosts import Placed, open_model
from nfm.table.write import Writer, WrittenFile

_USERS = 1 << 12  # users whose lists are in memory at a time


@dataclass
class Tally:
    """Counts of the users of a split; mergeable."""

    users: int = 0
    lists: int = 0  # that are not empty
    rows: int = 0
    short: int = 0  # lists that are not empty, and shorter than K
    empty: int = 0  # users without a list, although they have candidates
    without_candidates: int = 0  # users whose segment is missing or has no candidates
    new: int = 0  # users whose id is out-of-vocabulary
    popular: int = 0  # users of whom nothing is known
    not_finite: int = 0  # scores

    def merge(self, other: Self) -> None:
        """Add the counts of another tally."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    def add(self, users: Users, lists: Lists, count: int, segment_U: NDArray[np.int64] | None) -> None:
        """Count users and their lists of at most `count` items."""
        filled_U = lists.filled_U
        self.users += len(filled_U)
        self.lists += int(np.count_nonzero(filled_U))
        self.rows += int(filled_U.sum())
        self.short += int(np.count_nonzero((filled_U > 0) & (filled_U < count)))
        alone = np.zeros(len(filled_U), np.bool_) if segment_U is None else segment_U == NO_SEGMENT
        self.empty += int(np.count_nonzero((filled_U == 0) & ~alone))
        self.without_candidates += int(np.count_nonzero(alone))
        self.new += int(np.count_nonzero(users.new_U))
        self.popular += int(np.count_nonzero(users.unknown_U))
        self.not_finite += int(lists.not_finite_U.sum())


@dataclass(frozen=True)
class Chunk:
    """Stored lists of the users of one split."""

    number: int
    tally: Tally
    files: list[WrittenFile]
    counts: list[WrittenFile] = field(default_factory=list)  # the numbers of lists with each item

    @property
    def all_files(self) -> list[WrittenFile]:
        """Files of lists and of counts."""
        return [*self.files, *self.counts]

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the record that `to_json` returns."""
        content = json.loads(text)
        files, counts = ([WrittenFile(**file) for file in content[kind]] for kind in ("files", "counts"))
        return cls(content["number"], Tally(**content["tally"]), files, counts)


@dataclass(frozen=True)
class Work:
    """Everything that a task needs besides its users."""

    placed: Placed
    folder: Path  # with items/ and, if there are any, segments/
    user: str
    item: str
    columns: tuple[str, ...]  # raw columns of the user's side in the rows, with the user
    missing: tuple[str, ...]  # raw columns of the user's side that no table has
    decay: float | None  # of the history; None: the model has no history
    segment: Kind | None  # kind of the segments, if there are any
    count: int  # maximum length of a list, K
    schema: pa.Schema  # of the files


class _Opened:
    """The model, the items and the rules, opened once in each worker."""

    def __init__(self, work: Work, artifact: Artifact) -> None:
        self.items = Items.load(work.folder / "items")
        self.ranker = Ranker.of(artifact, work.user, self.items.side, self.items.counts_I)
        self.segments: pa.Array | None = None
        segments = None
        if work.segment is not None:
            self.segments, lists = load_segments(work.folder / "segments")
            segments = Segments(*read_seen(lists))
        self.rules = Rules(work.count, self.items.limit, segments)


_opened: dict[str, _Opened] = {}  # of the latest run in this worker


def _open(work: Work) -> _Opened:
    key = f"{work.folder} {work.placed.fingerprint} {work.count}"
    if key not in _opened:
        _opened.clear()
        _opened[key] = _Opened(work, open_model(work.placed))
    return _opened[key]


def make_lists(number: int, row_groups: Iterable[Rows], work: Work, writer: Writer) -> Chunk:
    """Make and write the lists of the users of one split."""
    opened, tally = _open(work), Tally()
    lists_I = np.zeros(len(opened.items.raw), np.int64)
    for rows in row_groups:
        whole = _read_users(rows, work)
        segment_U = None if opened.segments is None else _find_segments(rows, work, opened.segments)
        for start in range(0, whole.num_rows, _USERS):
            batch = whole.slice(start, _USERS)
            some = None if segment_U is None else segment_U[start : start + _USERS]
            users = opened.ranker.sum_users(batch, pa.cpu_count())
            seen = read_seen(batch.column(SEEN))
            lists = opened.ranker.make_lists(users, seen, opened.rules, some, pa.cpu_count())
            tally.add(users, lists, work.count, some)
            table = _tabulate(batch, users, lists, work, opened.items.raw)
            lists_I += np.bincount(lists.items_UK[lists.items_UK >= 0], minlength=len(lists_I))
            if len(table):
                writer.add("", table)
    return Chunk(number, tally, writer.close(), [_save_counts(writer.folder, lists_I)])


def _read_users(rows: Rows, work: Work) -> pa.RecordBatch:
    """Return the raw columns of the user's side, with SEEN."""
    columns = {name: rows.column(name) for name in (*work.columns, SEEN)}
    columns |= {name: pa.nulls(rows.num_rows) for name in work.missing}
    if work.decay is not None:
        columns[HISTORY] = rows.column(HISTORY)
        columns[HISTORY_WEIGHTS] = weigh_history(columns[HISTORY], work.decay)
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def weigh_history(lists: pa.Array, decay: float) -> pa.Array:
    """Return the weights of histories, the latest item first: 1, decay, decay², …"""
    offsets = to_numpy(lists.offsets).astype(np.int64)
    splits = offsets - offsets[0]
    age = np.arange(splits[-1]) - np.repeat(splits[:-1], np.diff(splits))
    return pa.ListArray.from_arrays(to_arrow(splits.astype(np.int32)), to_arrow((decay**age).astype(np.float32)))


def _find_segments(rows: Rows, work: Work, segments: pa.Array) -> NDArray[np.int64]:
    """Return the (U,) segments of users, as indices in `segments`."""
    assert work.segment is not None
    texts = read_segment(rows, SEGMENT, work.segment)
    found = pc.index_in(texts, segments)
    missing = null_mask(found) | null_mask(texts)
    return np.where(missing, NO_SEGMENT, to_numpy(found).astype(np.int64))


def _tabulate(batch: pa.RecordBatch, users: Users, lists: Lists, work: Work, items: pa.Array) -> pa.Table:
    """Return a row for each place of the lists; without a score for users of whom nothing is known."""
    places_N, ranks_N, items_N, scores_N = list_rows(lists)
    raw = decode_dictionary(batch.column(work.user)).cast(work.schema.field(work.user).type)
    scores = to_arrow(scores_N, users.unknown_U[places_N])
    columns = [raw.take(to_arrow(places_N)), items.take(to_arrow(items_N)), to_arrow(ranks_N), scores]
    return pa.table(columns, schema=work.schema)


def _save_counts(folder: Path, lists_I: NDArray[np.int64]) -> WrittenFile:
    """Write the items that are in lists, with the number of lists."""
    found = np.flatnonzero(lists_I)
    path = folder / f"{uuid.uuid4().hex}.npy"
    np.save(path, np.stack([found, lists_I[found]]))
    return WrittenFile("", str(path), len(found), path.stat().st_size)
