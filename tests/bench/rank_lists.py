"""Measure the pairs per second of lists of the best items, on one thread, against matrix products of the same size.

Run it with `PYTHONPATH=. python tests/bench/rank_lists.py [--users N] [--rounds N]`. Without hidden layers: K 64,
100,000 items, lists of 20, compared with NumPy's matrix product and `argpartition`, and with `recommend` of implicit if
it can be imported. implicit is not a dependency; run the file in an environment of its own, with the versions of numpy,
numba and pyarrow that the project uses: `uv run --no-project --with implicit --with numpy==… …`.
With hidden layers 128-128, compared with the arithmetic floor: the matrix products of the layers alone.

All run in turn. The figures are medians of the CPU time, which other processes change less than the elapsed time.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Field, Spec
from nfm.forward.lists import Limit, Seen, top_lists
from nfm.forward.pairs import PairScorer
from nfm.forward.sides import Side, select_side, sum_side

K, ITEMS, COUNT, UNITS = 64, 100_000, 20, 128
BATCHES = (32, 96, 480, 960, 2048)  # the fastest one is reported
PRODUCT_TARGET, FLOOR_TARGET = 5, 1.5
MULTIPLY_ADDS = K * UNITS + UNITS * UNITS + UNITS  # of a pair
HIDDEN_USERS, HIDDEN_ITEMS = 96, 2880

Floats = NDArray[np.float32]
Ways = dict[str, Callable[[], object]]


def make_ranking(hidden: tuple[int, ...], users: int, items: int) -> tuple[PairScorer, Side]:
    """Return a random model with two fields on each side."""
    sizes = {"user": users, "age": 8, "item": items, "genre": 20}
    spec = Spec(("id",), tuple(Field(name, (name,), ("text",), 1, size, name) for name, size in sizes.items()), (), ())
    network, random = Network("regression", K, hidden, "relu"), np.random.default_rng(1)
    shapes = network.weight_shapes(spec)
    weights = {name: random.normal(scale=0.1, size=shape).astype(np.float32) for name, shape in shapes.items()}

    def sums(side: Spec) -> Side:
        first, second = side.fields
        ids = [np.arange(2, 2 + first.values), random.integers(0, second.size, first.values)]
        none: Any = np.empty((first.values, 0), np.float32)
        no_bags = np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(first.values + 1, np.int64)
        inputs = Inputs(np.stack(ids, axis=1).astype(np.int32), none, none, none.astype(np.int32), none, *no_bags)
        return sum_side(spec, network, weights, side, inputs)

    sides = select_side(spec, ("user", "age")), select_side(spec, ("item", "genre"))
    return PairScorer(spec, network, weights, *sides, sums(sides[1])), sums(sides[0])


def select_with_numpy(users_UK: Floats, items_KI: Floats, batch: int) -> None:
    """Find the best items with a matrix product and `argpartition`."""
    for start in range(0, len(users_UK), batch):
        scores_UI = users_UK[start : start + batch] @ items_KI
        best = np.argpartition(scores_UI, -COUNT, axis=1)[:, -COUNT:]
        np.take_along_axis(best, np.argsort(-np.take_along_axis(scores_UI, best, 1), axis=1), 1)


def recommend_with_implicit(users_UK: Floats, items_IK: Floats) -> Callable[[], object] | None:
    """Return a call of implicit's `recommend` with these factors; None if it is not installed."""
    try:
        from implicit.cpu.bpr import BayesianPersonalizedRanking  # type: ignore[import-not-found,unused-ignore]
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    model = BayesianPersonalizedRanking(factors=K, num_threads=1)
    model.user_factors, model.item_factors = users_UK, items_IK
    users, none = np.arange(len(users_UK)), csr_matrix((len(users_UK), len(items_IK)), dtype=np.float32)
    return partial(model.recommend, users, none, N=COUNT, filter_already_liked_items=False)


