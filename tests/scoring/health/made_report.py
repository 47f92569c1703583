"""A health report made by hand, for the tests of its page."""

import copy
from collections.abc import Callable
from typing import Any

from tests.parsed import Parsed

Write = Callable[[dict[str, Any]], Parsed]
QUANTILES = ("0.01", "0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99")
EDGES = [0.0, 0.25, 0.5, 0.75, 1.0]
TABLE = {"of": "table", "value": 10, "limit": 2_000_000, "gate": "min_rows", "told": "the table has 10 rows"}
UNSEEN = {"of": "colour", "value": 0.3, "limit": 0.2, "gate": "max_oov_rate"} | {
    "told": "30.0% of the values of 'colour' are out-of-vocabulary (5.0% in training)"
}
SCORE: dict[str, Any] = {
    "min": 0.125,
    "mean": 0.6,
    "max": 0.9375,
    "quantiles": {q: float(q) / 2 for q in QUANTILES},
    "psi": 0.31,
    "psi_by_chance": 0.205,
    "histogram": {"edges": EDGES, "counts": [2, 0, 3, 5]},
    "reference": {
        "fold": "valid",
        "rows": 20,
        "quantiles": {q: float(q) / 4 for q in QUANTILES},
        "histogram": {"edges": EDGES, "counts": [8, 4, 4, 4]},
    },
}
REPORT_MADE: dict[str, Any] = {
    "name": "orders",
    "task": "binary",
    "model_fingerprint": "0123456789abcdef",
    "encoding_fingerprint": "fedcba9876543210",
    "model": "lake/model",
    "source": "lake/tonight",
    "scan": "parquet",
    "skipped_files": [],
    "bad_rows": 0,
    "created": "2026-11-22T03:04:05+01:00",
    "rows": 10,
    "score": SCORE,
    "values": {
        "from_dataset": {"values": 10, "psi": None},
        "size": {
            "values": 10,
            "missing": {"count": 0, "rate": 0.0, "rate_in_training": 0.0},
            "psi": 0.02,
            "psi_by_chance": 0.01,
            "bins": {
                "edges": [1, 4],
                "training": [0.0, 30.0, 10.0],
                "counts": [0, 8, 2],
                "names": ["missing", "ids 1–3", "id 4"],
            },
        },
        "colour": {
            "values": 10,
            "missing": {"count": 2, "rate": 0.2, "rate_in_training": 0.1},
            "out_of_vocabulary": {"count": 3, "rate": 0.3, "rate_in_training": 0.05},
            "new_values": [{"value": "mauve", "count": 2}, {"value": "", "count": 1}],
            "new_values_exact": False,
            "psi": 0.15,
            "psi_by_chance": 0.2,
            "bins": {
                "edges": [1, 2, 3, 5],
                "training": [2.0, 1.0, 10.0, 6.0, 1.0],
                "counts": [2, 3, 1, 2, 2],
                "names": ["missing", "out-of-vocabulary", "red", "ids 3–4", "<b>a colour of a long name"],
            },
        },
        "fare": {
            "values": 10,
            "missing": {"count": 1, "rate": 0.1, "rate_in_training": 0.025},
            "psi": 0.375,
            "psi_by_chance": 0.05,
            "bins": {
                "edges": [-1.5, 2.0],
                "training": [10.0, 10.0, 20.0],
                "counts": [1, 2, 7],
                "names": ["< -1.5", "-1.5 … 2", "≥ 2"],
            },
        },
    },
    "gates": {"limits": {}, "crossed": []},
}


def changed(**others: Any) -> dict[str, Any]:
    return copy.deepcopy(REPORT_MADE) | others


def prose(page: Parsed) -> str:
    return " ".join(page.text.split())


def several(scores: dict[str, dict[str, Any]], **others: Any) -> dict[str, Any]:
    report = changed(scores=scores, task="multiclass", **others)
    del report["score"]
    return report
