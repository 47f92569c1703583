"""Score the benchmark's table with pyarrow and torch in two processes: a script as an expert would write it by hand.

It uses nothing of this project: only the model's files. It looks values up with `index_in`, once for each distinct
value of a file, pools with `embedding_bag`, and keeps its processes and the model between two runs. It does not
count values, check types or resume, and a reader can see half of its output. The project does not need torch:

    uv run --no-project --with torch --with pyarrow --with numpy \
        python tests/bench/score_script.py MODEL TABLE OUTPUT [--processes 2]

It prints `ready`, then scores once for each line on its standard input and prints the seconds.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch  # type: ignore[import-not-found]
from torch.nn.functional import embedding_bag  # type: ignore[import-not-found]

BATCH = 8192  # rows: the pooled vectors and the layers' outputs stay in the cache
_MODEL: Any = None  # of a process


class Model:
    """The vocabularies as arrays for `index_in`, and the weights as tensors."""

    def __init__(self, folder: Path) -> None:
        """Read the files of a model folder."""
        spec = json.loads((folder / "encoding/spec.json").read_text())
        self.fields, self.numbers = spec["fields"], spec["numbers"]
        assert all(field["oov_buckets"] == 1 and not field["bag"] and not field["edges"] for field in self.fields)
        assert all(number["placement"] == "dense" and not number["clip"] for number in self.numbers)
        files = sorted((folder / "encoding/vocabulary.parquet").glob("*.parquet"))
        values = pa.concat_tables([pq.read_table(path, columns=["field", "value"]) for path in files])
        self.vocabularies = {
            field["name"]: values.filter(pc.equal(values["field"], field["name"]))["value"].combine_chunks()
            for field in self.fields
        }
        sizes = [2 + field["values"] for field in self.fields]  # missing, out-of-vocabulary, values
        self.offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def weights(name: str) -> torch.Tensor:
            return torch.from_numpy(np.load(folder / "weights" / f"{name}.npy"))

        self.embedding = weights("embedding")
        self.squares = self.embedding**2
        self.linear, self.dense_linear, self.bias = (weights(name) for name in ("linear", "dense_linear", "bias"))
        layers = len(list((folder / "weights").glob("hidden_*_bias.npy")))
        self.hidden = [(weights(f"hidden_{i}_kernel"), weights(f"hidden_{i}_bias")) for i in range(layers)]
        self.output = weights("output")

    def encode(self, table: pa.Table) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, F) rows of the embedding table and (B, D) numbers."""
        ids_BF = np.empty((len(table), len(self.fields)), np.int32)
        for i, field in enumerate(self.fields):
            column = table[field["name"]].unify_dictionaries().combine_chunks()
            known = pc.index_in(column.dictionary, self.vocabularies[field["name"]])
            id_of_entry = np.append(known.fill_null(-1).to_numpy() + 2, 0) + self.offsets[i]  # the last: missing
            entries = column.indices.fill_null(len(column.dictionary)).to_numpy()
            ids_BF[:, i] = id_of_entry.astype(np.int32)[entries]
        dense_BD = np.empty((len(table), len(self.numbers)), np.float32)
        for i, number in enumerate(self.numbers):
            x = table[number["column"]].fill_null(number["impute"]).to_numpy()
            dense_BD[:, i] = (x - number["shift"]) / number["divisor"]
        return torch.from_numpy(ids_BF), torch.from_numpy(dense_BD)

    def scores(self, ids_BF: torch.Tensor, dense_BD: torch.Tensor) -> torch.Tensor:
        """Return (B,) probabilities."""
        sums_BK = embedding_bag(ids_BF, self.embedding, mode="sum")
        squares_BK = embedding_bag(ids_BF, self.squares, mode="sum")
        x = torch.cat([0.5 * (sums_BK * sums_BK - squares_BK), dense_BD], 1)
        for kernel, bias in self.hidden:
            x = torch.addmm(bias, x, kernel).relu_()
        logits_B1 = x @ self.output + embedding_bag(ids_BF, self.linear, mode="sum") + self.bias
        return torch.sigmoid(logits_B1 + dense_BD @ self.dense_linear)[:, 0]


def start(model: Path) -> None:
    """Load the model in a new process, which computes with one thread."""
    global _MODEL
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    _MODEL = Model(model)


def score_file(path: Path, output: Path) -> int:
    """Score one Parquet file and write key and score; return its rows."""
    names = [field["name"] for field in _MODEL.fields]
    columns = ["id", *names, *(number["column"] for number in _MODEL.numbers)]
    table = pq.ParquetFile(path, read_dictionary=names).read(columns, use_threads=False)
    ids_BF, dense_BD = _MODEL.encode(table)
    with torch.inference_mode():
        batches = zip(ids_BF.split(BATCH), dense_BD.split(BATCH), strict=True)
        scores = torch.cat([_MODEL.scores(ids, dense) for ids, dense in batches]).numpy()
    pq.write_table(pa.table({"id": table["id"], "score": scores}), output / path.name)
    return len(table)


def main() -> None:
    """Score the table again for each line of the standard input."""
    parser = argparse.ArgumentParser(description="Score a table with pyarrow and torch.")
    for name in ("model", "table", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    files = sorted(asked.table.glob("*.parquet"))
    context = multiprocessing.get_context("spawn")
    with context.Pool(asked.processes, start, (asked.model,)) as pool:
        pool.map(len, [""] * asked.processes)  # the processes are there
        print("ready", flush=True)
        for _ in sys.stdin:
            started = time.perf_counter()
            shutil.rmtree(asked.output, ignore_errors=True)
            asked.output.mkdir(parents=True)
            rows = pool.starmap(score_file, [(path, asked.output) for path in files], chunksize=1)
            print(f"{time.perf_counter() - started} {sum(rows)}", flush=True)


if __name__ == "__main__":
    main()
