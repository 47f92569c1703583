"""Target rates: for each value of a field, the smoothed rate of the label among the train fold's rows with the value.

    rate = (Σ weight · label + m · base) / (Σ weight + m),   m = 20 rows                (Micci-Barreca 2001, eq. 3)

`base` is the rate of the whole train fold. The rate enters the model as log-odds, for each class of a multiclass task,
or as the mean of the standardized label of a regression. It is standardized over the train fold, and is an input beside
the dense numbers. A missing value has its own rate, an out-of-vocabulary value has the base rate.

With `model.use.counts`, log(1 + Σ weight) is a second input, standardized likewise: it shows the model how much a rate
is worth. It is of the whole train fold for all rows, since it contains no label; for an out-of-vocabulary value Σ is 0.

Train rows use rates without the labels of their own part of the train fold. Otherwise the model would see its own
label in the rate of a rare value, and trust rates too much. A part contains a fifth of the rows, chosen by a hash of
the columns of `split.by`, so that rows that belong together do not see each other's labels. Other rows use the rates
of the whole train fold.

Sums do not depend on the order of the rows: each summand is rounded to a multiple of a power of two so large that a
float64 sum of all of them is exact.
"""

import math

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.schema import RATE_PARTS, Field, Spec
from nfm.kernels.pooling import Rows as Encoded
from nfm.kernels.rates import Rates, add_labels
from nfm.training.data.batches import Fold
from nfm.training.data.labels import TrainLabels
from nfm.training.data.rows import Rows

PRIOR_ROWS = 20.0  # m
_EXACT_BITS = 52  # of a float64
_TINY = 1e-9  # a deviation below this is rounding
_WHOLE = RATE_PARTS  # number of the part of rows that use the rates of the whole train fold

Floats = NDArray[np.float64]


def compute_rates(spec: Spec, network: Network, labels: TrainLabels, train: Fold) -> Rates:
    """Compute the rates, and counts, that a model uses from the train fold, in one pass over it.

    Returns rates of R rows of the embedding table for each part, and for the whole train fold as the last part. The
    count follows the rates of the outputs.
    """
    task, outputs = network.task, network.outputs
    places = [np.array(found, np.int64).reshape(-1, 2) for found in spec.rate_places(network.rates)]
    rates = Rates(np.zeros((spec.rows, RATE_PARTS + 1, network.rate_columns), np.float32), *places)
    if not labels.weight:
        return rates
    base_C = labels.rate_C
    if task != "regression":
        base_C = np.clip(base_C, 0.5 / train.rows, 1 - 0.5 / train.rows)  # log 0 is not finite
    sums_RPS = np.zeros((spec.rows, RATE_PARTS, 1 + outputs))
    step = 2.0 ** (math.ceil(math.log2(train.rows * labels.largest)) - _EXACT_BITS)
    for rows in train.pieces():
        weight_B = rows.weight.astype(np.float64)
        label_BC = _targets(rows, task, outputs, labels) * weight_B[:, np.newaxis]
        # Multiples of a power of two, of which any sum over the fold is exact.
        rounded = (np.rint(summands / step) * step for summands in (weight_B, label_BC))
        add_labels(tuple(rates), Encoded(*rows.inputs), rows.part, *rounded, sums_RPS)
    sums_RPS *= train.rows / labels.weight  # weights with a mean of 1
    for field, offset in zip(spec.fields, spec.offsets, strict=True):
        if field.name in network.rates:
            block = slice(offset, offset + field.size)
            rates.table_RPC[block, :, :outputs] = _compute_block(field, sums_RPS[block], base_C, task)
            if network.counts:
                rates.table_RPC[block, :, outputs] = _compute_counts(field, sums_RPS[block])[:, np.newaxis]
    return rates


def _targets(rows: Rows, task: str, outputs: int, labels: TrainLabels) -> Floats:
    """Return (B, C) labels: 0 or 1 for each class, or the standardized label of a regression."""
    if task == "multiclass":
        return np.equal(rows.label[:, np.newaxis], np.arange(outputs)).astype(np.float64)
    label_B = labels.unit.standardize(rows.label) if task == "regression" else rows.label
    return np.asarray(label_B[:, np.newaxis], np.float64)


def _compute_block(field: Field, sums_VPS: Floats, base_C: Floats, task: str) -> Floats:
    """Return the standardized rates of a field's V ids, for each part and for the whole train fold."""
    total_VPS = sums_VPS.sum(axis=1, keepdims=True)
    seen_VPS = np.concatenate([total_VPS - sums_VPS, total_VPS], axis=1)  # without the labels of the part
    known = seen_VPS[:, :, 1:] + PRIOR_ROWS * base_C
    rates_VPC = known / (seen_VPS[:, :, :1] + PRIOR_ROWS)
    base = base_C
    if task != "regression":
        rates_VPC, base = (np.log(rate) - np.log1p(-rate) for rate in (rates_VPC, base_C))
    if field.vocabulary is not None:
        rates_VPC[1 : field.first_value] = base
    # Scaled by the rates of the whole fold: those without a part are nearly constant if most values are rare.
    return _standardize(rates_VPC, rates_VPC[:, _WHOLE], total_VPS[:, 0, :1])


def _compute_counts(field: Field, sums_VPS: Floats) -> Floats:
    """Return (V,) standardized logarithms of 1 + the number of rows with each id."""
    count_V1 = sums_VPS[:, :, 0].sum(axis=1)[:, np.newaxis]
    logs_V1 = np.log1p(count_V1)
    if field.vocabulary is not None:
        logs_V1[1 : field.first_value] = 0
    return _standardize(logs_V1, logs_V1, count_V1)[:, 0]


def _standardize(values: Floats, of_whole_VC: Floats, count_V1: Floats) -> Floats:
    """Return values with the mean and the deviation of the whole train fold's values as 0 and 1."""
    if not (count := count_V1.sum()):
        return np.zeros_like(values)
    mean_C = (count_V1 * of_whole_VC).sum(axis=0) / count
    deviation_C = np.sqrt((count_V1 * (of_whole_VC - mean_C) ** 2).sum(axis=0) / count)
    standardized: Floats = (values - mean_C) / np.where(deviation_C > _TINY, deviation_C, 1.0)
    return standardized
