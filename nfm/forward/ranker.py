"""Lists of users from raw columns: encode the sides, sum them, and find each user's best items.

A user of whom nothing is known gets the most popular items: the id is out-of-vocabulary or missing, and all other
inputs of the user's side are missing. The score would be the same for all such users, and no better than popularity.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import concatenate_ranges, to_numpy
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows
from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.schema import MISSING, Spec
from nfm.contract.times.derive import derive
from nfm.contract.values import to_floats
from nfm.forward.lists import Limit, Lists, Seen, top_lists
from nfm.forward.pairs import PairScorer
from nfm.forward.sides import Side, divide, sum_side
from nfm.kernels.topk import empty_lists

NO_SEGMENT = -1  # of a user who has no candidates


class Segments(NamedTuple):
    """Candidates of S segments: segment s has the items from splits_S1[s] up to splits_S1[s + 1], ascending."""

    splits_S1: NDArray[np.int64]
    items: NDArray[np.int32]


class Rules(NamedTuple):
    """Rules that all lists follow."""

    length: int  # maximum length, K
    limit: Limit | None = None
    segments: Segments | None = None


class Users(NamedTuple):
    """U users, summed."""

    side: Side
    unknown_U: NDArray[np.bool_]  # nothing is known of them
    new_U: NDArray[np.bool_]  # their id is out-of-vocabulary


class Popularity:
    """Scores for users of whom nothing is known: items with more interactions have higher scores."""

    def __init__(self, counts_I: NDArray[np.int64]) -> None:
        """Rank the items by their numbers of interactions, then by index."""
        order_I = np.argsort(-counts_I, kind="stable")
        self._scores_I = np.empty(len(counts_I), np.float32)
        self._scores_I[order_I] = -np.arange(len(counts_I))  # exact up to 16 million items

    @property
    def is_product(self) -> bool:
        """True: tiles have the size for cheap scores."""
        return True

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self._scores_I)

    def prepare(self, _users: Side) -> "Popularity":
        """Return this object: all users have the same scores."""
        return self

    def score(self, start: int, stop: int, out_UT: NDArray[np.float32]) -> None:
        """Write the scores of the items from start up to stop."""
        out_UT[:] = self._scores_I[start:stop]


@dataclass(frozen=True)
class Ranker:
    """A ranking model and the items of lists; threads may share it."""

    encoding: Encoding  # of the user's side
    user: str  # column that identifies users
    artifact: Artifact
    scorer: PairScorer
    popularity: Popularity

    @classmethod
    def of(cls, artifact: Artifact, user: str, items: Side, counts_I: NDArray[np.int64]) -> "Ranker":
        """Prepare a model whose items are summed."""
        spec = artifact.encoding.spec
        user_side, item_side = divide(spec)
        scorer = PairScorer(spec, artifact.network, artifact.weights, user_side, item_side, items)
        return cls(replace(artifact.encoding, spec=user_side), user, artifact, scorer, Popularity(counts_I))

    def sum_users(self, rows: Rows, threads: int = 1) -> Users:
        """Encode and sum raw rows of users."""
        columns, side = self.encoding.encode(rows), self.encoding.spec
        unknown_U, new_U = find_unknown(side, self.user, rows, columns)
        spec, network, weights = self.artifact.encoding.spec, self.artifact.network, self.artifact.weights
        summed = sum_side(spec, network, weights, side, arrange_inputs(side, columns), threads)
        return Users(summed, unknown_U, new_U)

    def make_lists(
        self, users: Users, seen: Seen, rules: Rules, segment_U: NDArray[np.int64] | None = None, threads: int = 1
    ) -> Lists:
        """Return the lists of users; `segment_U` are their segments, if the rules have any."""
        lists = empty_lists(len(users.unknown_U), rules.length)
        groups = np.zeros(len(users.unknown_U), np.int64) if segment_U is None else segment_U
        for segment in np.unique(groups[groups != NO_SEGMENT]):
            allowed_I = None
            if rules.segments is not None:
                allowed_I = np.zeros(self.scorer.count, np.bool_)
                allowed_I[rules.segments.items[slice(*rules.segments.splits_S1[segment : segment + 2])]] = True
            for scorer, unknown in ((self.scorer, False), (self.popularity, True)):
                some = np.flatnonzero((groups == segment) & (users.unknown_U == unknown))
                if len(some):
                    chosen = users.side.select(some), rules.length, select_seen(seen, some), allowed_I, rules.limit
                    found: tuple[NDArray[Any], ...] = top_lists(scorer, *chosen, threads)
                    for array, own in zip(cast("tuple[NDArray[Any], ...]", lists), found, strict=True):
                        array[some] = own
        return lists


def sum_items(artifact: Artifact, rows: Rows) -> tuple[Side, int]:
    """Encode and sum raw rows of items; also return how many of them have an item that training did not see."""
    spec, side = artifact.encoding.spec, divide(artifact.encoding.spec)[1]
    columns = replace(artifact.encoding, spec=side).encode(rows)
    new = np.zeros(rows.num_rows, np.bool_)
    for field in side.fields:
        if field.name == spec.item_inputs[0] and field.bag is None and not field.hashed:
            new = columns[field.name] < field.first_value
    return sum_side(spec, artifact.network, artifact.weights, side, arrange_inputs(side, columns)), int(new.sum())


def select_seen(seen: Seen, users: NDArray[np.int64]) -> Seen:
    """Return the seen items of some users."""
    starts, lengths = seen.splits_U1[users], np.diff(seen.splits_U1)[users]
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Seen(splits, seen.items[concatenate_ranges(starts, lengths)])


def find_unknown(
    side: Spec, user: str, rows: Rows, columns: Mapping[str, Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the rows of users of whom nothing is known, and of users whose id is out-of-vocabulary.

    Args:
        side: specification of the user's side.
        user: column that identifies users.
        rows: (U) raw rows.
        columns: the same rows, encoded.
    """
    known_U, new_U = np.zeros(rows.num_rows, np.bool_), np.zeros(rows.num_rows, np.bool_)
    for field in side.fields:
        ids = columns[field.name]
        if field.bag is not None:
            present = np.concatenate([[0], np.cumsum(to_numpy(ids.flatten()) != MISSING)])
            splits = to_numpy(ids.offsets).astype(np.int64) - ids.offsets[0].as_py()
            known_U |= np.diff(present[splits]) > 0
        elif user in field.columns and not field.hashed:
            known_U |= ids >= field.first_value
            if field.columns == (user,):
                new_U |= ids < field.first_value
        else:
            known_U |= ids != MISSING
    if side.numbers:
        derived = derive(rows, side.derived)
        for number in side.numbers:
            known_U |= ~np.isnan(to_floats(derived.column(number.column), number.column))
    return ~known_U, new_U


def list_rows(lists: Lists) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return the (N,) users, ranks from 1, items and scores of all places of lists that are filled."""
    users, places = np.nonzero(np.arange(lists.items_UK.shape[1]) < lists.filled_U[:, np.newaxis])
    return users, (places + 1).astype(np.int32), lists.items_UK[users, places], lists.scores_UK[users, places]


def read_seen(lists: pa.Array) -> Seen:
    """Return lists of ascending item indices; a null is an empty list."""
    lengths = np.diff(to_numpy(lists.offsets)).astype(np.int64) if not lists.null_count else None
    if lengths is None:
        lengths = np.array([0 if one is None else len(one) for one in lists.to_pylist()], np.int64)
    items = to_numpy(lists.flatten()).astype(np.int32, copy=False)
    return Seen(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items)
