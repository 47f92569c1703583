"""Check the paper's claims about its recipe: RMSE of variants on a table like the paper's Frappe.

Run it with `make bench-paper` (20 minutes). The table is synthetic: users, items and contexts, whose label, -1 or +1,
is a nonlinear function of pairwise interactions. The paper (He & Chua 2017, section 5) claims: one hidden layer is
better than none; NFM without a hidden layer, but with dropout, is better than a factorization machine; dropout on the
pooling is better than none; pretrained embeddings of a factorization machine need fewer epochs.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TABLE = Path("build/bench/paper")
ROWS = 150_000
SIZES = {"user": 900, "item": 3000, "daytime": 7, "weekday": 7, "weather": 9, "country": 80, "city": 230}
VARIANTS = {
    "the paper's recipe": [],
    "loss_reduction: mean": ["train.loss_reduction=mean"],
    "… and accumulator 0.1": ["train.loss_reduction=mean", "train.initial_accumulator=0.1"],
    "without pooling dropout": ["model.pooling_dropout=0"],
    "without batch norm": ["model.batch_norm=false"],
    "no hidden layer (NFM-0)": ["model.hidden_units=[]"],
    "factorization machine": [
        "model.hidden_units=[]",
        "model.output=ones",
        "model.batch_norm=false",
        "model.pooling_dropout=0",
        "model.hidden_dropout=0",
    ],
    "pretrain: fm": ["train.pretrain=fm"],
}


def write_table() -> None:
    """Write the table, unless it exists."""
    path = TABLE / "part-00000.parquet"
    if path.exists():
        return
    TABLE.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    columns, vectors, first = {"id": pa.array(np.arange(ROWS))}, [], np.zeros(ROWS)
    for name, size in SIZES.items():
        p = np.arange(1, size + 1) ** -0.8
        ids = rng.choice(size, ROWS, p=p / p.sum())
        vectors.append(rng.normal(size=(size, 6))[ids])
        first += 0.3 * rng.normal(size=size)[ids]
        columns[name] = pa.array([f"{name}-{i}" for i in ids])
    total = np.sum(vectors, axis=0)
    pairs = 0.5 * (total**2 - np.sum(np.square(vectors), axis=0))  # (N, 6) pooling of the true model
    nonlinear = np.tanh(pairs[:, :3] / 4).prod(axis=1) * 6 + np.abs(pairs[:, 3:]).sum(axis=1) / 6
    logit = first + nonlinear - np.quantile(first + nonlinear, 2 / 3)  # two negatives per positive
    columns["label"] = pa.array(np.where(rng.random(ROWS) < 1 / (1 + np.exp(-2 * logit)), 1, -1))
    pq.write_table(pa.table(columns), path)


def main() -> None:
    """Print a line for each variant."""
    write_table()
    config = ["--config", "conf/paper.yaml"]
    subprocess.run([sys.executable, "jobs/features.py", *config], check=True, capture_output=True)
    print(f"{'':<28}{'best epoch':>10}{'valid RMSE':>12}{'test RMSE':>11}{'linear':>9}{'constant':>10}", flush=True)
    for name, changes in VARIANTS.items():
        command = [sys.executable, "jobs/train.py", *config, *(["--set", *changes] if changes else [])]
        subprocess.run(command, check=True, capture_output=True)
        metadata = json.loads(Path("build/paper/model/metadata.json").read_text())
        valid, test = metadata["metrics"]["valid"], metadata["metrics"]["test"]
        figures = f"{valid['rmse']:>12.4f}{test['rmse']:>11.4f}{test['linear']['rmse']:>9.4f}"
        print(f"{name:<28}{metadata['best_epoch']:>10}{figures}{test['constant']['rmse']:>10.4f}", flush=True)


if __name__ == "__main__":
    main()
