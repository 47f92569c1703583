"""Reason codes: which fields moved a row's score most.

A field's effect is the row's score less the score of its variant in which that field alone is missing: what the encoder
makes of a null there. A number and its missing flag are one reason. Variants take the very way through the layers that
rows take, so that an effect is exactly 0 where nothing is different.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import types
from numpy.typing import NDArray

from nfm.contract.arrays import arrow, few_texts
from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs, transform
from nfm.contract.schema import Placement, Spec
from nfm.kernels.compile import compiled
from nfm.kernels.variants import variants
from nfm.scoring.forward import TILE, Layers, Work, in_steps, pooled_from


def reason_columns(count: int) -> list[tuple[str, pa.DataType]]:
    """Names and types of the output's columns for so many reasons a row: what it is, and its effect."""
    pairs = ([(f"reason_{i}", pa.string()), (f"reason_{i}_effect", pa.float32())] for i in range(1, count + 1))
    return [column for pair in pairs for column in pair]


def reason_arrays(spec: Spec, effects_BR: NDArray[np.float32], count: int) -> list[pa.Array]:
    """`reason_columns` of B rows: the largest effects, the largest first; of equal ones, the first in the spec.

    Args:
        spec: of the encoding.
        effects_BR: as `score_and_effects` returns them.
        count: of reasons. Where a row has fewer effects that are finite and not 0, the others are null.
    """
    names = few_texts([one.name for part in (spec.fields, spec.numbers) for one in part]).cast(pa.string())
    places_BE = np.empty((len(effects_BR), count), np.int64)
    _loops().strongest(effects_BR, places_BE)
    rows, arrays = np.arange(len(effects_BR)), list[pa.Array]()
    for place_B in places_BE.T:
        none_B = place_B < 0
        arrays += [names.take(arrow(place_B, none_B)), arrow(effects_BR[rows, place_B], none_B)]
    return arrays


def score_and_effects(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores of B encoded rows, bit for bit those of `forward.score`, and what each field does to them.

    Args:
        spec, network, weights, rows, threads: as `forward.score` takes them.

    Returns:
        The scores; and (B, R) effects of the spec's fields and numbers, in their order: score(row) - score(the row with
        it missing). Of several classes, it is the score of the one that is the row's highest.
    """
    arrays, (places_R, *groups) = pooled_from(spec, weights), _reasons(spec)
    scores_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)
    effects_BR, highest_B = np.zeros((len(scores_BC), len(places_R)), np.float32), np.zeros(len(scores_BC), np.int64)
    members = rows.ids_BF, rows.values_BN, rows.bag_rows, rows.bag_values, rows.bag_splits, rows.dense_BD

    def make() -> Work:
        spread, keep, room = variants(network.embedding_dtype), _loops().keep, max(TILE, 1 + len(places_R))
        layers, owners_M2 = Layers(spec, network, weights, room), np.empty((room, 2), np.int64)
        made = np.empty((3, network.embedding_dim), np.float32), layers.linear_TC, layers.inputs_TX, owners_M2

        def work(start: int, stop: int) -> None:
            while start < stop:
                start, count = spread(*arrays, *members, *groups, start, stop, *made)
                keep(owners_M2[:count], layers.scores(count), places_R, scores_BC, highest_B, effects_BR)

        return work

    in_steps(len(scores_BC), TILE, threads, make)
    return scores_BC if network.task == "multiclass" else scores_BC[:, 0], effects_BR


def _reasons(spec: Spec) -> Sequence[NDArray[Any]]:
    """Places of the reasons in the spec, as `variants` has them in turn; and what it takes to tell them."""
    kinds = [field.bag is not None for field in spec.fields] + [2 + (n.placement == "dense") for n in spec.numbers]
    blocks = [
        (start, start + field.size)
        for field, start in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
    ]
    bags = np.array(blocks, np.int64).reshape(-1, 2)
    return [np.argsort(kinds, kind="stable"), bags, *_numbers(spec, "field"), *_numbers(spec, "dense")]


def _numbers(spec: Spec, placement: Placement) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where the columns of each begin and end among those of this placement, and what a missing one has in them."""
    missing = [transform(n, np.array([np.nan])) for n in spec.numbers if n.placement == placement]
    values = [float(values[0]) for columns in missing for values in columns.values()]
    return np.array([0, *accumulate(len(c) for c in missing)], np.int64), np.array(values, np.float32)


class _Loops(NamedTuple):
    keep: Callable[..., None]  # the scores of rows, and of variants the difference to their rows', which come first
    strongest: Callable[..., None]  # (B, E) places of the largest effects, -1 where there is none


@cache
def _loops() -> _Loops:
    floats, ints = types.Array(types.float32, 2, "C"), types.Array(types.int64, 2, "C")
    vector = types.Array(types.int64, 1, "C")
    keep = types.void(ints, floats, vector, floats, vector, floats)
    return _Loops(compiled(keep, _keep), compiled(types.void(floats, ints), _strongest))


def _keep(owners_M2: Any, scores_MC: Any, places_R: Any, scores_BC: Any, highest_B: Any, effects_BR: Any) -> None:
    for m in range(len(owners_M2)):
        b, reason = owners_M2[m, 0], owners_M2[m, 1]
        if reason < 0:
            highest = 0
            for c in range(scores_MC.shape[1]):
                scores_BC[b, c] = scores_MC[m, c]
                if scores_MC[m, c] > scores_MC[m, highest]:
                    highest = c
            highest_B[b] = highest
        else:
            effects_BR[b, places_R[reason]] = scores_BC[b, highest_B[b]] - scores_MC[m, highest_B[b]]


def _strongest(effects_BR: Any, places_BE: Any) -> None:
    for b in range(len(effects_BR)):
        before, size_before = -1, np.float32(np.inf)
        for e in range(places_BE.shape[1]):
            place, largest = -1, np.float32(0)
            for r in range(effects_BR.shape[1]):
                size = abs(effects_BR[b, r])
                behind = size < size_before or (size == size_before and r > before and before >= 0)
                if behind and size > largest:
                    place, largest = r, size
            places_BE[b, e] = place
            # Where there is none, there is no further one.
            before, size_before = place, largest
