"""A small shop: its raw table, the configuration of its feature job, and the rows of its dataset."""

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nfm.config.settings import Config

COLOURS = ["red", "blue", "red", "", None]
PRICES = [1.0, 2.0, None, 8.0, math.nan, math.inf]
ROWS = [
    # id, colour, size, price, label
    *((i, COLOURS[i % 5], i % 3, PRICES[i % 6], i % 2) for i in range(60)),
    (60, "green", 7, 4.0, 1),
    (None, "red", None, -1.0, 0),
]  # fmt: skip
SCHEMA = "id int, colour string, size int, price double, label int"


def config(workdir: Path, path: Path, **changes: Any) -> Config:
    content: dict[str, Any] = {
        "name": "shop",
        "workdir": str(workdir),
        "source": {"path": str(path)},
        "columns": {
            "key": ("id",),
            "label": "label",
            "categorical": {"colour": {}, "size": {"oov_buckets": 2}},
            "numeric": {"price": {"as": "dense", "impute": "median", "missing_flag": True, "scale": "none"}},
        },
        "split": {"valid": 0.2, "test": 0.2, "seed": 3},
    }
    return Config.model_validate(content | changes)


def dataset_rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row | {"fold": path.parent.name.removeprefix("fold=")}
        for path in folder.glob("fold=*/*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


def by_key(rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {row["id"]: row for row in rows}
