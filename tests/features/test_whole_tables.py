"""The whole job on random tables with both scan methods, compared row by row with pandas and plain Python."""

import json
import math
import shutil
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.features.dataset import build
from tests.contract.conftest import slow_hash

NAN = math.nan
TYPES = {
    "text": (pa.string(), st.sampled_from(["", "a", "b", "ä", "a|b", "007", "7"])),
    "int": (pa.int64(), st.sampled_from([-1, 0, 7, 2**53 + 1])),
    "small": (pa.int8(), st.integers(-2, 2)),
    "bool": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.sampled_from([date(2026, 11, 20), date(1999, 1, 1)])),
    "money": (pa.decimal128(9, 2), st.sampled_from([Decimal("1.50"), Decimal("2.00"), Decimal("-0.10")])),
    "float": (pa.float64(), st.sampled_from([0.5, 3.0, -0.0, NAN, math.inf])),
    "tags": (pa.list_(pa.string()), st.lists(st.none() | st.sampled_from(["a", "b", "x", ""]), max_size=4)),
    "csv": (pa.string(), st.sampled_from(["", "a", "a;b", "b;;a", ";"])),
    "x": (pa.float64(), st.floats(-100, 100) | st.sampled_from([NAN, -math.inf])),
    "n": (pa.int32(), st.integers(-5, 5)),
}
SPLITS = {"train": 6, "valid": 2, "test": 2}
ROW = st.tuples(*(st.none() | values for _, values in TYPES.values()))
FIELDS: dict[str, dict[str, Any]] = {
    "text": {"oov_buckets": 2, "min_count": 2},
    "int": {},
    "small": {"max_size": 2},
    "bool": {},
    "day": {},
    "money": {},
    "float": {},
    "tags": {"bag": True, "max_length": 3, "weights": "weights"},
    "csv": {"bag": True, "delimiter": ";", "share_with": "tags"},
    "pair": {"cross": ("text", "bool"), "min_count": 1},
    "hashed": {"column": "text", "hash_buckets": 5},
}
NUMBERS: dict[str, dict[str, Any]] = {
    "x": {"impute": "median", "missing_flag": True, "clip": (0.1, 0.9)},
    "n": {"scale": "minmax", "as": "field"},
    "n_bucket": {"column": "n", "buckets": 3},
}


def config(workdir: Path, path: Path, scan: str) -> Config:
    content = {
        "name": "random",
        "workdir": str(workdir),
        "source": {"path": str(path), "scan": scan},
        "columns": {"key": ("id",), "label": "label", "categorical": FIELDS, "numeric": NUMBERS},
        "split": {"column": "fold"},
    }
    return Config.model_validate(content)


