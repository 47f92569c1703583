"""The dataset on disk → batches."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from numpy.typing import NDArray

from nfm.contract.encoder import Inputs, inputs, refuse_bags
from nfm.contract.errors import DataError
from nfm.contract.schema import DATASET_MARKER, FOLDS, Spec


@dataclass(frozen=True)
class Fold:
    """One fold's rows in memory, in the order of the files' names."""

    inputs: Inputs
    label: NDArray[np.float32]  # (B,)
    weight: NDArray[np.float32]  # (B,)

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.label)

    def batches(self, size: int, seed: int | None = None) -> tf.data.Dataset:
        """Batches of (features, label, weight) as Keras takes them; shuffled anew each epoch where a seed is given."""
        features, label, weight = features_of(self.inputs), self.label[:, np.newaxis], self.weight
        order = tf.data.Dataset.range(self.rows)
        if seed is not None:
            order = order.shuffle(self.rows, seed=seed, reshuffle_each_iteration=True)

        def gather(rows: Any) -> Any:
            return {k: tf.gather(v, rows) for k, v in features.items()}, tf.gather(label, rows), tf.gather(weight, rows)

        return order.batch(size).map(gather).prefetch(tf.data.AUTOTUNE)


def features_of(arranged: Inputs) -> dict[str, NDArray[Any]]:
    """The model's inputs by name."""
    return {"ids": arranged.ids_BF, "values": arranged.values_BN, "dense": arranged.dense_BD}


def read_folds(folder: Path, spec: Spec) -> dict[str, Fold]:
    """Read the dataset's folds; one without rows is an empty fold.

    Raises:
        DataError: no dataset, one made with another encoding, a file that cannot be read, no rows to train on, or a
            field that is a bag.
    """
    refuse_bags(spec)
    marker = folder / DATASET_MARKER
    try:
        facts = json.loads(marker.read_text())
        made_with, rows = facts["encoding_fingerprint"], facts["rows"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"There is no dataset in {folder}: {marker.name} cannot be read. Run jobs/features.py first."
        ) from error
    if made_with != spec.fingerprint:
        raise DataError(
            f"{folder} was written with the encoding {made_with[:12]}…, but the encoding beside it is "
            f"{spec.fingerprint[:12]}…: they do not belong together. Run jobs/features.py again."
        )
    folds = {fold: _read(folder / f"fold={fold}", spec) for fold in FOLDS}
    for name, fold in folds.items():
        if fold.rows != rows[name]:
            raise DataError(
                f"{folder}/fold={name} holds {fold.rows} rows where {marker.name} says {rows[name]}: files were taken "
                "away or added. Run jobs/features.py again."
            )
    if not folds["train"].rows:
        raise DataError(f"The train fold of {folder} is empty: there is nothing to learn from. Check split.")
    return folds


def _read(folder: Path, spec: Spec) -> Fold:
    tables = []
    for path in sorted(folder.rglob("*.parquet")):  # in folders of their own with dataset.partition_by
        try:
            tables.append(pq.ParquetFile(path).read(columns=[*spec.outputs, "label", "weight"]))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read ({error}). Run jobs/features.py again.") from error
    if not tables:
        nothing = np.empty(0, np.float32)
        return Fold(inputs(spec, dict.fromkeys(spec.outputs, nothing)), nothing, nothing)
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return Fold(inputs(spec, columns), columns["label"], columns["weight"])
