"""The pairs of features that move the pooled vector most."""

import numpy as np
from numpy.typing import NDArray

from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec

MOST_ROWS = 10_000
_CHUNK = 500  # rows at a time


def strongest_pairs(
    spec: Spec, embedding_RK: NDArray[np.floating], inputs: Inputs, most: int = 20
) -> list[tuple[str, str, float]]:
    """Return (feature, feature, strength), the strongest first; features are fields and numbers in the pooling.

    The strength is the mean of |x_i v_i ⊙ x_j v_j| over rows and K: the terms of the Bi-Interaction pooling (paper,
    eq. 3). A bag's vector is the sum of its members' x v; its members do not pair with each other. If there are more
    than MOST_ROWS rows, MOST_ROWS at even distances are taken.
    """
    single = [i for i, field in enumerate(spec.fields) if field.bag is None]
    bags = [i for i, field in enumerate(spec.fields) if field.bag is not None]
    names = [spec.fields[i].name for i in (*single, *bags)] + list(spec.field_numbers)
    if len(names) < 2 or not len(inputs.ids_BF):
        return []
    rows = np.unique(np.linspace(0, len(inputs.ids_BF) - 1, MOST_ROWS).round().astype(int))
    table = np.asarray(embedding_RK)
    dim = table.shape[1]
    gram = np.zeros((len(names), len(names)))
    for begin in range(0, len(rows), _CHUNK):
        chunk = rows[begin : begin + _CHUNK]
        ids = inputs.ids_BF[chunk] + np.array([spec.offsets[i] for i in single], np.int64)
        values = inputs.values_BN[chunk]
        of_numbers = table[len(table) - values.shape[1] :] * values[:, :, np.newaxis]
        parts = [table[ids], _bag_vectors(spec, table, inputs, chunk, bags), of_numbers]
        vectors_BMK = np.abs(np.concatenate(parts, axis=1, dtype=np.float32))
        flat_MN = vectors_BMK.transpose(1, 0, 2).reshape(len(names), -1)
        gram += flat_MN @ flat_MN.T
    strength = gram / (len(rows) * dim)
    first, second = np.triu_indices(len(names), 1)
    order = np.argsort(-strength[first, second], kind="stable")[:most]
    return [(names[i], names[j], float(strength[i, j])) for i, j in zip(first[order], second[order], strict=True)]


def _bag_vectors(
    spec: Spec, table: NDArray[np.floating], inputs: Inputs, chunk: NDArray[np.int64], bags: list[int]
) -> NDArray[np.float32]:
    """Return (B, bags, K) Σ x v over the members of each bag."""
    summed = np.zeros((len(chunk), len(bags), table.shape[1]), np.float32)
    for i, row in enumerate(chunk) if bags else ():
        members = slice(inputs.bag_splits[row], inputs.bag_splits[row + 1])
        places = inputs.bag_rows[members]
        vectors = table[places] * inputs.bag_values[members, np.newaxis]
        for j, bag in enumerate(bags):
            start = spec.offsets[bag]
            summed[i, j] = vectors[(places >= start) & (places < start + spec.fields[bag].size)].sum(axis=0)
    return summed