def multiply_layers(x_TK: Floats, kernels: list[Floats], tiles: int) -> None:
    """Compute the matrix products of the layers for some tiles."""
    for _ in range(tiles):
        x = x_TK
        for kernel in kernels:
            x = x @ kernel


def fastest(ways: Mapping[int, Callable[[], object]]) -> int:
    """Return the batch size that takes the least time."""
    seconds = {size: min(timed(way) for _ in range(2)) for size, way in ways.items()}
    return min(seconds, key=lambda size: seconds[size])


def timed(way: Callable[[], object]) -> float:
    """Return the seconds of CPU time of a call."""
    start = time.process_time()
    way()
    return time.process_time() - start


def compare(title: str, pairs: int, ways: Ways, rounds: int) -> None:
    """Print the pairs per second of each way, and its time relative to that of the first one."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    base = statistics.median(seconds[next(iter(ways))])
    for name, times in seconds.items():
        median = statistics.median(times)
        rate, least = pairs / median / 1e6, pairs / max(times) / 1e6
        print(
            f"{title}, {name:<44} {rate:7.2f} M pairs/s ({least:.2f} to {pairs / min(times) / 1e6:.2f}); "
            f"nfm takes {base / median:.2f} × its time",
            flush=True,
        )


def compare_products(users: int, rounds: int) -> None:
    """Compare lists by a model without hidden layers."""
    scorer, sums = make_ranking((), users, ITEMS)
    items_KI = np.ascontiguousarray(scorer.items.sum_BK.T)
    random = np.random.default_rng(2)
    seen = Seen(np.arange(0, 100 * users + 1, 100), np.sort(random.integers(0, ITEMS, (users, 100), np.int32)).ravel())
    values = random.integers(0, 20, ITEMS, np.int32)
    limit = Limit(np.arange(ITEMS + 1), values, np.full(20, 5, np.int32))
    numpy_ways = {size: partial(select_with_numpy, sums.sum_BK, items_KI, size) for size in BATCHES if size <= users}
    batch = fastest(numpy_ways)
    ways: Ways = {
        "nfm": lambda: top_lists(scorer, sums, COUNT),
        "nfm, 100 seen items": lambda: top_lists(scorer, sums, COUNT, seen),
        "nfm, 5 items of each of 20 values": lambda: top_lists(scorer, sums, COUNT, limit=limit),
        f"NumPy, batches of {batch}": numpy_ways[batch],
    }
    recommend = recommend_with_implicit(sums.sum_BK, scorer.items.sum_BK)
    if recommend is not None:
        ways[f"implicit (target: at most {PRODUCT_TARGET})"] = recommend
    compare("no hidden layers", users * ITEMS, ways, rounds)


def compare_hidden(rounds: int) -> None:
    """Compare lists by a model with hidden layers."""
    scorer, sums = make_ranking((UNITS, UNITS), HIDDEN_USERS, HIDDEN_ITEMS)
    pairs, random = HIDDEN_USERS * HIDDEN_ITEMS, np.random.default_rng(3)
    kernels = [random.normal(size=shape).astype(np.float32) for shape in ((K, UNITS), (UNITS, UNITS), (UNITS, 1))]
    floors = {
        rows: partial(multiply_layers, random.normal(size=(rows, K)).astype(np.float32), kernels, pairs // rows)
        for rows in (96, 480, 960, 2880)  # all divide the number of pairs
    }
    rows = fastest(floors)
    ways: Ways = {
        "nfm": lambda: top_lists(scorer, sums, COUNT),
        f"floor in tiles of {rows} (target: at most {FLOOR_TARGET})": floors[rows],
    }
    compare(f"128-128, {MULTIPLY_ADDS:,} multiply-adds a pair", pairs, ways, rounds)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Measure the pace of lists.")
    parser.add_argument("--users", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with threadpool_limits(1):
        compare_products(arguments.users, arguments.rounds)
        compare_hidden(arguments.rounds)


if __name__ == "__main__":
    main()