def write_raw(folder: Path, rows: list[tuple[Any, ...]], files: int) -> pd.DataFrame:
    """Write the raw table into files with small row groups, and return it as plain Python values."""
    folder.mkdir()
    folds = [name for name, n in SPLITS.items() for _ in range(n)]
    columns: dict[str, Any] = {"id": list(range(len(rows)))}
    columns |= {name: [row[i] for row in rows] for i, name in enumerate(TYPES)}
    columns["weights"] = [None if tags is None else [i / 2 for i in range(len(tags))] for tags in columns["tags"]]
    columns["fold"] = [folds[i * 7 % len(folds)] for i in range(len(rows))]
    columns["label"] = [i % 2 for i in range(len(rows))]
    types = {"id": pa.int64(), "weights": pa.list_(pa.float64()), "fold": pa.string(), "label": pa.int32()}
    types |= {name: type_ for name, (type_, _) in TYPES.items()}
    table = pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
    for i, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        pq.write_table(table.take(pa.array(part)), folder / f"{i}.parquet", row_group_size=7)
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def text_of(value: Any) -> str | None:
    """Return the canonical text of a plain value."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return (
            str(int(value)) if value == int(value) else f"{value.normalize() if isinstance(value, Decimal) else value}"
        )
    return str(value)


def members(name: str, row: Any) -> list[str | None]:
    """Return the values of a field in a row."""
    if name == "tags":
        return [None] if row.tags is None else [*row.tags][:3]
    if name == "csv":
        return [None] if row.csv is None else row.csv.split(";") if row.csv else []
    if name == "pair":
        texts = [text_of(row.text), text_of(row.bool)]
        return [
            None
            if None in texts
            else "|".join(t.replace("\\", "\\\\").replace("|", "\\|") for t in texts if t is not None)
        ]
    return [text_of(getattr(row, FIELDS[name].get("column", name)))]


def vocabulary(raw: pd.DataFrame, names: list[str], min_count: int, max_size: int | None) -> list[str]:
    train = [row for row in raw.itertuples() if row.fold == "train"]
    counts = Counter(m for row in train for name in names for m in members(name, row) if m is not None)
    ranked = sorted((v for v, n in counts.items() if n >= min_count), key=lambda v: (-counts[v], v.encode()))
    return ranked[:max_size]


def numbers_by_hand(raw: pd.DataFrame) -> dict[str, list[float]]:
    train = raw["fold"] == "train"
    x = pd.to_numeric(raw["x"]).replace([math.inf, -math.inf], NAN).astype(float)
    missing = x.isna()
    low, high = x[train].quantile(0.1), x[train].quantile(0.9)
    clipped = x.clip(low, high)
    if x[train].notna().any():
        mean, std = clipped[train].mean(), clipped[train].std(ddof=0)
        filled = clipped.fillna(clipped[train].median())
    else:
        filled, mean, std = x.fillna(0.0), 0.0, 1.0
    n = pd.to_numeric(raw["n"]).astype(float)
    known = n[train].dropna()
    smallest, largest, n_mean = (known.min(), known.max(), known.mean()) if len(known) else (0.0, 1.0, 0.0)
    return {
        "x": ((filled - mean) / (std or 1.0)).tolist(),
        "x_missing": missing.astype(float).tolist(),
        "n": ((n.fillna(n_mean) - smallest) / ((largest - smallest) or 1.0)).tolist(),
    }


def rows_of(folder: Path) -> pd.DataFrame:
    frames = [
        pq.ParquetFile(p).read().to_pandas().assign(fold=p.parent.name[5:]) for p in folder.glob("fold=*/*.parquet")
    ]
    rows: pd.DataFrame = pd.concat(frames).sort_values("id").reset_index(drop=True)
    return rows


# Each example runs several Spark jobs.
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(ROW, min_size=12, max_size=60), files=st.integers(1, 4))
def test_every_row_is_encoded_as_by_hand(
    spark: SparkSession,
    tmp_path: Path,
    rows: list[tuple[Any, ...]],
    files: int,
) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    tmp_path.mkdir()
    raw = write_raw(tmp_path / "raw", rows, files)
    datasets = {}
    for scan in ("parquet", "spark"):
        build(spark, config(tmp_path / scan, tmp_path / "raw", scan))
        datasets[scan] = rows_of(tmp_path / scan / "dataset")
    spec = Encoding.load(tmp_path / "parquet/encoding").spec
    assert spec.fingerprint == Encoding.load(tmp_path / "spark/encoding").spec.fingerprint
    pd.testing.assert_frame_equal(datasets["parquet"], datasets["spark"])

    dataset = datasets["parquet"]
    assert dataset["id"].tolist() == raw["id"].tolist()
    assert dataset["fold"].tolist() == raw["fold"].tolist()
    assert dataset["label"].tolist() == raw["label"].tolist()
    for name, field in FIELDS.items():
        owner = field.get("share_with", name)
        sharing = [other for other in FIELDS if FIELDS[other].get("share_with", other) == owner]
        buckets = field.get("hash_buckets") or FIELDS[owner].get("oov_buckets", 1)
        known = vocabulary(raw, sharing, FIELDS[owner].get("min_count", 1), FIELDS[owner].get("max_size"))
        known = [] if "hash_buckets" in field else known

        def id_of(value: str | None, known: list[str] = known, buckets: int = buckets) -> int:
            if value is None:
                return 0
            return 1 + buckets + known.index(value) if value in known else 1 + slow_hash(value, 15) % buckets

        expected = [[id_of(value) for value in members(name, row)] for row in raw.itertuples()]
        if field.get("bag"):
            assert [list(ids) for ids in dataset[name]] == expected, name
        else:
            assert [[int(i)] for i in dataset[name]] == expected, name
    weights = [[1.0] if w is None else w[:3] for w in raw["weights"]]
    assert [list(w) for w in dataset["tags_weights"]] == weights
    assert [list(w) for w in dataset["csv_weights"]] == [[1.0] * len(members("csv", row)) for row in raw.itertuples()]
    for name, numbers in numbers_by_hand(raw).items():
        np.testing.assert_allclose(dataset[name], numbers, rtol=1e-5, atol=1e-5, err_msg=name)
    edges = next(field.edges for field in spec.fields if field.name == "n_bucket")
    assert edges is not None
    n = pd.to_numeric(raw["n"])
    buckets_of_n = [0 if pd.isna(v) else 1 + sum(v >= edge for edge in edges) for v in n]
    assert dataset["n_bucket"].tolist() == buckets_of_n

    facts = json.loads((tmp_path / "parquet/encoding/statistics.json").read_text())
    for name in FIELDS:
        for fold in SPLITS:
            ids = [i for ids in dataset[dataset["fold"] == fold][name] for i in np.atleast_1d(ids)]
            assert facts["fields"][name]["values"][fold] == len(ids)
            assert facts["fields"][name]["missing"][fold] == ids.count(0)
