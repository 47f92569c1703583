"""Unknown dropout: training replaces some ids with out-of-vocabulary ids, whose embedding unseen values will have.

Rare values are replaced more often, as Kiperwasser & Goldberg (TACL 2016, section 4.2) do with rare words. A value with
one row has no use: its embedding would learn the label of that row, and the other inputs would learn less from it.
"""

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold

RARE_ROWS = 3  # a value with this number of rows is replaced in half of them

Shares = NDArray[np.float32]


def compute_shares(spec: Spec, unknown_dropout: float, train: Fold) -> Shares | None:
    """Return the share of replacements of each of the R rows of the table; None if `unknown_dropout` is 0.

    It is RARE_ROWS / (RARE_ROWS + the value's number of rows), at least `unknown_dropout`. Reads the train fold once.
    """
    if not unknown_dropout:
        return None
    counts, offsets = np.zeros(spec.rows, np.int64), single_offsets(spec)
    for rows in train.pieces():
        np.add.at(counts, (rows.inputs.ids_BF + offsets).ravel(), 1)
        np.add.at(counts, rows.inputs.bag_rows, 1)
    return to_shares(counts, unknown_dropout)


def to_shares(counts_R: NDArray[np.int64], unknown_dropout: float) -> Shares:
    """Return the share of replacements of each row of the table, from the number of rows with its value."""
    return np.maximum(unknown_dropout, RARE_ROWS / (RARE_ROWS + counts_R)).astype(np.float32)


def replace_by_unknown(inputs: Inputs, spec: Spec, train: Train, number: int, shares_R: Shares) -> Inputs:
    """Replace a random share of in-vocabulary ids with out-of-vocabulary ids.

    The same seed and step give the same replacements. Missing and out-of-vocabulary ids stay, as do the ids of fields
    without a vocabulary.

    Args:
        inputs: inputs of a batch.
        spec: specification of the encoding.
        train: training settings: the seed.
        number: number of the step.
        shares_R: share of replacements of each row of the table.
    """
    random = np.random.Generator(np.random.Philox([train.seed, number]))

    def replace(
        ids: NDArray[np.int32], start: NDArray[np.int64], first: NDArray[np.int64], buckets: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        is_replaced = (random.random(ids.shape, np.float32) < shares_R[start + ids]) & (ids >= first)
        unknown = 1 + random.integers(0, np.iinfo(np.int32).max, ids.shape) % buckets
        return np.where(is_replaced, unknown, ids).astype(np.int32)

    # Threshold that no id reaches, so hashed and bucketed fields are never replaced.
    unreachable_id = np.iinfo(np.int32).max
    first = np.array([f.first_value if f.vocabulary is not None else unreachable_id for f in spec.fields])
    buckets = np.array([max(f.oov_buckets, 1) for f in spec.fields])
    single = np.array([f.bag is None for f in spec.fields], bool)
    ids_BF = replace(inputs.ids_BF, single_offsets(spec), first[single], buckets[single])
    bag_rows = inputs.bag_rows
    if len(bag_rows):
        field = np.searchsorted(spec.offsets, bag_rows, side="right") - 1
        start = np.array(spec.offsets, np.int64)[field]
        replaced = replace((bag_rows - start).astype(np.int32), start, first[field], buckets[field])
        bag_rows = (start + replaced).astype(np.int32)
    return inputs._replace(ids_BF=ids_BF, bag_rows=bag_rows)


def single_offsets(spec: Spec) -> NDArray[np.int64]:
    """Return the first row of the table for each field that is not a bag."""
    offsets = [offset for offset, field in zip(spec.offsets, spec.fields, strict=True) if field.bag is None]
    return np.array(offsets, np.int64)
