"""Datasets on disk whose rows are numbered: the label is the number, from which all other columns are computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.schema import Bag, Field, Number, Spec
from nfm.training.data.batches import Fold, read_folds

BAG = Bag(None, ",", None)
SPEC = Spec(
    ("k",),
    (
        Field("a", ("a",), ("text",), 1, 1000, "a"),
        Field("tags", ("tags",), ("text",), 1, 8, "tags", None, BAG),
        Field("b", ("b",), ("number",), 1, 5, "b"),
        Field("words", ("words",), ("text",), 1, 3, "words", None, BAG),
    ),
    (
        Number("x", "x", "field", 0.0, False, None, "none", 0.0, 1.0),
        Number("y", "y", "dense", 0.0, True, None, "none", 0.0, 1.0),
    ),
    ("", "", "", ""),
)
PLAIN = Spec(("k",), (SPEC.fields[0], SPEC.fields[2]), (), ("", ""))
FILES = {"part-0.parquet": [7, 40], "part-1.parquet": [1], "country=DE/day=1/part-0.parquet": [13, 0, 30, 2]}


def table(spec: Spec, start: int, rows: int) -> pa.Table:
    """Return rows numbered from `start`; the label is the number, and all other columns are computed from it."""
    n = np.arange(start, start + rows)
    rng = np.random.default_rng(start)
    columns: dict[str, Any] = {
        "label": n.astype(np.float32),
        "weight": (n / 4).astype(np.float32),
        "k": pa.array([f"g{i % 3}" if i % 5 else None for i in n], pa.string()),
    }
    for field in spec.fields:
        if field.bag is None:
            columns[field.name] = (n * 7 % field.size).astype(np.int32)
        else:
            lengths = [int(length) for length in rng.integers(0, 4, rows)]
            ids = [rng.integers(0, field.size, length).tolist() for length in lengths]
            weights = [[float(i) / 2 + 1 for i in range(length)] for length in lengths]
            columns[field.name] = pa.array(ids, pa.list_(pa.int32()))
            columns[f"{field.name}_weights"] = pa.array(weights, pa.list_(pa.float32()))
    for number in spec.numbers:
        columns |= {name: (n + i).astype(np.float32) for i, name in enumerate(number.outputs)}
    return pa.table(columns)


def write(folder: Path, spec: Spec, files: dict[str, list[int]], rows_in_marker: int | None = None) -> Path:
    """Write a dataset; `files`: path of a file in fold=train → rows of its row groups."""
    start = 0
    for name, groups in files.items():
        path = folder / "fold=train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, table(spec, 0, 0).schema) as writer:
            for rows in groups:
                writer.write_table(table(spec, start, rows))
                start += rows
    rows_by_fold = {"train": start if rows_in_marker is None else rows_in_marker, "valid": 0, "test": 0}
    facts = {"encoding_fingerprint": spec.fingerprint, "rows": rows_by_fold}
    (folder / "_dataset.json").write_text(json.dumps(facts))
    return folder


def train_fold(folder: Path, spec: Spec = PLAIN, group: str | None = None) -> Fold:
    return read_folds(folder, spec, group)["train"]
