"""Measure a ranking: lists for the users of a fold over the whole catalogue, compared with what they chose there.

Each user has one list, made of the inputs of the user's first row in the fold, without the items of earlier
interactions. The items that the user chose in the fold are relevant.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.config.train import Model
from nfm.contract.dataset import Inputs
from nfm.contract.errors import DivergedError
from nfm.contract.schema import FOLDS, Spec
from nfm.forward import lists as forward
from nfm.forward.lists import top_lists
from nfm.forward.pairs import PairScorer
from nfm.forward.sides import sum_side
from nfm.training.data.batches import Fold
from nfm.training.data.rows import take_rows
from nfm.training.model import Weights, describe, export
from nfm.training.ranking.baselines import neighbour_lists, popularity_lists
from nfm.training.ranking.data import Queries, Ranked, list_queries, select_users
from nfm.training.ranking.metrics import Targets, measure_catalogue, measure_lists, summarize
from nfm.training.ranking.sampler import Seen

# Pairs of users and items, about, that are scored after an epoch and after the training, without and with hidden
# layers: some seconds, and some minutes. Fewer users are drawn where a fold has more pairs; never fewer items.
EPOCH_PAIRS, FINAL_PAIRS = (500_000_000, 20_000_000), (200_000_000_000, 2_000_000_000)
_MOST_NEIGHBOURS = 5_000_000  # train interactions up to which item-kNN is computed, in about three minutes
_USERS = 1 << 14  # users whose inputs are in memory together
_SEED = 0x11575


class Measured(NamedTuple):
    """Lists of the evaluated users, and their figures."""

    queries: Queries
    lists_UK: NDArray[np.int32]
    figures: Mapping[str, NDArray[np.float64]]  # (U,) by name, such as ndcg@10


@dataclass
class RankingTally:
    """Metrics of a ranking on one fold; `measure` fills it."""

    most_pairs: tuple[int, int] = FINAL_PAIRS
    with_baselines: bool = False
    constant: tuple[float, ...] = ()
    rows: int = 0
    ranked: Ranked | None = None
    measured: dict[str, Measured] = field(default_factory=dict)  # model, popularity, neighbours
    catalogue: dict[str, dict[str, float]] = field(default_factory=dict)  # coverage and novelty, likewise

    @property
    def users(self) -> int:
        """Number of users who were measured."""
        return len(self.measured["model"].queries.users_U) if self.measured else 0

    def metrics(self) -> dict[str, Any]:
        """Return the means over users by name, those of the baselines, and the intervals of the model's."""
        if not self.users:
            return {"rows": self.rows}
        model = summarize(self.measured["model"].figures)
        means = {name: {n: i.mean for n, i in summarize(m.figures).items()} for name, m in self.measured.items()}
        return {
            "rows": self.rows,
            "users": self.users,
            "users_without_new_items": self.measured["model"].queries.repeated,
            **means.pop("model"),
            **self.catalogue["model"],
            "intervals": {name: [interval.low, interval.high] for name, interval in model.items()},
            **{name: figures | self.catalogue[name] for name, figures in means.items()},
        }


def make_ranking_measure(spec: Spec, model: Model, weights: Weights) -> Callable[..., RankingTally]:
    """Make the function of (fold, tally) that measures these weights, whatever their values are then."""
    known: dict[tuple[str, int], Queries] = {}  # the same after each epoch

    def measure(fold: Fold, tally: RankingTally, *_: Any, **__: Any) -> RankingTally:
        ranked = fold.ranked
        assert ranked is not None
        place = fold.name, tally.most_pairs[bool(model.hidden_units)]
        if place not in known:
            known[place] = choose_users(list_queries(ranked, fold.name), len(ranked.catalogue.items), place[1])
        queries = known[place]
        tally.rows, tally.ranked = fold.rows, ranked
        most, counts_I = max(ranked.ranking.k), ranked.count_items()
        lists = {"model": make_lists(spec, model, weights, fold, queries, most)}
        if tally.with_baselines and len(queries.users_U):
            users, hidden = queries.users_U, ranked.seen_in(FOLDS[: FOLDS.index(fold.name)])
            lists["popularity"] = popularity_lists(counts_I, hidden, users, most)
            if len(ranked.seen.items) <= _MOST_NEIGHBOURS:
                lists["neighbours"] = neighbour_lists(counts_I, ranked.seen, hidden, users, most)
        for name, lists_UK in lists.items():
            figures = measure_lists(lists_UK, queries.targets, ranked.ranking.k) if len(queries.users_U) else {}
            tally.measured[name] = Measured(queries, lists_UK, figures)
            tally.catalogue[name] = measure_catalogue(lists_UK, counts_I, ranked.ranking.k)
        return tally

    return measure


def choose_users(queries: Queries, items: int, most_pairs: int) -> Queries:
    """Return the queries of a random sample of users, the same each time, so that about `most_pairs` are scored."""
    count, most = len(queries.users_U), max(1, most_pairs // max(1, items))
    if count <= most:
        return queries
    kept = np.sort(np.random.default_rng(_SEED).choice(count, most, replace=False))
    targets, hidden = (select_users(Seen(*csr), kept) for csr in (queries.targets, queries.hidden))
    return Queries(queries.users_U[kept], queries.rows_U[kept], Targets(*targets), hidden, queries.repeated)


def make_lists(
    spec: Spec, model: Model, weights: Weights, fold: Fold, queries: Queries, most: int
) -> NDArray[np.int32]:
    """Return each user's best items, (U, `most`), with the weights as they are published."""
    ranked = fold.ranked
    assert ranked is not None
    network, arrays, threads = describe(spec, model), export(weights, spec, model), pa.cpu_count()
    items = sum_side(spec, network, arrays, ranked.sides[1], ranked.catalogue.inputs, threads)
    scorer = PairScorer(spec, network, arrays, *ranked.sides, items)
    lists = np.empty((len(queries.users_U), most), np.int32)
    for places, inputs in read_users(fold, queries.rows_U):
        users = sum_side(spec, network, arrays, ranked.sides[0], inputs, threads)
        seen = forward.Seen(*select_users(queries.hidden, places))
        found = top_lists(scorer, users, most, seen, threads=threads)
        if found.not_finite_U.any():
            raise DivergedError(
                f"Every score of the model must be finite, but {int(found.not_finite_U.sum())} scores of "
                f"{len(places)} users are not: its weights grew too large. Lower train.learning_rate, or set scale and "
                "clip under columns.numeric."
            )
        lists[places] = found.items_UK
    return lists


def read_users(fold: Fold, rows_U: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
    """Yield the inputs of some rows of a fold, and their places in `rows_U`."""
    order, first = np.argsort(rows_U, kind="stable"), 0
    ascending = rows_U[order]
    for rows in fold.pieces(_USERS):
        start, stop = np.searchsorted(ascending, [first, first + len(rows.label)])
        if start < stop:
            yield order[start:stop], take_rows(rows, ascending[start:stop] - first).inputs
        first += len(rows.label)
