"""Metrics of a ranking on a fold, compared with lists that are made by scoring every pair of user and item."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nfm.config.settings import Config
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS, arrange_inputs
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError, DivergedError
from nfm.contract.schema import FOLDS
from nfm.forward.rows import score
from nfm.training.data.batches import Fold
from nfm.training.fit import fit
from nfm.training.model import Weights, describe, export
from nfm.training.ranking.data import list_queries
from nfm.training.ranking.evaluate import RankingTally, choose_users, make_ranking_measure
from nfm.training.ranking.metrics import summarize
from nfm.training.train import read
from tests.training.ranking.pairs import random_weights
from tests.training.ranking.planted import DECAY, two_groups, write_ranking

ITEMS = [f"i{number:02}" for number in range(14)]
ADDED = ["a", "z"]  # items of the catalogue without interactions
HISTORY_ITEMS, K = 3, (1, 5, 40)
Visit = tuple[str, str, str]  # fold, user, item


def draw_visits(split: str, users: int = 25, seed: int = 5) -> list[Visit]:
    """Draw interactions in the order of time; users often choose an item again, and some only known ones."""
    rng = np.random.default_rng(seed)
    of_user = rng.integers(0, users, 160)
    items = rng.integers(0, 12, 160) // rng.integers(1, 4, 160)
    left = np.bincount(of_user, minlength=users)
    visits = list[Visit]()
    for place, (user, item) in enumerate(zip(of_user.tolist(), items.tolist(), strict=True)):
        left[user] -= 1
        fold = {
            "last": {0: "test", 1: "valid"}.get(int(left[user]), "train"),
            "time": FOLDS[(place > 90) + (place > 125)],
            "user": {0: "valid", 1: "test"}.get(user % 4, "train"),
        }[split]
        visits.append((fold, f"u{user:02}", ITEMS[item]))
    return visits


def by_fold(visits: Sequence[Visit]) -> dict[str, list[tuple[str, str]]]:
    return {fold: [(user, item) for one, user, item in visits if one == fold] for fold in FOLDS}


class BruteForce:
    """Lists, and figures of each user, from the scores of all joined rows."""

    def __init__(self, config: Config, encoding: Encoding, weights: Weights, visits: Sequence[Visit]) -> None:
        self._model, self._encoding, self._arrays = config.model, encoding, export(weights, encoding.spec, config.model)
        self.items, self._visits = sorted({*ITEMS, *ADDED} & {*ADDED, *(item for *_, item in visits)}), visits

    def list_of(self, fold: str, user: str) -> tuple[list[str], list[str]]:
        """Return the user's list of all items, and the relevant items."""
        folds = FOLDS[: FOLDS.index(fold)]
        earlier = [item for one, other, item in self._visits if other == user and one in folds]
        own = {item for one, other, item in self._visits if other == user and one == fold}
        latest = earlier[::-1][:HISTORY_ITEMS]
        raw = pa.record_batch(
            {
                "user": pa.array([user] * len(self.items)),
                "item": pa.array(self.items),
                HISTORY: pa.array([latest] * len(self.items), pa.list_(pa.string())),
                HISTORY_WEIGHTS: pa.array(
                    [[DECAY**age for age in range(len(latest))]] * len(self.items), pa.list_(pa.float64())
                ),
            }
        )
        spec = self._encoding.spec
        rows = arrange_inputs(spec, self._encoding.encode(raw))
        scores = score(spec, describe(spec, self._model), self._arrays, rows)
        order = sorted(range(len(self.items)), key=lambda place: (-scores[place], place))
        return [self.items[i] for i in order if self.items[i] not in earlier], sorted(own - {*earlier})

    def figures(self, fold: str) -> dict[str, dict[str, float]]:
        """Return the figures of each user with relevant items."""
        users = sorted({user for one, user, _ in self._visits if one == fold})
        found = {user: self.list_of(fold, user) for user in users}
        return {user: measure(*lists) for user, lists in found.items() if lists[1]}


def measure(ranked: list[str], relevant: list[str]) -> dict[str, float]:
    figures = dict[str, float]()
    for k in K:
        ranks = [rank for rank, item in enumerate(ranked[:k], start=1) if item in relevant]
        possible = min(k, len(relevant))
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, possible + 1))
        figures |= {
            f"hr@{k}": float(bool(ranks)),
            f"recall@{k}": len(ranks) / len(relevant),
            f"ndcg@{k}": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
            f"map@{k}": sum((i + 1) / rank for i, rank in enumerate(ranks)) / possible,
            f"mrr@{k}": 1 / ranks[0] if ranks else 0.0,
        }
    return figures


def prepare(folder: Path, visits: Sequence[Visit], **changes: Any) -> tuple[Config, Encoding, dict[str, Fold], Weights]:
    config = write_ranking(folder, by_fold(visits), HISTORY_ITEMS, ADDED, ranking={"k": K}, **changes)
    encoding, folds = read(config)
    return config, encoding, folds, random_weights(encoding.spec, config.model)


