"""Interactions, users and items of a small shop, the configuration, and the dataset that is expected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nfm.config.settings import Config

# user, item, time, device. User 7 and item 100 are in no other table; user 1 has two interactions at the time 5, and
# one that is repeated.
INTERACTIONS = [
    (1, 30, 1, "web"),
    (1, 9, 5, "app"),
    (1, 100, 5, None),
    (1, 9, 8, "web"),
    (1, 9, 8, "web"),
    (2, 30, 2, "app"),
    (2, 100, 3, "web"),
    (2, 200, 4, "web"),
    (3, 9, 6, None),
    (3, 30, 7, "app"),
    (10, 200, 1, "web"),
    (10, 30, 1, "web"),
    (10, 9, 2, "tv"),
    (7, 30, 9, "web"),
]
# user, age_group, age. User 4 has no interaction.
USERS = [(1, "young", 20.0), (2, "old", None), (3, None, 40.0), (10, "old", 60.0), (4, "old", 99.0)]
# item, genres, price. Item 5 has no interaction.
ITEMS = [(9, ["a", "b"], 1.5), (30, ["b"], 3.0), (200, None, None), (5, ["rare", "a"], 8.0)]


def write_table(path: Path, columns: dict[str, pa.DataType], rows: Sequence[tuple[Any, ...]]) -> str:
    """Write a Parquet file; returns its path."""
    arrays = [pa.array([row[i] for row in rows], type_) for i, type_ in enumerate(columns.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, list(columns)), path, row_group_size=4)
    return str(path)


def write_shop(
    folder: Path,
    types: dict[str, pa.DataType] | None = None,
    interactions: Sequence[tuple[Any, ...]] = INTERACTIONS,
    users: Sequence[tuple[Any, ...]] = USERS,
    items: Sequence[tuple[Any, ...]] = ITEMS,
) -> dict[str, str]:
    """Write the three tables. `types`: those of `user` and `item`, and of them in the other tables (`users`, `items`).

    A key that is text is written as text.
    """
    kinds = {"user": pa.int64(), "item": pa.int32(), "users": pa.int64(), "items": pa.int64()} | (types or {})

    def convert(rows: Sequence[tuple[Any, ...]], *names: str) -> list[tuple[Any, ...]]:
        texts = [kinds[name] == pa.string() for name in names]
        return [
            (
                *(str(x) if text and x is not None else x for x, text in zip(row, texts, strict=False)),
                *row[len(names) :],
            )
            for row in rows
        ]

    given = {"user": kinds["user"], "item": kinds["item"], "ts": pa.int64(), "device": pa.string()}
    people = {"user": kinds["users"], "age_group": pa.string(), "age": pa.float64()}
    things = {"item": kinds["items"], "genres": pa.list_(pa.string()), "price": pa.float32()}
    return {
        "source": write_table(folder / "interactions.parquet", given, convert(interactions, "user", "item")),
        "users": write_table(folder / "users.parquet", people, convert(users, "users")),
        "items": write_table(folder / "items.parquet", things, convert(items, "items")),
    }


def make_content(workdir: Path, paths: dict[str, str], scan: str = "auto") -> dict[str, Any]:
    """Return the configuration as in a file."""
    return {
        "name": "shop",
        "workdir": str(workdir),
        "source": {"path": paths["source"], "scan": scan},
        "columns": {"key": ("user", "item", "ts"), "categorical": {"user": {}, "item": {}, "device": {}}},
        "split": {"by": ("user",), "last": 1, "time": "ts"},
        "model": {"task": "ranking"},
        "ranking": {
            "user": "user",
            "item": "item",
            "time": "ts",
            "users": {
                "source": {"path": paths["users"], "scan": scan},
                "categorical": {"age_group": {}},
                "numeric": {"age": {"as": "dense", "impute": 0, "missing_flag": True, "scale": "none"}},
            },
            "items": {
                "source": {"path": paths["items"], "scan": scan},
                "categorical": {"genres": {"bag": True}},
                "numeric": {"price": {"as": "dense", "impute": 0, "missing_flag": True, "scale": "none"}},
            },
            "history": {"items": 2, "decay": 0.5},
        },
    }


def make_config(workdir: Path, paths: dict[str, str], scan: str = "auto", **changes: Any) -> Config:
    """Return the configuration; `changes` replace sections."""
    return Config.model_validate(make_content(workdir, paths, scan) | changes)


def decode_rows(workdir: Path) -> list[dict[str, Any]]:
    """Return the rows of the dataset with values instead of ids: None is missing, NEW is not in the vocabulary."""
    values = read_vocabulary(workdir)
    rows = []
    for path in sorted((workdir / "dataset").glob("fold=*/*.parquet")):
        for row in pq.ParquetFile(path).read().to_pylist():
            decoded = {"key": (row["key_user"], row["key_item"], row["ts"]), "sequence": row["sequence"]}
            decoded |= {name: values[name][row[name]] for name in ("user", "item", "device", "age_group")}
            decoded |= {name: row[name] for name in ("age", "age_missing", "price", "price_missing")}
            decoded["genres"] = [values["genres"][one] for one in row["genres"]]
            if "history" in row:
                decoded["history"] = [values["item"][one] for one in row["history"]]
                decoded["history_weights"] = row["history_weights"]
            rows.append(decoded | {"fold": path.parent.name.removeprefix("fold=")})
    return rows


NEW = "(not in the vocabulary)"


def read_vocabulary(workdir: Path) -> dict[str, dict[int, str | None]]:
    """Return the values of each field by id."""
    values: dict[str, dict[int, str | None]] = {}
    for row in pq.read_table(workdir / "encoding/vocabulary.parquet").to_pylist():
        values.setdefault(row["field"], {0: None, 1: NEW})[row["id"]] = row["value"]
    return values


def read_counts(workdir: Path, field: str) -> dict[str, int]:
    """Return the number of rows of the train fold for each value of a field."""
    rows = pq.read_table(workdir / "encoding/vocabulary.parquet").to_pylist()
    return {row["value"]: row["count"] for row in rows if row["field"] == field}
