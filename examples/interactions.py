"""Write a small table of interactions, with its users and items: `python examples/interactions.py FOLDER`.

Viewers watch films at random times. Each viewer likes two genres, often watches the next part of a series, and
popular films are watched more often. The same seed gives the same tables. conf/viewers.yaml ranks the films.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

GENRES = ["action", "comedy", "crime", "drama", "family", "horror", "romance", "war"]
USERS, FILMS, SERIES = 600, 400, 4  # films i, i + 1, … of four are a series


def make_tables(seed: int = 1) -> dict[str, pd.DataFrame]:
    """Return the tables of interactions, users and items."""
    rng = np.random.default_rng(seed)
    first = np.repeat(rng.integers(0, len(GENRES), FILMS // SERIES), SERIES)
    second = rng.integers(0, len(GENRES), FILMS)
    popularity = rng.permutation(1 / np.arange(5, FILMS + 5))
    likes = rng.random((USERS, len(GENRES))) ** 6
    rows = []
    for user in range(USERS):
        weight = popularity * (0.02 + likes[user, first] + 0.5 * likes[user, second])
        seen, day = np.zeros(FILMS, bool), rng.uniform(0, 200)
        following = -1
        for _ in range(int(rng.integers(8, 45))):
            if following >= 0 and rng.random() < 0.5:
                film = following
            else:
                free = np.where(seen, 0, weight)
                film = int(rng.choice(FILMS, p=free / free.sum()))
            seen[film], day = True, day + rng.exponential(3)
            following = film + 1 if film % SERIES < SERIES - 1 and not seen[film + 1] else -1
            time = pd.Timestamp("2026-01-01") + pd.Timedelta(minutes=int(day * 1440))
            rows.append((f"u{user:03d}", f"f{film:03d}", time, rng.choice(["phone", "tablet", "tv"])))
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "watched_at", "device"])
    ages = rng.choice(["-25", "26-40", "41-60", "61-"], USERS)
    users = pd.DataFrame({"user_id": [f"u{i:03d}" for i in range(USERS)], "age_group": ages})
    genres = [",".join(dict.fromkeys([GENRES[a], GENRES[b]])) for a, b in zip(first, second, strict=True)]
    minutes = rng.integers(75, 160, FILMS)
    items = pd.DataFrame({"item_id": [f"f{i:03d}" for i in range(FILMS)], "genres": genres, "minutes": minutes})
    return {"interactions": interactions, "users": users, "items": items}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in make_tables().items():
        table.to_parquet(folder / f"{name}.parquet", index=False, coerce_timestamps="us")  # Spark has no nanoseconds
        print(f"{folder / name}.parquet: {len(table):,} rows")
