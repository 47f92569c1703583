"""Folds with known relations of label and features, in memory and on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.config.settings import Config
from nfm.config.train import Model, Train
from nfm.contract.encoder import Encoding
from nfm.contract.schema import DATASET_MARKER, FOLDS, PART_COLUMN, RATE_PARTS, Bag, Field, Number, Spec
from nfm.training.data.batches import Fold, Rows
from nfm.training.data.files import RowGroup
from tests.bins import without_bins
from tests.contract.conftest import write_vocabularies

# Settings of small models that learn in few steps, and of trainings without randomness besides shuffling.
QUICK: dict[str, Any] = {"init_std": 0.05, "batch_norm_epsilon": 1e-5, "use": {"rates": False}}
PLAIN: dict[str, Any] = {"average": None, "unknown_dropout": 0.0}
SIDE = 8  # values of the fields a and b
CHECKERBOARD = Spec(
    ("k",),
    (
        Field("a", ("a",), ("number",), 1, SIDE, "a"),
        Field("b", ("b",), ("number",), 1, SIDE, "b"),
        Field("noise", ("noise",), ("number",), 1, 5, "noise"),
    ),
    (),
    (),
)


def rows_of(ids_BF: NDArray[Any], label: NDArray[Any], weight: Any = None, dense_BD: Any = None) -> Rows:
    """Return rows without numbers in the pooling and without bags."""
    count = len(label)
    none = np.empty((count, 0), np.float32)
    dense_BD = none if dense_BD is None else dense_BD.astype(np.float32)
    bags = (np.empty(0, np.int32), np.empty(0, np.float32), np.zeros(count + 1, np.int64))
    weight = np.ones(count) if weight is None else np.asarray(weight)
    inputs = without_bins(ids_BF.astype(np.int32), none, dense_BD, *bags)
    return Rows(inputs, label.astype(np.float32), weight.astype(np.float32), None)


def random_ids(count: int, seed: int) -> NDArray[Any]:
    """Draw (B, 3) ids of CHECKERBOARD's fields; some are missing (0) or out-of-vocabulary (1)."""
    rng = np.random.default_rng(seed)
    ids: list[NDArray[Any]] = [rng.integers(2, field.size, count) for field in CHECKERBOARD.fields]
    ids[2][: count // 20], ids[2][count // 20 : count // 10] = 0, 1
    return np.stack(ids, axis=1)


def checkerboard(count: int, seed: int) -> Rows:
    """Draw rows whose label is whether a + b is even: one field alone has no information about it."""
    ids = random_ids(count, seed)
    return rows_of(ids, (ids[:, 0] + ids[:, 1]) % 2 == 0)


def fold_in_memory(spec: Spec, rows: Rows, kind: type[Fold] = Fold) -> Fold:
    """Return a fold of rows that are already in memory."""
    digest = hashlib.sha256()
    for array in (*rows.inputs, rows.label, rows.weight):
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    chunks = [RowGroup(len(rows.label), lambda: rows)] if len(rows.label) else []
    return kind(spec, chunks, True, digest.hexdigest())


def folds_of(train: Rows, valid: Rows, test: Rows, spec: Spec = CHECKERBOARD) -> dict[str, Fold]:
    """Return the three folds by name."""
    return {name: fold_in_memory(spec, rows) for name, rows in (("train", train), ("valid", valid), ("test", test))}


def noise_folds() -> dict[str, Fold]:
    """Return folds with random labels, on which the validation loss soon rises, so that early stopping stops."""
    rng = np.random.default_rng(9)
    train, valid, test = (rows_of(random_ids(n, i), rng.integers(0, 2, n)) for i, n in enumerate((300, 200, 50)))
    return folds_of(train, valid, test)


def no_rows(rows: Rows) -> Rows:
    """Return an empty selection of these rows."""
    return rows_of(rows.inputs.ids_BF[:0], rows.label[:0])


def small_model(**changes: Any) -> Model:
    """Return settings of a model that trains quickly."""
    return Model.model_validate({"embedding_dim": 8, "hidden_units": (16,), "pooling_dropout": 0.0, **QUICK, **changes})


def training(**changes: Any) -> Train:
    """Return settings for a few epochs with Adam."""
    return Train.model_validate({"batch_size": 128, "epochs": 12, "learning_rate": 0.01, **PLAIN, **changes})


# Visits of a small shop: the values of each field, the most frequent first. Growing appends more.
COLORS, TAGS = ("red", "", "blue"), ("new", "sale")


def shop_encoding(folder: Path, colors: Sequence[str] = COLORS, tags: Sequence[str] = TAGS, **changes: Any) -> Encoding:
    """Write `encoding/` with a field, a bag, a bucketed number, a number in the pooling, and a dense number."""
    fields = (
        Field("color", ("color",), ("text",), 2, len(colors), "color"),
        Field("tags", ("tags",), ("text",), 1, len(tags), "tags", None, Bag("tag_weights", ",", None)),
        Field("age", ("age",), ("number",), 0, 3, None, (18.0, 65.5)),
    )
    numbers = (
        Number("kg", "kg", "field", 0.0, False, None, "log1p", 0.0, 1.0),
        Number("price", "price", "dense", 10.0, True, None, "none", 10.0, 5.0),
    )
    folder.mkdir(parents=True)
    digests = write_vocabularies(folder, fields, {"color": colors, "tags": tags})
    (folder / "spec.json").write_text(Spec(("id",), fields, numbers, digests, **changes).to_json())
    return Encoding.load(folder)


def shop_visits(count: int, seed: int, colors: Sequence[str] = COLORS, tags: Sequence[str] = TAGS) -> pa.RecordBatch:
    """Draw raw rows; nulls and unseen values are among them."""
    rng = np.random.default_rng(seed)

    def with_nulls(values: NDArray[Any]) -> list[Any]:
        return [None if rng.random() < 0.1 else value for value in values.tolist()]

    bags = [rng.choice([*tags, "unseen"], rng.integers(0, 4)).tolist() for _ in range(count)]
    columns = {
        "id": pa.array(range(count), pa.int64()),
        "color": pa.array(with_nulls(rng.choice([*colors, "unseen"], count)), pa.string()),
        "tags": pa.array([None if i % 11 == 0 else bag for i, bag in enumerate(bags)], pa.list_(pa.string())),
        "tag_weights": pa.array(
            [None if i % 11 == 0 else rng.uniform(0.5, 2, len(bag)).tolist() for i, bag in enumerate(bags)],
            pa.list_(pa.float64()),
        ),
        "age": pa.array(with_nulls(rng.uniform(1, 99, count)), pa.float64()),
        "kg": pa.array(with_nulls(rng.uniform(0, 9, count)), pa.float64()),
        "price": pa.array(with_nulls(rng.normal(10, 5, count)), pa.float64()),
    }
    return pa.RecordBatch.from_pydict(columns)


def shop_labels(visits: pa.RecordBatch, task: str = "binary") -> NDArray[np.float32]:
    """Return labels that depend on color, tags and price."""
    red = np.array([color == "red" for color in visits["color"].to_pylist()])
    sale = np.array(["sale" in (tags or []) for tags in visits["tags"].to_pylist()])
    price = visits["price"].fill_null(10.0).to_numpy()
    if task == "regression":
        return np.asarray(2.0 * red + sale - 0.1 * price, np.float32)
    if task == "multiclass":
        return np.asarray(red + 1.0 * sale, np.float32)
    return np.asarray((red ^ sale) | (price > 16), np.float32)


def write_shop(
    folder: Path, encoding: Encoding, task: str = "binary", rows: int = 400, has_parts: bool = True, **changes: Any
) -> Config:
    """Write `dataset/` next to the `encoding/` of a working folder, and return a configuration for short trainings.

    Args:
        folder: the working folder.
        encoding: the encoding in the folder.
        task: model task of the labels.
        rows: rows of the train fold; the other folds have a quarter each.
        has_parts: whether the dataset has the parts for target rates, unlike those of older versions.
        changes: settings by section: model, train, split.
    """
    spec, counts = encoding.spec, {"train": rows, "valid": rows // 4, "test": rows // 4}
    for i, (fold, count) in enumerate(counts.items()):
        visits = shop_visits(count, i)
        table = pa.table({"id": visits["id"], **encoding.encode(visits), "label": shop_labels(visits, task)})
        table = table.append_column("weight", pa.array(np.ones(count), pa.float32()))
        if has_parts:
            table = table.append_column(PART_COLUMN, pa.array(np.arange(count) % RATE_PARTS, pa.int8()))
        path = folder / "dataset" / f"fold={fold}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=150)
    missing = {"missing": dict.fromkeys(FOLDS, 0)}
    shares = {**missing, "out_of_vocabulary": dict.fromkeys(FOLDS, 0)}
    distinct = {"distinct": dict.fromkeys((*FOLDS, "table"), 4), "vocabulary": 3}
    classes = [{"class": name, **dict.fromkeys(FOLDS, 1)} for name in spec.classes]
    spread = {fold: {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0} for fold in FOLDS}
    facts = {
        "rows": counts,
        "label": {"positive": dict.fromkeys(FOLDS, 1), "by_fold": spread, "classes": classes},
        "fields": {name: {**shares, **distinct} for name in ("color", "tags")},
        "numbers": dict.fromkeys(("age", "kg", "price"), missing),
    }
    (folder / "encoding" / "statistics.json").write_text(json.dumps(facts))
    columns = {
        "key": ("id",),
        "label": "bought",
        "categorical": {"color": {"oov_buckets": 2}, "tags": {"bag": True, "weights": "tag_weights"}},
        "numeric": {"age": {"buckets": 3}, "kg": {"as": "field"}, "price": {"as": "dense", "missing_flag": True}},
    }
    settings = {
        "name": "shop",
        "workdir": str(folder),
        "source": {"path": "raw"},
        "columns": columns,
        "split": changes.get("split", {}),
        "model": {"task": task, "embedding_dim": 4, "hidden_units": (8,), **QUICK, **changes.get("model", {})},
        "train": {"batch_size": 64, "epochs": 3, "learning_rate": 0.01, **PLAIN, **changes.get("train", {})},
    }
    config = Config.model_validate(settings)
    marker = {"encoding_fingerprint": spec.fingerprint, "rows": counts, "settings": config.of_dataset}
    (folder / "dataset" / DATASET_MARKER).write_text(json.dumps(marker))
    return config
