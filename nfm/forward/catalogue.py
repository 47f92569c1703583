"""The catalogue of a ranking: items in ascending order, with their encoded inputs, in the dataset and in the model."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.contract.arrays import to_numpy
from nfm.contract.dataset import Inputs, check_and_arrange, check_schema, read_column
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec

CATALOGUE = "_items/items.parquet"  # below dataset/, and below model/
ITEM, COUNT = "_item", "_interactions"  # columns besides the encoded ones


@dataclass(frozen=True)
class Catalogue:
    """I items; an item's index is its place in ascending order."""

    items: pa.Array  # (I,) as in the interactions
    counts: NDArray[np.int64]  # (I,) interactions of all folds
    inputs: Inputs  # arranged with the specification of the item's side

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the items and their inputs."""
        digest = hashlib.sha256(json.dumps(self.items.to_pylist(), default=str).encode())
        for array in self.inputs:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @classmethod
    def load(cls, folder: Path, side: Spec) -> Self:
        """Read the catalogue of a dataset or a model; DataError if it is missing, damaged or of another encoding.

        `side`: specification of the item's side (`forward.sides.select_side`).
        """
        path = folder / CATALOGUE
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}, the catalogue of items, cannot be read ({error}). Run nfm features again, or restore it."
            ) from error
        check_schema(side, table.schema, str(path))
        columns = {name: read_column(name, table[name].combine_chunks(), str(path)) for name in side.outputs}
        items = table[ITEM].combine_chunks()
        return cls(items, to_numpy(table[COUNT].combine_chunks()), check_and_arrange(side, columns, str(path)))
