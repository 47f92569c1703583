"""The inputs of a ranking model are divided into two sides: those of the item, and all others, those of the user.

    s = Σ x v        p = ½ [(Σ x v)² − Σ (x v)²]        of a side's own features

Σ x v of a pair is s_u + s_i, and its pooled vector is p_u + p_i + s_u ⊙ s_i (He & Chua 2017, eq. 4, applied to the
features of both). A side is therefore summed once, and not once for each pair.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec
from nfm.forward.rows import TILE, Work, process_in_steps
from nfm.kernels.layers import add_products
from nfm.kernels.pooling import Offsets, Rows, Weights, pool_rows


class Side(NamedTuple):
    """Sums over the features of one side, for B users or items."""

    sum_BK: NDArray[np.float32]  # Σ x v
    pooled_BK: NDArray[np.float32]
    linear_B: NDArray[np.float32]  # Σ w x, including the dense columns, without the bias
    dense_BD: NDArray[np.float32]  # the side's dense columns, in the order of its own spec

    def select(self, rows: slice | NDArray[np.int64]) -> "Side":
        """Return the sums of some of the rows."""
        return Side(*(array[rows] for array in self))


def divide(spec: Spec) -> tuple[Spec, Spec]:
    """Return the specifications of the user's side and of the item's side of a ranking."""
    names = {field.name for field in spec.fields} | {number.name for number in spec.numbers}
    return select_side(spec, names - set(spec.item_inputs)), select_side(spec, spec.item_inputs)


def select_side(spec: Spec, names: Collection[str]) -> Spec:
    """Return a specification with only the fields and numbers of these names, to encode tables of one side.

    A field may share the vocabulary of a field that is not selected. The fingerprint is not the model's.
    """
    fields = tuple(field for field in spec.fields if field.name in names)
    numbers = tuple(number for number in spec.numbers if number.name in names)
    read = {column for field in fields for column in field.columns} | {number.column for number in numbers}
    read |= {field.bag.weights for field in fields if field.bag is not None and field.bag.weights is not None}
    side = replace(
        spec, fields=fields, numbers=numbers, derived=tuple(one for one in spec.derived if one.name in read), digests=()
    )
    digests = dict(zip(spec.vocabularies, spec.digests, strict=False))
    return replace(side, digests=tuple(digests[name] for name in side.vocabularies if name in digests))


def sum_side(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], side: Spec, inputs: Inputs, threads: int = 1
) -> Side:
    """Sum the features of B users or items; equal rows have equal sums, bit for bit.

    Args:
        spec: the model's specification.
        network: the architecture, with one output and without target rates.
        weights: arrays as in `Network.weight_shapes`.
        side: from `select_side`.
        inputs: rows that were arranged with `side`.
        threads: number of threads.
    """
    check_network(network)
    count, dim = len(inputs.ids_BF), network.embedding_dim
    rows, offsets = Rows(*place_bags(spec, side, inputs)), find_offsets(spec, side)
    tables = Weights(weights["embedding"], weights["linear"], np.zeros(1, np.float32))
    dense_linear_1D = np.ascontiguousarray(weights["dense_linear"][find_columns(spec, side)].T)
    sum_BK, pooled_BK = (np.empty((count, dim), np.float32) for _ in range(2))
    linear_B, dense_BD = np.empty(count, np.float32), np.array(inputs.dense_BD, np.float32, order="C")

    def make() -> Work:
        def work(start: int, stop: int) -> None:
            linear_T1 = linear_B[start:stop, np.newaxis]
            pool_rows(tables, offsets, rows, start, stop, linear_T1, pooled_BK[start:stop], sum_BK[start:stop])
            add_products(dense_BD[start:stop], 0, dense_linear_1D, linear_T1, stop - start)

        return work

    process_in_steps(count, TILE, threads, make)
    return Side(sum_BK, pooled_BK, linear_B, dense_BD)


def check_network(network: Network) -> None:
    """Raise ValueError for a network that cannot rank: such a model is not trained."""
    if network.outputs != 1 or network.rates:
        raise ValueError("a network that ranks has one output and no target rates")


def find_columns(spec: Spec, side: Spec) -> NDArray[np.int64]:
    """Return the place of each of the side's dense columns among those of the model."""
    places = {name: place for place, name in enumerate(spec.dense)}
    return np.array([places[name] for name in side.dense], np.int64)


def find_offsets(spec: Spec, side: Spec) -> Offsets:
    """Return the first rows of the side's fields, bins and numbers in the model's tables.

    The numbers of a side that enter the pooling are adjacent in the specification, as `join_columns` orders them.
    """
    starts = _first_rows(spec)
    bins = {number.name: start for number, start in zip(spec.binned, spec.bin_offsets, strict=False)}
    first = spec.field_numbers.index(side.field_numbers[0]) if side.field_numbers else 0
    if spec.field_numbers[first : first + len(side.field_numbers)] != side.field_numbers:
        raise ValueError("the numbers of a side must be adjacent in the specification")
    return Offsets(
        np.array([starts[field.name] for field in side.fields if field.bag is None], np.int64),
        np.array([bins[number.name] for number in side.binned], np.int64),
        spec.bin_offsets[-1] + first,
    )


def place_bags(spec: Spec, side: Spec, inputs: Inputs) -> Inputs:
    """Return the rows of a side with the members of bags as rows of the model's tables."""
    bag_rows = inputs.bag_rows
    if not len(bag_rows):
        return inputs
    starts, own = _first_rows(spec), np.array(side.offsets, np.int64)
    shifts = np.array([starts[field.name] for field in side.fields], np.int64) - own
    placed = bag_rows + shifts[np.searchsorted(own, bag_rows, side="right") - 1].astype(np.int32)
    return inputs._replace(bag_rows=placed)


def _first_rows(spec: Spec) -> dict[str, int]:
    return {field.name: start for field, start in zip(spec.fields, spec.offsets, strict=True)}
