"""Training step of a ranking: the tables are read once for each user, and once for each item of its pairs."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.config.ranking import Ranking
from nfm.config.train import Model, Train
from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec
from nfm.forward.sides import find_offsets, place_bags
from nfm.kernels.shared import mark_seen
from nfm.kernels.tables import Upstream
from nfm.training.data.batches import Fold
from nfm.training.data.labels import TrainLabels
from nfm.training.data.rows import Rows, take_rows
from nfm.training.data.unknown import Shares, compute_shares, replace_by_unknown, single_offsets, to_shares
from nfm.training.model import Floats, Weights
from nfm.training.optimizers import Optimizer
from nfm.training.ranking.data import Ranked
from nfm.training.ranking.evaluate import make_ranking_measure
from nfm.training.ranking.losses import NEVER
from nfm.training.ranking.network import BatchNetwork, PairNetwork
from nfm.training.ranking.sampler import Sampler
from nfm.training.step import Step
from nfm.training.tables import TableReader

_ITEM_SEED = 1 << 62  # makes the replaced ids of the items independent of those of the users


class Sides(NamedTuple):
    """Readers of the users and of the items in a step."""

    specs: tuple[Spec, Spec]
    readers: tuple[TableReader, TableReader]
    shares: tuple[Shares | None, Shares | None]  # of replaced ids
    items: Rows  # the catalogue


def make_sides(spec: Spec, ranked: Ranked, train: Train, fold: Fold, optimizer_tables: TableReader) -> Sides:
    """Prepare the reading of both sides; `fold` has the rows that the model learns from."""
    items = as_rows(ranked.catalogue.inputs)
    shares = (
        compute_shares(ranked.sides[0], train.unknown_dropout, fold),
        compute_item_shares(ranked, train.unknown_dropout),
    )
    readers = tuple(
        TableReader(spec, optimizer_tables.weights, optimizer_tables.threads, offsets=find_offsets(spec, side))
        for side in ranked.sides
    )
    return Sides(ranked.sides, (readers[0], readers[1]), shares, items)


def compute_item_shares(ranked: Ranked, unknown_dropout: float) -> Shares | None:
    """Return `compute_shares` of the item's inputs, with each item as often as it has interactions."""
    if not unknown_dropout:
        return None
    side, inputs, counts_I = ranked.sides[1], ranked.catalogue.inputs, ranked.count_items()
    counts_R = np.zeros(side.rows, np.int64)
    np.add.at(counts_R, inputs.ids_BF + single_offsets(side), counts_I[:, np.newaxis])
    np.add.at(counts_R, inputs.bag_rows, np.repeat(counts_I, np.diff(inputs.bag_splits)))
    return to_shares(counts_R, unknown_dropout)


def as_rows(inputs: Inputs) -> Rows:
    """Return inputs as rows without a label."""
    none = np.empty(len(inputs.ids_BF), np.float32)
    return Rows(inputs, none, none)


def make_sampler(ranked: Ranked, seed: int) -> Sampler:
    """Make the sampler of the settings."""
    counts_I, ranking = ranked.count_items(), ranked.ranking
    weights_I = counts_I.astype(np.float64) ** ranking.alpha if ranking.sampler == "popularity" else None
    if weights_I is not None and not weights_I.any():
        weights_I = None
    return Sampler(ranked.seen, len(counts_I), seed, weights_I)


def log_probabilities(ranked: Ranked) -> Floats:
    """Return the (I,) logarithms of the probabilities of the sampler, up to a constant; for items never drawn, 0."""
    counts_I, ranking = ranked.count_items(), ranked.ranking
    power = {"uniform": 0.0, "popularity": ranking.alpha, "batch": 1.0}[ranking.sampler]
    return (power * np.log(np.maximum(counts_I, 1))).astype(np.float32)


def is_shared(ranking: Ranking, model: Model) -> bool:
    """Return whether all items of a batch are the negatives of each of its rows."""
    return ranking.loss == "softmax" and ranking.sampler == "batch" and not model.hidden_units and not model.batch_norm


def make_pair_parts(
    spec: Spec, model: Model, settings: Train, train: Fold, _: TrainLabels, weights: Weights
) -> tuple[Optimizer, Step, Any]:
    """Make the optimizer, the step and the measure of a ranking."""
    ranked = train.ranked
    assert ranked is not None
    rows = train.rows * settings.epochs
    if is_shared(ranked.ranking, model):
        network: PairNetwork = BatchNetwork(spec, model, settings, rows, ranked.sides)
    else:
        network = PairNetwork(spec, model, settings, rows, ranked.ranking, ranked.sides)
    reader = TableReader(spec, weights.tables)
    optimizer = Optimizer(settings, weights, list(network.trained), reader)
    sides = make_sides(spec, ranked, settings, train, reader)
    step = make_pair_step(spec, model, settings, ranked, sides, network, optimizer)
    return optimizer, step, make_ranking_measure(spec, model, optimizer.evaluated)


