"""Reason codes: which fields moved a row's score most.

The effect of a field is the score of the row less the score of the variant in which that field alone is missing, as the
encoder encodes a null. A number and its missing flag are one reason. Variants pass through the same layers as rows, so
that an effect is exactly 0 where nothing is different.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_text_array
from nfm.contract.artifact import Network
from nfm.contract.encoder import Inputs, transform
from nfm.contract.schema import Placement, Spec
from nfm.kernels.pooling import Rows
from nfm.kernels.reasons import Missing, Variants, find_strongest, make_variants, record_scores
from nfm.scoring.forward import TILE, Layers, Work, in_steps, pooled_from


def reason_columns(count: int) -> list[tuple[str, pa.DataType]]:
    """Return names and types of the output's columns for `count` reasons: each one's name, and its effect."""
    pairs = ([(f"reason_{i}", pa.string()), (f"reason_{i}_effect", pa.float32())] for i in range(1, count + 1))
    return [column for pair in pairs for column in pair]


def reason_arrays(spec: Spec, effects_BR: NDArray[np.float32], count: int) -> list[pa.Array]:
    """Return the `reason_columns` of B rows: the largest effects first; of equal ones, the first in the spec.

    Where a row has fewer than `count` effects that are finite and not 0, the others are null.
    """
    names = to_text_array([one.name for part in (spec.fields, spec.numbers) for one in part]).cast(pa.string())
    places_BE = np.empty((len(effects_BR), count), np.int64)
    find_strongest(effects_BR, places_BE)
    rows, arrays = np.arange(len(effects_BR)), list[pa.Array]()
    for place_B in places_BE.T:
        none_B = place_B < 0
        arrays += [names.take(to_arrow(place_B, none_B)), to_arrow(effects_BR[rows, place_B], none_B)]
    return arrays


def score_and_effects(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], rows: Inputs, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score B encoded rows, with the bits of `forward.score`, and compute the effect of each field.

    Returns:
        The scores; and (B, R) effects of the spec's fields and numbers, in their order: score(row) - score(the row with
        it missing). Of several classes, it is the score of the one that is the row's highest.
    """
    places_R, missing = _reasons(spec)
    tables, offsets = pooled_from(spec, weights)
    most = 1 + len(places_R)  # a row and its variants
    step = max(1, 2 * TILE // most)  # more rows at a time cost less for each call, fewer stay in the cache
    scores_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)
    effects_BR = np.zeros((len(scores_BC), len(places_R)), np.float32)

    def make() -> Work:
        layers, owners_M2 = Layers(spec, network, weights, step * most), np.empty((step * most, 2), np.int64)
        made = Variants(layers.linear_TC, layers.inputs_TX, owners_M2)

        def work(start: int, stop: int) -> None:
            count = make_variants(tables, offsets, Rows(*rows), missing, start, stop, made)
            record_scores(owners_M2[:count], layers.scores(count), places_R, scores_BC, effects_BR)

        return work

    in_steps(len(scores_BC), step, threads, make)
    return scores_BC if network.task == "multiclass" else scores_BC[:, 0], effects_BR


def _reasons(spec: Spec) -> tuple[NDArray[np.int64], Missing]:
    """Return each reason's place in the spec, in the order of `Variants`, and what the reasons consist of."""
    kinds = [field.bag is not None for field in spec.fields] + [2 + (n.placement == "dense") for n in spec.numbers]
    blocks = [
        (start, start + field.size)
        for field, start in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
    ]
    bags = np.array(blocks, np.int64).reshape(-1, 2)
    return np.argsort(kinds, kind="stable"), Missing(bags, *_numbers(spec, "field"), *_numbers(spec, "dense"))


def _numbers(spec: Spec, placement: Placement) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return where each number's columns begin among those of this placement, and their values where it is missing."""
    missing = [transform(n, np.array([np.nan])) for n in spec.numbers if n.placement == placement]
    values = [float(values[0]) for columns in missing for values in columns.values()]
    return np.array([0, *accumulate(len(c) for c in missing)], np.int64), np.array(values, np.float32)
