"""A small shop: interactions, users, items, a ranking model with random weights, and lists by brute force."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import nfm
from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.artifact import Network
from nfm.contract.encoder import Encoding
from nfm.forward.catalogue import CATALOGUE

USERS, ITEMS = 24, 30
NETWORK = Network("ranking", 4, (5,), "relu")
RANKING: dict[str, Any] = {"user": "user", "item": "item", "time": "ts", "history": {"items": 3, "decay": 0.5}}


def write_tables(folder: Path) -> None:
    """Write interactions of users 0 to 19 with items 0 to 24; tables with users 10 to 23 and items 5 to 29."""
    draw = np.random.default_rng(3)
    pairs = pd.DataFrame(
        {"user": draw.integers(0, 20, 180), "item": draw.integers(0, 25, 180), "ts": draw.integers(0, 40, 180)}
    ).astype("int64")
    pairs["device"] = np.array(["phone", "tablet"])[draw.integers(0, 2, 180)]
    everything = pd.DataFrame({"user": 99, "item": range(ITEMS), "ts": 50, "device": "phone"})
    pd.concat([pairs, everything]).to_parquet(folder / "pairs.parquet", index=False)
    users = pd.DataFrame({"user": range(10, USERS), "age": draw.normal(40, 9, USERS - 10)})
    users["land"] = np.array(["a", "b", None], object)[np.arange(USERS - 10) % 3]
    users.to_parquet(folder / "users.parquet", index=False)
    tags = [["x", "y"][: 1 + i % 2] if i % 5 else None for i in range(5, ITEMS)]
    items = {
        "item": list(range(5, ITEMS)),
        "tags": pa.array(tags, pa.list_(pa.string())),
        "shelf": [i % 3 for i in range(5, ITEMS)],
    }
    pq.write_table(pa.table(items), folder / "items.parquet")


def config(folder: Path, scan: str = "auto", **recommend: Any) -> Config:
    sides = {
        "users": {
            "source": {"path": str(folder / "users.parquet")},
            "categorical": {"land": {}},
            "numeric": {"age": {}},
        },
        "items": {
            "source": {"path": str(folder / "items.parquet")},
            "categorical": {"tags": {"bag": True}},
        },
    }
    return Config.model_validate(
        {
            "name": "shop",
            "workdir": str(folder),
            "source": {"path": str(folder / "pairs.parquet"), "scan": scan},
            "columns": {"key": ("user", "item"), "categorical": {"user": {}, "item": {}, "device": {}}},
            "split": {"last": 1, "time": "ts"},
            "model": {"task": "ranking"},
            "ranking": RANKING | sides,
            "recommend": {"k": 5, "output": str(folder / "lists"), **recommend},
        }
    )


def save_model(folder: Path) -> None:
    """Save a model with random weights; the catalogue is that of the dataset."""
    spec = Encoding.load(folder / "encoding").spec
    draw = np.random.default_rng(1)
    weights = {n: draw.normal(0, 0.4, s).astype(np.float32) for n, s in NETWORK.weight_shapes(spec).items()}

    def write_more(staging: Path) -> None:
        (staging / CATALOGUE).parent.mkdir()
        shutil.copy(folder / "dataset" / CATALOGUE, staging / CATALOGUE)

    artifact.save(
        folder / "model",
        encoding_folder=folder / "encoding",
        network=NETWORK,
        weights=weights,
        facts={"name": "shop", "configuration": {"ranking": RANKING}},
        write_more=write_more,
    )


def join_all(folder: Path, context: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a row for each pair of a user and an item of all tables, with the model's raw columns."""
    pairs, users = pd.read_parquet(folder / "pairs.parquet"), pd.read_parquet(folder / "users.parquet")
    items = pq.read_table(folder / "items.parquet").to_pandas().set_index("item")
    ids = sorted({*pairs["user"], *users["user"]}) if context is None else list(context["user"])
    latest = pairs.sort_values(["user", "ts", "item"], ascending=[True, False, False])
    rows = []
    users = users.set_index("user")
    for place, user in enumerate(ids):
        history = latest[latest["user"] == user]["item"].tolist()[:3]
        row = {
            "user": user,
            "device": None if context is None else context["device"].iloc[place],
            "history": history,
            "history_weights": [0.5**age for age in range(len(history))],
            "land": users["land"].get(user),
            "age": users["age"].get(user),
        }
        for item in sorted({*pairs["item"], *items.index}):
            tags = items["tags"].get(item)
            rows.append(
                {**row, "item": item, "tags": None if tags is None else list(tags), "shelf": items["shelf"].get(item)}
            )
    return pd.DataFrame(rows)


def score_all(folder: Path, context: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return all pairs with the model's score, those with interactions left out; `count` interactions of the item."""
    frame, pairs = join_all(folder, context), pd.read_parquet(folder / "pairs.parquet")
    types = {"device": pa.string(), "land": pa.string(), "age": pa.float64(), "tags": pa.list_(pa.string())}
    types |= {"history": pa.list_(pa.int64()), "history_weights": pa.list_(pa.float32())}
    names = ("user", "item", *types)
    table = pa.table({n: pa.array(frame[n], types.get(n, pa.int64()), from_pandas=True) for n in names})
    frame["score"] = nfm.load_model(folder / "model").score(table).to_numpy()
    frame["count"] = frame["item"].map(pairs["item"].value_counts()).fillna(0)
    seen = set(zip(pairs["user"], pairs["item"], strict=True))
    return frame[[pair not in seen for pair in zip(frame["user"], frame["item"], strict=True)]]


def best(frame: pd.DataFrame, k: int = 5, most: int | None = None) -> dict[Any, list[int]]:
    """Return each user's list; with `most`, the maximum number of items of a shelf."""
    lists: dict[Any, list[int]] = {}
    for user, rows in frame.groupby("user"):
        chosen, used = list[int](), dict[int, int]()
        ordered: Any = rows.sort_values(["score", "item"], ascending=[False, True]).itertuples()
        for row in ordered:
            known = most is not None and not pd.isna(row.shelf)
            if len(chosen) == k or (known and used.get(row.shelf, 0) == most):
                continue
            chosen.append(row.item)
            used[row.shelf] = used.get(row.shelf, 0) + 1
        lists[user] = chosen
    return lists


def read_lists(output: Path) -> pd.DataFrame:
    files = sorted(output.glob("*.parquet"))
    tables = [pq.ParquetFile(path).read().to_pandas() for path in files]
    for table in tables:
        assert table[["user", "rank"]].equals(table[["user", "rank"]].sort_values(["user", "rank"]))
    joined: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return joined


def items_of(frame: pd.DataFrame) -> dict[Any, list[int]]:
    return {user: rows.sort_values("rank")["item"].tolist() for user, rows in frame.groupby("user")}