def make_pair_step(
    spec: Spec, model: Model, train: Train, ranked: Ranked, sides: Sides, network: PairNetwork, optimizer: Optimizer
) -> Step:
    """Make the function that runs one step of a ranking; see `training.step.make_step`.

    The rows of a batch have the inputs of the users, and pairs of indices (user, item) as their groups. The negatives
    of a row depend on the seed, the number of the step and the place of the row in the batch.
    """
    shared = is_shared(ranked.ranking, model)
    sampler, ranking, reader = make_sampler(ranked, train.seed), ranked.ranking, sides.readers[0]
    log_q = log_probabilities(ranked) if ranking.loss == "softmax" else None
    tables, weights = optimizer.tables, optimizer.weights.network
    penalties = np.array([model.l2.embedding, model.l2.linear])

    def step(rows: Rows, rate: float, number: int) -> float:
        assert rows.group is not None
        users_B, chosen_B = np.ascontiguousarray(rows.group.T)
        items_S = chosen_B if shared else _draw_items(sampler, ranking, users_B, chosen_B, number)
        # A missing negative has no loss. It stands for the chosen item, so that the batch has no item without a pair.
        read_S = np.where(items_S < 0, np.resize(chosen_B, len(items_S)), items_S)
        items = take_rows(sides.items, read_S).inputs
        inputs = [_replace_unknown(side, i, sides, train, number) for i, side in enumerate((rows.inputs, items))]
        features = [
            reader.list_features(place_bags(spec, side, own))
            for reader, side, own in zip(sides.readers, sides.specs, inputs, strict=True)
        ]
        pooled = [reader.pool(own) for reader, own in zip(sides.readers, features, strict=True)]
        grouped = [reader.group(own) for reader, own in zip(sides.readers, features, strict=True)]
        linear_S1 = pooled[1].linear_BC
        if log_q is not None:
            linear_S1 = linear_S1 - log_q[read_S, np.newaxis]
        linear_S1 = np.where(items_S[:, np.newaxis] < 0, np.float32(NEVER), linear_S1)
        sums = [
            *(pooled[0].sum_BK, pooled[0].pooled_BK, pooled[0].linear_BC, rows.inputs.dense_BD),
            *(pooled[1].sum_BK, pooled[1].pooled_BK, linear_S1, items.dense_BD),
            *([mark_seen(*ranked.seen, users_B, chosen_B, np.float32(NEVER))] if shared else []),
        ]
        ones = np.ones(len(users_B), np.float32)
        loss, of_sums, of_network = network.differentiate(weights, sums, ones, rows.weight, number)
        bins_RK = reader.weights.embedding[reader.bins].copy()
        by_row = [group.result() for group in grouped]
        upstream = [
            Upstream(own.sum_BK, of_pooled, of_linear, reader.bins.start, bins_RK, of_sum)
            for own, (of_sum, of_pooled, of_linear) in zip(pooled, (of_sums[:3], of_sums[3:]), strict=True)
        ]
        divisor = len(users_B) if train.loss_reduction == "mean" else 1
        decays, scale = (2 * penalties / divisor).astype(np.float32), 1.0
        both = list(zip(by_row, upstream, strict=True))
        if train.clip_norm is not None:
            square_norm = optimizer.square_norm(of_network)
            scale = optimizer.clip_factor(square_norm + sum(tables.square_norm(*side, decays) for side in both))
        optimizer.update_network(of_network, scale, rate, number)
        for side in both:  # the sides have different rows of the tables
            tables.update(*side, decays, scale, rate, number)
        return loss

    return step


def _draw_items(
    sampler: Sampler, ranking: Ranking, users_B: NDArray[np.int32], chosen_B: NDArray[np.int32], number: int
) -> NDArray[np.int32]:
    """Return the chosen items, then the first negatives of all rows, and so on; −1 for a missing one."""
    if ranking.sampler == "batch":
        negatives_BN = sampler.draw_from_batch(users_B, chosen_B, number, 0, ranking.negatives)
    else:
        negatives_BN = sampler.draw(users_B, number, 0, ranking.negatives)
    return np.concatenate([chosen_B, negatives_BN.T.ravel()])


def _replace_unknown(inputs: Inputs, side: int, sides: Sides, train: Train, number: int) -> Inputs:
    shares_R = sides.shares[side]
    if shares_R is None:
        return inputs
    return replace_by_unknown(inputs, sides.specs[side], train, number + side * _ITEM_SEED, shares_R)
