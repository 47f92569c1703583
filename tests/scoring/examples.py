"""A small shop: a raw table, a model with random weights, and the model's formula in plain Python."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from nfm.config.settings import Config
from nfm.contract import artifact
from nfm.contract.artifact import Artifact, Network
from nfm.contract.encoder import Encoding

ROWS = [
    (2**60 + i if i % 7 else None, ["red", "blue", "red", "", None][i % 5], i % 3, [1.0, None, 8.0][i % 3], i % 2)
    for i in range(60)
]
SCHEMA = "id long, colour string, size int, price double, label int"
NETWORK = Network("binary", 3, (4,), "relu")


def config(workdir: Path, source: Path | dict[str, str], **score: Any) -> Config:
    return Config.model_validate(
        {
            "name": "shop",
            "workdir": str(workdir),
            "source": source if isinstance(source, dict) else {"path": str(source)},
            "columns": {
                "key": ("id",),
                "label": "label",
                "categorical": {"colour": {}, "size": {"oov_buckets": 2}},
                "numeric": {"price": {"as": "field", "scale": "none", "impute": 5}},
            },
            "split": {"valid": 0.0, "test": 0.0},
            "train": {"early_stopping": None},
            "score": score,
        }
    )


def save_model(folder: Path, seed: int) -> None:
    spec = Encoding.load(folder / "encoding").spec
    rng = np.random.default_rng(seed)
    artifact.save(
        folder / "model",
        encoding_folder=folder / "encoding",
        network=NETWORK,
        weights={n: rng.normal(size=s).astype(np.float32) for n, s in NETWORK.weight_shapes(spec).items()},
        facts={"name": "shop"},
        write_more=lambda _: None,
    )


def expected_score(model: Artifact, colour: str | None, size: int | None, price: float | None) -> float:
    """Return the score of one row by the paper's equation, pair by pair."""
    w = {name: array.astype(float) for name, array in model.weights.items()}
    # The train fold is the whole table. colour: red 24 times, "" and blue 12 times each; size: 0, 1, 2, 20 times each.
    colour_id = 0 if colour is None else {"red": 2, "": 3, "blue": 4}.get(colour, 1)
    size_id = 0 if size is None else {0: 3, 1: 4, 2: 5}[size]
    x = 5.0 if price is None or not math.isfinite(price) else price
    features = [(colour_id, 1.0), (5 + size_id, 1.0), (11, x)]
    pooled = np.zeros(3)
    for a in range(3):
        for b in range(a + 1, 3):
            (i, x_i), (j, x_j) = features[a], features[b]
            pooled += x_i * w["embedding"][i] * x_j * w["embedding"][j]
    hidden = np.maximum(pooled @ w["hidden_0_kernel"] + w["hidden_0_bias"], 0)
    logits = w["bias"] + sum(w["linear"][i] * x_i for i, x_i in features) + hidden @ w["output"]
    return float(1 / (1 + np.exp(-logits[0])))


def scores(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]
