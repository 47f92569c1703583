"""A table of one's own: orders with a date, ids, nulls and free text; which will be returned?"""

import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

import nfm

FOLDER = Path("build/orders")
CONFIG = {
    "name": "orders",
    "workdir": str(FOLDER),
    "source": {"format": "csv", "path": str(FOLDER / "orders.csv")},
    "columns": {
        "key": ["order_id"],
        "label": "returned",
        # Not an input: `comment`, free text that is different in every row.
        "categorical": {
            "customer": {"min_count": 2},  # customers with one order are out-of-vocabulary
            "product": {},
            "country": {},
            "season": {},
        },
        "numeric": {"price": {"scale": "log1p", "missing_flag": True}},
        "time": {"ordered_on": ["weekday"]},  # adds the field ordered_on_weekday
    },
    "split": {"time": "ordered_on", "valid_from": "2026-09-01", "test_from": "2026-10-01"},  # the past trains
    "score": {"columns": ["customer", "comment"], "rank": True, "explain": 1, "gates": {"max_oov_rate": 0.9}},
}


def orders(rows: int, first: date, days: int, seed: int) -> pd.DataFrame:
    """Return orders whose return depends on a pair: boots come back in summer, sandals in winter."""
    rng = np.random.default_rng(seed)
    day = [first + timedelta(days=int(d)) for d in rng.integers(0, days, rows)]
    season = np.array(["winter" if d.month in (10, 11, 12, 1, 2, 3) else "summer" for d in day])
    product = rng.choice(["boots", "sandals", "hat"], rows)
    wrong = ((product == "boots") & (season == "summer")) | ((product == "sandals") & (season == "winter"))
    return pd.DataFrame(
        {
            "order_id": [f"{seed}-{i:05d}" for i in range(rows)],
            "ordered_on": day,
            "customer": rng.integers(1000, 1400, rows),
            "product": product,
            "country": rng.choice(np.array(["NL", "FR", "DE", None]), rows),
            "season": season,
            "price": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(3, 0.5, rows).round(2)),
            "comment": [f"please ring twice, door {n}" for n in rng.integers(1, 10**6, rows)],
            "returned": (rng.random(rows) < np.where(wrong, 0.8, 0.1)).astype(int),
        }
    )


def main() -> None:
    """Write the tables, train, and score the orders of a night."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    orders(6000, date(2026, 1, 1), 304, seed=1).to_csv(FOLDER / "orders.csv", index=False)
    tonight = orders(500, date(2026, 11, 1), 1, seed=2).drop(columns="returned")
    tonight.to_csv(FOLDER / "tonight.csv", index=False)

    config = nfm.load_config(CONFIG, sys.argv[1:])
    features = nfm.build_features(config)
    print(f"rows: {dict(features.rows)}; report: {features.report}")
    trained = nfm.train(config)
    test = trained.metrics["test"]
    print(f"test AUC {test['auc']:.3f}, of the linear part alone {test['linear']['auc']:.3f}")

    scored = nfm.score_table(nfm.load_config(CONFIG, [*sys.argv[1:], f"source.path={FOLDER / 'tonight.csv'}"]))
    print(f"{scored.rows} scores in {scored.scores}; report: {scored.report}")
    print(pd.read_parquet(scored.scores).nsmallest(5, "score_rank").to_string(index=False))


if __name__ == "__main__":
    main()
