"""Training step, and the forward pass that measures a fold."""

from collections.abc import Callable

import numpy as np

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.kernels.tables import Upstream
from nfm.training.data.batches import Fold
from nfm.training.data.rows import Rows
from nfm.training.data.unknown import Shares, replace_by_unknown
from nfm.training.metrics.tally import Tally
from nfm.training.model import Floats, Weights
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer
from nfm.training.tables import TableReader
from nfm.training.unit import PUBLISHED, Unit

Step = Callable[[Rows, float, int], float]
Measure = Callable[..., Tally]
_FORWARD_ROWS = 1 << 13  # rows of one forward pass


def make_step(
    spec: Spec,
    model: Model,
    train: Train,
    reader: TableReader,
    network: Network,
    optimizer: Optimizer,
    shares_R: Shares | None = None,
) -> Step:
    """Make the function that runs one step: compiled loops for the tables, TensorFlow for the network above them.

    Args:
        spec: specification of the encoding.
        model: model settings: the penalties.
        train: training settings.
        reader: reader of the tables.
        network: layers above the pooling.
        optimizer: optimizer of all weights.
        shares_R: shares of ids that are replaced (`compute_shares`); None for no unknown dropout.

    Returns:
        Function of (rows, learning rate, number of the step, counted from 1). It returns the weighted sum of
        losses before the update, without L2 penalties.
    """
    tables, weights = optimizer.tables, optimizer.weights.network
    penalties = np.array([model.l2.embedding, model.l2.linear])

    def step(rows: Rows, rate: float, number: int) -> float:
        inputs = rows.inputs
        if shares_R is not None:
            inputs = replace_by_unknown(inputs, spec, train, number, shares_R)
        rows = reader.append_rates(rows._replace(inputs=inputs))
        features = reader.list_features(inputs)
        pooled = reader.pool(features)
        grouped = reader.group(features)  # in another thread, while TensorFlow computes
        derivatives = network.step(weights, pooled, rows, number)
        by_row = grouped.result()
        bins_RK = reader.weights.embedding[reader.bins].copy()
        upstream = Upstream(pooled.sum_BK, derivatives.pooled_BK, derivatives.linear_BC, reader.bins.start, bins_RK)
        divisor = len(rows.label) if train.loss_reduction == "mean" else 1
        decays, scale = (2 * penalties / divisor).astype(np.float32), 1.0
        if train.clip_norm is not None:
            square_norm = optimizer.square_norm(derivatives.weights) + tables.square_norm(by_row, upstream, decays)
            scale = optimizer.clip_factor(square_norm)
        optimizer.update_network(derivatives.weights, scale, rate, number)
        tables.update(by_row, upstream, decays, scale, rate, number)
        return derivatives.loss

    return step


def make_measure(reader: TableReader, network: Network, weights: Weights) -> Measure:
    """Make the function that measures a fold: a compiled loop for the pooling, TensorFlow for the network.

    Returns:
        Function of (fold, tally). It adds the logits of all rows, and those of the linear part alone, to the tally and
        returns it. `on_rows`: optional callback for each batch of rows and its (B, C) logits. `unit`: published unit of
        the logits, if the weights are those of a training.
    """

    def measure(
        fold: Fold, tally: Tally, on_rows: Callable[[Rows, Floats], None] | None = None, unit: Unit = PUBLISHED
    ) -> Tally:
        for rows in fold.pieces(_FORWARD_ROWS):
            pooled = reader.pool(reader.list_features(rows.inputs))
            rated = reader.append_rates(rows if fold.is_train else rows._replace(part=None))
            outputs = network.logits(weights.network, pooled, rated.inputs.dense_BD)
            logits_BC, linear_BC = map(unit.publish_outputs, outputs)
            tally.add(rows.label, rows.weight, logits_BC, linear_BC, rows.group)
            if on_rows is not None:
                on_rows(rows, logits_BC)
        return tally

    return measure