@pytest.mark.parametrize("split", ["last", "time", "user"])
@pytest.mark.parametrize("hidden", [(), (6,)], ids=str)
def test_metrics_equal_those_of_all_scored_pairs(split: str, hidden: tuple[int, ...], tmp_path: Path) -> None:
    visits = draw_visits(split)
    config, encoding, folds, weights = prepare(
        tmp_path, visits, model={"hidden_units": hidden, "batch_norm": bool(hidden)}
    )
    brute = BruteForce(config, encoding, weights, visits)
    for fold in ("valid", "test"):
        tally = make_ranking_measure(encoding.spec, config.model, weights)(folds[fold], RankingTally())
        expected, metrics = brute.figures(fold), tally.metrics()
        users = {user for one, user, _ in visits if one == fold}
        assert metrics["rows"] == sum(one == fold for one, *_ in visits)
        assert metrics["users"] == len(expected)
        assert metrics["users_without_new_items"] == len(users) - len(expected)
        assert (split == "user") == (len(expected) == len(users))  # else some users chose only known items
        measured, ranked = tally.measured["model"], folds[fold].ranked
        assert ranked is not None
        assert ranked.catalogue.items.to_pylist() == brute.items
        for place, user in enumerate(measured.queries.users_U):
            name = ranked.users[int(user)].as_py()
            lists = [brute.items[i] for i in measured.lists_UK[place] if i >= 0]
            assert lists == brute.list_of(fold, name)[0]
            assert {key: values[place] for key, values in measured.figures.items()} == pytest.approx(expected[name])
        for key in measured.figures:
            assert metrics[key] == pytest.approx(np.mean([figures[key] for figures in expected.values()]))
            assert metrics["intervals"][key] == list(summarize(measured.figures)[key][1:])
        assert metrics["coverage@40"] == 1 or split != "user"


def test_baselines_know_only_the_train_fold(tmp_path: Path) -> None:
    visits = draw_visits("last")
    config, encoding, folds, weights = prepare(tmp_path, visits)
    tally = make_ranking_measure(encoding.spec, config.model, weights)(folds["test"], RankingTally(with_baselines=True))
    counts = dict.fromkeys(BruteForce(config, encoding, weights, visits).items, 0)
    for fold, _, item in visits:
        counts[item] += fold == "train"
    popular = sorted(counts, key=lambda item: (-counts[item], item))
    lists, ranked = tally.measured["popularity"], folds["test"].ranked
    assert ranked is not None
    for place, user in enumerate(lists.queries.users_U):
        name = ranked.users[int(user)].as_py()
        known = {item for fold, other, item in visits if other == name and fold != "test"}
        found = [ranked.catalogue.items[i].as_py() for i in lists.lists_UK[place].tolist() if i >= 0]
        assert found == [item for item in popular if item not in known]
    metrics = tally.metrics()
    assert metrics["popularity"].keys() == metrics["neighbours"].keys() > {"ndcg@5", "coverage@40", "novelty@1"}


def test_a_sample_of_users_is_the_same_each_time(tmp_path: Path) -> None:
    config, encoding, folds, weights = prepare(tmp_path, draw_visits("user"))
    measure_fold = make_ranking_measure(encoding.spec, config.model, weights)
    ranked = folds["test"].ranked
    assert ranked is not None
    items = len(ranked.catalogue.items)
    whole = measure_fold(folds["test"], RankingTally())
    samples = [measure_fold(folds["test"], RankingTally((3 * items + 2, 1))) for _ in range(2)]
    users = [sample.measured["model"].queries.users_U.tolist() for sample in samples]
    assert users[0] == users[1] and len(users[0]) == 3
    assert samples[0].metrics() == samples[1].metrics()
    # The figures of a user in the sample are those of the user among all.
    all_users = whole.measured["model"].queries.users_U.tolist()
    places = [all_users.index(user) for user in users[0]]
    for key, values in samples[0].measured["model"].figures.items():
        np.testing.assert_array_equal(values, whole.measured["model"].figures[key][places])
    queries = list_queries(ranked, "test")
    assert choose_users(queries, items, len(all_users) * items) is queries
    assert len(choose_users(queries, items, 1).users_U) == 1


def test_folds_without_rows_and_without_new_items(tmp_path: Path) -> None:
    visits = [("train", "u1", "i00"), ("train", "u1", "i01"), ("train", "u2", "i02"), ("valid", "u1", "i01")]
    config, encoding, folds, weights = prepare(tmp_path, visits, train={"early_stopping": None})
    measure_fold = make_ranking_measure(encoding.spec, config.model, weights)
    assert measure_fold(folds["test"], RankingTally(with_baselines=True)).metrics() == {"rows": 0}
    tally = measure_fold(folds["valid"], RankingTally(with_baselines=True))
    assert (tally.metrics(), tally.users) == ({"rows": 1}, 0)


def test_early_stopping_needs_a_user_with_a_new_item(tmp_path: Path) -> None:
    visits = two_groups(train=2)
    for place, rows in enumerate((visits["valid"][:0], visits["train"][:9])):
        config = write_ranking(tmp_path / str(place), {**visits, "valid": rows})
        encoding, folds = read(config)
        message = (
            "train.early_stopping watches val_ndcg@10, but the validation fold has no rows",
            "train.early_stopping watches val_ndcg@10, which is not defined: in the validation fold, no user has an "
            "item without an earlier interaction",
        )[place]
        with pytest.raises(DataError, match=message):
            fit(encoding.spec, config.model, config.train, folds)


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    config, encoding, folds, weights = prepare(tmp_path, draw_visits("last"))
    weights.tables.embedding[:] = 1e30
    with pytest.raises(DivergedError, match="are not: its weights grew too large"):
        make_ranking_measure(encoding.spec, config.model, weights)(folds["test"], RankingTally())
