"""Data of a ranking's training: the catalogue, and the user and item of each row of the folds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.config.ranking import Ranking
from nfm.config.settings import Config
from nfm.contract.arrays import to_numpy
from nfm.contract.dataset import SEQUENCE
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.contract.schema import FOLDS, Spec
from nfm.forward.catalogue import CATALOGUE, Catalogue
from nfm.forward.sides import divide
from nfm.training.data.batches import Fold, read_folds
from nfm.training.data.files import RowGroup
from nfm.training.data.rows import Rows
from nfm.training.ranking.metrics import Targets, is_in, pair_keys
from nfm.training.ranking.sampler import Seen, make_seen

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Pairs:
    """User and item of each of the N rows of a fold, by index, in the order of `Fold.pieces`."""

    users_N: Integers
    items_N: Integers
    sequence_N: NDArray[np.int64]  # place of the row among those of its user


@dataclass(frozen=True)
class Ranked:
    """Everything that a ranking's training reads besides the rows of the folds."""

    ranking: Ranking
    sides: tuple[Spec, Spec]  # specifications of the user's and the item's inputs
    catalogue: Catalogue
    users: pa.Array  # (U,) values of the column of users
    pairs: Mapping[str, Pairs]  # by fold
    trained: tuple[str, ...] = ("train",)  # folds that the model learns from

    @cached_property
    def seen(self) -> Seen:
        """The items of each user in the folds that the model learns from; they are never drawn as negatives."""
        return self.seen_in(self.trained)

    def seen_in(self, folds: tuple[str, ...]) -> Seen:
        """Return the items of each user in some folds."""
        pairs = [self.pairs[fold] for fold in folds]
        users, items = (np.concatenate(arrays) for arrays in zip(*((p.users_N, p.items_N) for p in pairs), strict=True))
        return make_seen(users, items, len(self.users))

    def count_items(self) -> NDArray[np.int64]:
        """Return the (I,) interactions of each item in the folds that the model learns from."""
        items = np.concatenate([self.pairs[fold].items_N for fold in self.trained])
        return np.bincount(items, minlength=len(self.catalogue.items))


def read_ranked(config: Config, encoding: Encoding) -> dict[str, Fold]:
    """Open the folds of a ranking's dataset, with their `Fold.ranked`.

    The rows have the inputs of the user's side; their group is the pair of indices (user, item). Raises DataError if
    the dataset is missing, damaged or of another encoding.
    """
    ranking, spec, folder = config.ranking, encoding.spec, config.dataset_folder
    assert ranking is not None
    sides = divide(spec)
    catalogue = Catalogue.load(folder, sides[1])
    in_dataset = {raw: name for name, raw in config.joined.columns.key_names(config.dataset.partition_by).items()}
    keys = [in_dataset[name] for name in (ranking.user, ranking.item, SEQUENCE)]
    raw = {fold: _read_keys(folder, fold, keys) for fold in FOLDS}
    users = pa.concat_tables(raw.values(), promote_options="default")[keys[0]].unique()
    pairs = {}
    for fold, table in raw.items():
        found = [
            pc.index_in(table[key].cast(values.type), values)
            for key, values in zip(keys, (users, catalogue.items), strict=False)
        ]
        if any(indices.null_count for indices in found):
            raise DataError(f"{folder}/{CATALOGUE} lacks items of the {fold} fold. Run nfm features again.")
        users_N, items_N = (to_numpy(indices.combine_chunks()) for indices in found)
        pairs[fold] = Pairs(users_N, items_N, to_numpy(table[SEQUENCE].cast(pa.int64()).combine_chunks()))
    ranked = Ranked(ranking, sides, catalogue, users, pairs)
    folds = read_folds(folder, sides[0], None, spec)
    return {name: _with_pairs(fold, ranked, name) for name, fold in folds.items()}


def _read_keys(folder: Path, fold: str, keys: list[str]) -> pa.Table:
    paths = sorted((folder / f"fold={fold}").rglob("*.parquet"))
    tables = [pq.read_table(path, columns=keys, partitioning=None) for path in paths]
    schema = pa.schema([(name, pa.null()) for name in keys])
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _with_pairs(fold: Fold, ranked: Ranked, name: str) -> Fold:
    """Return a fold whose rows have the indices of user and item as their group."""
    groups, start = list[RowGroup](), 0
    both = np.stack([ranked.pairs[name].users_N, ranked.pairs[name].items_N], axis=1)
    for group in fold._row_groups:
        groups.append(RowGroup(group.rows, partial(_read, group, both[start : start + group.rows])))
        start += group.rows
    return replace(fold, _row_groups=groups, ranked=ranked, name=name)


def _read(group: RowGroup, pairs: Integers) -> Rows:
    return group.read()._replace(group=pairs)


def learn_from(folds: Mapping[str, Fold], trained: tuple[str, ...]) -> dict[str, Fold]:
    """Return folds for which the model, and its baselines, learn from the interactions of the folds `trained`."""
    return {
        name: replace(fold, ranked=fold.ranked and replace(fold.ranked, trained=trained))
        for name, fold in folds.items()
    }


@dataclass(frozen=True)
class Queries:
    """Users of a fold for whom lists are made, and what the lists are compared with."""

    users_U: Integers
    rows_U: NDArray[np.int64]  # each user's first row in the fold, as a place in it
    targets: Targets
    hidden: Seen  # items with an earlier interaction, which a list leaves out
    repeated: int  # users whose items in the fold all have an earlier interaction: they have no list


def list_queries(ranked: Ranked, fold: str) -> Queries:
    """Return the queries of a fold: the items of each user in it, except those with an interaction in earlier folds."""
    pairs = ranked.pairs[fold]
    earlier = ranked.seen_in(FOLDS[: FOLDS.index(fold)] or FOLDS[:1])
    keys = np.unique(pair_keys(pairs.users_N, pairs.items_N))
    known = pair_keys(np.repeat(np.arange(len(ranked.users)), np.diff(earlier.starts)), earlier.items)
    new = keys[~is_in(keys, known)] if fold != "train" else keys
    users, sizes = np.unique(new >> 32, return_counts=True)
    order = np.lexsort((pairs.sequence_N, pairs.users_N))
    firsts = order[np.searchsorted(pairs.users_N[order], users)]
    targets = Targets(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), (new & 0xFFFFFFFF).astype(np.int32))
    nothing = Seen(np.zeros(len(users) + 1, np.int64), np.empty(0, np.int32))
    hidden = nothing if fold == "train" else select_users(earlier, users)
    repeated = len(np.unique(keys >> 32)) - len(users)
    return Queries(users.astype(np.int32), firsts, targets, hidden, repeated)


def select_users(seen: Seen, users_U: NDArray[Any]) -> Seen:
    """Return the items of some users."""
    sizes = np.diff(seen.starts)[users_U]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    places = np.repeat(seen.starts[users_U] - starts[:-1], sizes) + np.arange(starts[-1])
    return Seen(starts, seen.items[places])
