"""Measure how fast DeepCTR trains its NFM, for comparison with the train job.

The project does not depend on DeepCTR. Run it with

    TF_USE_LEGACY_KERAS=1 uv run --no-project --with deepctr==0.9.4 --with tf_keras --with 'tensorflow==2.21.*' \
        python tests/bench/train_deepctr.py [--rows N] [--values V] [--optimizer adagrad|adam] [--dropout]

DeepCTR needs Keras 2, which `tf_keras` and the environment variable provide. Differences from the train job: DeepCTR's
NFM has no batch norm. It uses dropout only with --dropout (0.5 of the pooled vector, 0.2 of hidden layers, as the train
job by default). Its L2 penalty on the embeddings, which covers the whole table at each step, is 0 here (its default is
1e-5). Each field has one embedding layer, and another one for its first-order weights.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before TensorFlow is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

FIELDS, DIM, HIDDEN, BATCH, EPOCHS = 10, 64, (128, 128), 4096, 4


def main() -> None:
    """Train; print samples per second of each epoch, and the median without the first epoch."""
    parser = argparse.ArgumentParser(description="Measure the pace of deepctr.models.NFM.")
    parser.add_argument("--rows", type=int, default=500_000, help="samples per epoch")
    parser.add_argument("--values", type=int, default=100_000, help=f"values per field, of {FIELDS} fields")
    parser.add_argument("--optimizer", choices=("adagrad", "adam"), default="adagrad")
    parser.add_argument("--dropout", action="store_true", help="0.5 of the pooled vector and 0.2 of hidden layers")
    arguments = parser.parse_args()

    from deepctr.feature_column import SparseFeat  # type: ignore[import-not-found]
    from deepctr.models import NFM  # type: ignore[import-not-found]

    rng = np.random.default_rng(7)
    rows = max(BATCH, arguments.rows // BATCH * BATCH)  # full batches only: another size would be compiled again
    names = [f"C{i}" for i in range(FIELDS)]
    data = {name: rng.integers(0, arguments.values, rows, dtype=np.int32) for name in names}
    label = rng.integers(0, 2, rows).astype(np.float32)
    columns = [SparseFeat(name, vocabulary_size=arguments.values, embedding_dim=DIM) for name in names]
    dropout = {"bi_dropout": 0.5, "dnn_dropout": 0.2} if arguments.dropout else {}
    model = NFM(columns, columns, dnn_hidden_units=HIDDEN, l2_reg_embedding=0, l2_reg_linear=0, **dropout)
    optimizers = tf.keras.optimizers
    optimizer = optimizers.Adagrad(0.05) if arguments.optimizer == "adagrad" else optimizers.Adam(1e-3)
    model.compile(optimizer, "binary_crossentropy")

    paces = []
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        model.fit(data, label, batch_size=BATCH, epochs=1, verbose=0)
        paces.append(rows / (time.perf_counter() - started))
        print(f"epoch {epoch}: {paces[-1]:10,.0f} samples/s" + ("  (cold)" if epoch == 0 else ""), flush=True)
    table = f"{FIELDS} fields of {arguments.values:,} values, K {DIM}, hidden {HIDDEN}, batch {BATCH}"
    pace = statistics.median(paces[1:])
    print(f"DeepCTR NFM, {table}, {arguments.optimizer}, {rows:,} rows: {pace:,.0f} samples/s warm")


if __name__ == "__main__":
    main()
