"""Find the pairs of features that change the pooled vector most."""

import numpy as np
from numpy.typing import NDArray

from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec

MOST_ROWS = 10_000  # rows that the strengths are computed from
_BATCH = 500  # rows at a time


def strongest_pairs(
    spec: Spec, embedding_RK: NDArray[np.floating], inputs: Inputs, most: int = 20
) -> list[tuple[str, str, float]]:
    """Return at most `most` (feature, feature, strength), strongest first.

    A feature is a field, or a number in the pooling. The strength is the mean of |x_i v_i ⊙ x_j v_j| over rows and
    dimensions, from the terms of the Bi-Interaction pooling (paper, eq. 3). The vector of a bag is the sum of its
    members' x v; pairs within a bag are not counted. Of more than MOST_ROWS rows, MOST_ROWS rows at even distances are
    used.
    """
    single = [i for i, field in enumerate(spec.fields) if field.bag is None]
    bags = [i for i, field in enumerate(spec.fields) if field.bag is not None]
    names = [spec.fields[i].name for i in (*single, *bags)] + list(spec.field_numbers)
    names += [number.name for number in spec.binned]
    if len(names) < 2 or not len(inputs.ids_BF):
        return []
    rows = np.unique(np.linspace(0, len(inputs.ids_BF) - 1, MOST_ROWS).round().astype(int))
    table = np.asarray(embedding_RK)
    dim = table.shape[1]
    gram = np.zeros((len(names), len(names)))
    for begin in range(0, len(rows), _BATCH):
        rows_B = rows[begin : begin + _BATCH]
        ids = inputs.ids_BF[rows_B] + np.array([spec.offsets[i] for i in single], np.int64)
        values = inputs.values_BN[rows_B]
        number_vectors = table[spec.bin_offsets[-1] :] * values[:, :, np.newaxis]
        low, t = inputs.bins_BQ[rows_B] + np.array(spec.bin_offsets[:-1], np.int64), inputs.fractions_BQ[rows_B]
        bin_vectors = (1 - t)[:, :, np.newaxis] * table[low] + t[:, :, np.newaxis] * table[low + (t > 0)]
        vectors = [table[ids], _sum_bags(spec, table, inputs, rows_B, bags), number_vectors, bin_vectors]
        vectors_BMK = np.abs(np.concatenate(vectors, axis=1, dtype=np.float32))
        flat_MN = vectors_BMK.transpose(1, 0, 2).reshape(len(names), -1)
        gram += flat_MN @ flat_MN.T
    strength = gram / (len(rows) * dim)
    first, second = np.triu_indices(len(names), 1)
    order = np.argsort(-strength[first, second], kind="stable")[:most]
    return [(names[i], names[j], float(strength[i, j])) for i, j in zip(first[order], second[order], strict=True)]


def _sum_bags(
    spec: Spec, table: NDArray[np.floating], inputs: Inputs, rows_B: NDArray[np.int64], bags: list[int]
) -> NDArray[np.float32]:
    """Return (B, number of bags, K) Σ x v over the members of each bag."""
    summed = np.zeros((len(rows_B), len(bags), table.shape[1]), np.float32)
    for i, row in enumerate(rows_B) if bags else ():
        members = slice(inputs.bag_splits[row], inputs.bag_splits[row + 1])
        places = inputs.bag_rows[members]
        vectors = table[places] * inputs.bag_values[members, np.newaxis]
        for j, bag in enumerate(bags):
            start = spec.offsets[bag]
            summed[i, j] = vectors[(places >= start) & (places < start + spec.fields[bag].size)].sum(axis=0)
    return summed
