"""Small datasets of a ranking on disk, written without Spark, in which the users' next items follow a known rule."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.config.settings import Config
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS, SEQUENCE
from nfm.contract.encoder import Encoding
from nfm.contract.schema import DATASET_MARKER, FOLDS, Bag, Field, Spec
from nfm.forward.catalogue import CATALOGUE, COUNT, ITEM
from nfm.forward.sides import divide
from tests.contract.conftest import write_vocabularies
from tests.training.examples import PLAIN, QUICK

Visits = Sequence[tuple[str, str]]  # (user, item), those of a user in the order of time
DECAY = 0.5
SIZE = 20  # users and items of each group


def two_groups(seed: int = 1, train: int = 8) -> dict[str, list[tuple[str, str]]]:
    """Return interactions of users u00 to u39 with items i00 to i39: each with those of its own parity."""
    rng, folds = np.random.default_rng(seed), {fold: list[tuple[str, str]]() for fold in FOLDS}
    for user in range(2 * SIZE):
        items = [f"i{2 * i + user % 2:02}" for i in rng.permutation(SIZE)[: train + 2]]
        for place, item in enumerate(items):
            folds["train" if place < train else FOLDS[place - train + 1]].append((f"u{user:02}", item))
    return folds


def chains(users: int = 80, items: int = 24, length: int = 7, seed: int = 1) -> dict[str, list[tuple[str, str]]]:
    """Return interactions in which the item after i is always i + 5, modulo the number of items."""
    rng, folds = np.random.default_rng(seed), {fold: list[tuple[str, str]]() for fold in FOLDS}
    for user in range(users):
        item = int(rng.integers(items))
        for place in range(length):
            fold = {length - 1: "test", length - 2: "valid"}.get(place, "train")
            folds[fold].append((f"u{user:02}", f"i{item:02}"))
            item = (item + 5) % items
    return folds


def write_ranking(
    folder: Path, folds: Mapping[str, Visits], history: int = 0, items: Sequence[str] = (), **changes: Any
) -> Config:
    """Write `encoding/` and `dataset/`, and return a configuration for short trainings.

    Args:
        folder: the working folder.
        folds: interactions of each fold; a user's interactions in a later fold follow those in earlier ones.
        history: maximum number of items in a history; 0: no history.
        items: items of the catalogue without interactions.
        changes: settings by section: model, train, ranking, split.
    """
    counts = Counter(item for visits in folds.values() for _, item in visits)
    catalogue = sorted({*counts, *items})
    users = sorted({user for visits in folds.values() for user, _ in visits})
    encoding = _write_encoding(folder / "encoding", users, catalogue, bool(history))
    config = _configure(folder, history, changes)
    names = {raw: name for name, raw in config.joined.columns.key_names(()).items()}
    before: dict[str, list[str]] = {user: [] for user in users}
    rows = {fold: len(folds.get(fold, ())) for fold in FOLDS}
    for fold in FOLDS:
        raw = _join(folds.get(fold, ()), before, history)
        keys = {names["user"]: raw["user"], names["item"]: raw["item"], SEQUENCE: raw[SEQUENCE]}
        table = pa.table({**keys, **encoding.encode(raw)})
        for name in ("label", "weight"):
            table = table.append_column(name, pa.array(np.ones(len(table)), pa.float32()))
        path = folder / "dataset" / f"fold={fold}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        if len(table):
            table = table.take(np.random.default_rng(len(table)).permutation(len(table)))  # not in the order of time
            pq.write_table(table, path, row_group_size=100)
    _write_catalogue(folder / "dataset" / CATALOGUE, encoding, catalogue, counts)
    _write_facts(folder, encoding, config, rows, (len(users), len(catalogue)))
    return config


def _write_encoding(folder: Path, users: list[str], items: list[str], has_history: bool) -> Encoding:
    fields = [
        Field("user", ("user",), ("text",), 1, len(users), "user"),
        Field("item", ("item",), ("text",), 1, len(items), "item"),
    ]
    if has_history:
        bag = Bag(HISTORY_WEIGHTS, ",", None)
        fields.append(Field(HISTORY, (HISTORY,), ("text",), 1, len(items), "item", bag=bag))
    folder.mkdir(parents=True)
    digests = write_vocabularies(folder, fields, {"user": users, "item": items})
    spec = Spec(("user", "item", SEQUENCE), tuple(fields), (), digests, item_inputs=("item",))
    (folder / "spec.json").write_text(spec.to_json())
    return Encoding.load(folder)


def _configure(folder: Path, history: int, changes: Mapping[str, Any]) -> Config:
    ranking = {"user": "user", "item": "item", "k": (5, 10), **changes.get("ranking", {})}
    if history:
        ranking |= {"time": "ts", "history": {"items": history, "decay": DECAY}}
    model = {"task": "ranking", "embedding_dim": 8, "hidden_units": (), "batch_norm": False, "pooling_dropout": 0.0}
    settings = {
        "name": "planted",
        "workdir": str(folder),
        "source": {"path": "raw"},
        "columns": {"key": ("user", "item"), "categorical": {"user": {}, "item": {}}},
        "ranking": ranking,
        "split": changes.get("split", {}),
        "model": {**QUICK, **model, **changes.get("model", {})},
        "train": {"batch_size": 64, "epochs": 20, "learning_rate": 0.02, **PLAIN, **changes.get("train", {})},
    }
    return Config.model_validate(settings)


def _join(visits: Visits, before: dict[str, list[str]], history: int) -> pa.RecordBatch:
    """Return the raw rows of some interactions, and add them to those before."""
    rows = []
    for user, item in visits:
        latest = before[user][::-1][:history]
        weights = [DECAY**age for age in range(len(latest))]
        rows.append((user, item, len(before[user]), latest, weights))
        before[user].append(item)
    types = (pa.string(), pa.string(), pa.int64(), pa.list_(pa.string()), pa.list_(pa.float64()))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    names = ("user", "item", SEQUENCE, HISTORY, HISTORY_WEIGHTS)
    return pa.record_batch({name: pa.array(c, t) for name, c, t in zip(names, columns, types, strict=True)})


def _write_catalogue(path: Path, encoding: Encoding, items: list[str], counts: Mapping[str, int]) -> None:
    side = Encoding(divide(encoding.spec)[1], encoding.vocabulary)
    raw = pa.record_batch({"item": pa.array(items, pa.string())})
    path.parent.mkdir()
    table = {ITEM: raw["item"], COUNT: pa.array([counts.get(item, 0) for item in items], pa.int64())}
    pq.write_table(pa.table({**table, **side.encode(raw)}), path)


def _write_facts(
    folder: Path, encoding: Encoding, config: Config, rows: Mapping[str, int], sizes: tuple[int, int]
) -> None:
    none = {"missing": dict.fromkeys(FOLDS, 0), "out_of_vocabulary": dict.fromkeys(FOLDS, 0)}
    fields = {
        name: {**none, "distinct": dict.fromkeys((*FOLDS, "table"), size), "vocabulary": size}
        for name, size in (("user", sizes[0]), ("item", sizes[1]), (HISTORY, sizes[1]))
    }
    label = {"column": "", "task": "ranking", "users": sizes[0], "items": sizes[1], "items_without_row": 0}
    facts = {"rows": rows, "label": label, "fields": fields, "numbers": {}}
    (folder / "encoding" / "statistics.json").write_text(json.dumps(facts))
    marker = {"encoding_fingerprint": encoding.spec.fingerprint, "rows": rows, "settings": config.of_dataset}
    (folder / "dataset" / DATASET_MARKER).write_text(json.dumps(marker))
