"""Reason codes: the fields and numbers that changed a row's score most.

The effect of a field is the row's score minus the score of a variant of the row in which only that field is missing,
encoded like a null, with the target rates of a null. A number, its missing flag and its bins are one reason. Variants
pass through the same layers as rows, so an effect is exactly 0 where the variant equals the row.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_text_array
from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs
from nfm.contract.encoder import transform
from nfm.contract.schema import Placement, Spec
from nfm.forward.rows import TILE, Layers, Work, pooling_tables, process_in_steps, rates_table
from nfm.kernels.pooling import Rows
from nfm.kernels.rates import look_up, replace_missing
from nfm.kernels.reasons import Missing, Variants, find_strongest, make_variants, record_scores


def reason_columns(count: int) -> list[tuple[str, pa.DataType]]:
    """Return name and type of the output columns for `count` reasons: name and effect of each reason."""
    pairs = ([(f"reason_{i}", pa.string()), (f"reason_{i}_effect", pa.float32())] for i in range(1, count + 1))
    return [column for pair in pairs for column in pair]


def reason_arrays(spec: Spec, effects_BR: NDArray[np.float32], count: int) -> list[pa.Array]:
    """Return the `reason_columns` of B rows, the largest effects first; equal effects keep the spec's order.

    If a row has fewer than `count` effects that are finite and not 0, its other reasons are null.
    """
    names = to_text_array([column.name for columns in (spec.fields, spec.numbers) for column in columns]).cast(
        pa.string()
    )
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
    """Score B encoded rows, bit for bit like `forward.score`, and compute the effect of each field and number.

    Returns:
        The scores; and (B, R) effects in the order of the spec's fields and numbers: score(row) - score(variant without
        that field). With several classes, the score is that of the row's highest class.
    """
    places_R, missing = _describe_reasons(spec)
    rates, encoded = rates_table(spec, network, weights), Rows(*rows)
    part_B = np.zeros(len(rows.ids_BF), np.int8)
    tables, offsets = pooling_tables(spec, weights)
    most = 1 + len(places_R)  # a row and its variants
    step = max(1, 2 * TILE // most)  # larger steps have less overhead, smaller ones stay in the cache
    scores_BC = np.empty((len(rows.ids_BF), network.outputs), np.float32)
    effects_BR = np.zeros((len(scores_BC), len(places_R)), np.float32)

    def make() -> Work:
        layers, owners_M2 = Layers(spec, network, weights, step * most), np.empty((step * most, 2), np.int64)
        made = Variants(layers.linear_TC, layers.inputs_TX, owners_M2)
        first_rate = network.embedding_dim + len(spec.dense)
        columns_R, missing_RC = _encode_missing_rates(spec, network, weights, first_rate)

        def work(start: int, stop: int) -> None:
            if network.rates:
                look_up(rates, encoded, part_B, start, stop, layers.inputs_TX, first_rate)
            count = make_variants(tables, offsets, encoded, missing, start, stop, made)
            if network.rates:
                replace_missing(owners_M2[:count], columns_R, missing_RC, layers.inputs_TX)
            record_scores(owners_M2[:count], layers.scores(count), places_R, scores_BC, effects_BR)

        return work

    process_in_steps(len(scores_BC), step, threads, make)
    return scores_BC if network.task == "multiclass" else scores_BC[:, 0], effects_BR


def _describe_reasons(spec: Spec) -> tuple[NDArray[np.int64], Missing]:
    """Return each reason's position in the spec, in the order of `Variants`, and how missing ones are encoded."""
    kinds = [field.bag is not None for field in spec.fields] + [2 + (n.placement == "dense") for n in spec.numbers]
    blocks = [
        (start, start + field.size)
        for field, start in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
    ]
    bags = np.array(blocks, np.int64).reshape(-1, 2)
    dense = [number for number in spec.numbers if number.placement == "dense"]
    bins = [spec.binned.index(number) if number in spec.binned else -1 for number in dense]
    numbers = *_encode_nulls(spec, "field"), *_encode_nulls(spec, "dense")
    return np.argsort(kinds, kind="stable"), Missing(bags, *numbers, np.array(bins, np.int64))


def _encode_missing_rates(
    spec: Spec, network: Network, weights: Mapping[str, NDArray[Any]], first: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first column of each reason's rates (-1: none), and the rates of its missing value."""
    blocks = sorted(zip(spec.fields, spec.offsets, strict=True), key=lambda block: block[0].bag is not None)
    columns = np.full(len(blocks) + len(spec.numbers), -1)
    missing_RC = np.zeros((len(columns), network.rate_columns), np.float32)
    for reason, (field, offset) in enumerate(blocks):
        if field.name in network.rates:
            columns[reason], first = first, first + network.rate_columns
            missing_RC[reason] = weights["rates"][offset]
    return columns, missing_RC


def _encode_nulls(spec: Spec, placement: Placement) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first column of each number of this placement, and the columns' values when it is missing."""
    missing = [transform(n, np.array([np.nan])) for n in spec.numbers if n.placement == placement]
    values = [float(values[0]) for columns in missing for values in columns.values()]
    return np.array([0, *accumulate(len(c) for c in missing)], np.int64), np.array(values, np.float32)
