"""Measure the draws per second of the negative sampler, compared with NumPy's `Generator.choice` with probabilities.

Run it with `PYTHONPATH=. python tests/bench/rank_sampler.py [--items N]`. One million pairs of 50,000 users; the items'
popularity is zipf; four negatives for each pair, in batches of 4096 pairs. `Generator.choice` also draws seen items.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.training.ranking.sampler import Sampler, make_alias_table, make_seen

PAIRS, USERS, NEGATIVES, BATCH, ALPHA = 1_000_000, 50_000, 4, 4096, 0.75
REPEATS = 3

Draw = Callable[[NDArray[Any], NDArray[Any], int], object]  # (users, items, place of the first pair)


def best_time(function: Callable[[], object]) -> float:
    """Return the shortest time of a call, in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def rate(draw: Draw, users_N: NDArray[Any], items_N: NDArray[Any], batches: int) -> float:
    """Return draws per second over the first batches, without compilation."""

    def run() -> None:
        for first in range(0, batches * BATCH, BATCH):
            draw(users_N[first : first + BATCH], items_N[first : first + BATCH], first)

    draw(users_N[:BATCH], items_N[:BATCH], 0)
    return batches * BATCH * NEGATIVES / best_time(run)


def draw_from_catalogue(sampler: Sampler) -> Draw:
    """Return the function that is measured."""
    return lambda users_B, items_B, first: sampler.draw(users_B, 0, first, NEGATIVES)


def draw_from_batch(sampler: Sampler) -> Draw:
    """Return the function that is measured."""
    return lambda users_B, items_B, first: sampler.draw_from_batch(users_B, items_B, 0, first, NEGATIVES)


def main() -> None:
    """Print a table of draws per second."""
    parser = argparse.ArgumentParser(description="Measure the negative sampler.")
    parser.add_argument("--items", type=int, default=100_000)
    items = parser.parse_args().items
    random = np.random.default_rng(1)
    popularity_I = 1 / np.arange(1, items + 1)
    items_N = random.choice(items, PAIRS, p=popularity_I / popularity_I.sum()).astype(np.int32)
    users_N = random.integers(0, USERS, PAIRS).astype(np.int32)
    weights_I = np.bincount(items_N, minlength=items) ** ALPHA
    p_I = weights_I / weights_I.sum()
    seen = make_seen(users_N, items_N, USERS)
    make_alias_table(weights_I, items)  # compile the loop
    print(f"{items:,} items, {PAIRS:,} pairs, {NEGATIVES} negatives, batches of {BATCH} pairs")
    print(f"make_seen         {best_time(lambda: make_seen(users_N, items_N, USERS)) * 1000:8.1f} ms")
    print(f"make_alias_table  {best_time(lambda: make_alias_table(weights_I, items)) * 1000:8.1f} ms")
    batches = PAIRS // BATCH
    print(f"{'million draws/s':18}{'1 thread':>10}{'2 threads':>11}")
    uniform, popular = ([Sampler(seen, items, 1, w, threads) for threads in (1, 2)] for w in (None, weights_I))
    rows: dict[str, list[Draw]] = {
        "uniform": [draw_from_catalogue(sampler) for sampler in uniform],
        "popularity": [draw_from_catalogue(sampler) for sampler in popular],
        "batch": [draw_from_batch(sampler) for sampler in uniform],
        "Generator.choice": [lambda u, i, first: random.choice(items, (len(u), NEGATIVES), p=p_I)],
    }
    for name, draws in rows.items():
        rates = [rate(draw, users_N, items_N, batches) / 1e6 for draw in draws]
        print(f"{name:18}" + "".join(f"{number:10.2f} " for number in rates))


if __name__ == "__main__":
    main()
