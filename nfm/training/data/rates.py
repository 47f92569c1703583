"""Target rates: for each value of a field, the smoothed rate of the label among the train fold's rows with the value.

    rate = (Σ weight · label + m · base) / (Σ weight + m),   m = 20 rows                (Micci-Barreca 2001, eq. 3)

`base` is the rate of the whole train fold. The rate enters the model as log-odds, for each class of a multiclass task,
or as the mean of the standardized label of a regression. It is standardized over the train fold, and is an input beside
the dense numbers. A missing value has its own rate, an out-of-vocabulary value has the base rate.

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

from nfm.contract.schema import RATE_PARTS, Field, Spec
from nfm.kernels.pooling import Rows as Encoded
from nfm.kernels.rates import Rates, add_labels
from nfm.training.data.batches import Fold
from nfm.training.data.labels import TrainLabels
from nfm.training.data.rows import Rows
from nfm.training.metrics.names import Task

PRIOR_ROWS = 20.0  # m
_EXACT_BITS = 52  # of a float64
_TINY = 1e-9  # a deviation below this is rounding
_WHOLE = RATE_PARTS  # number of the part of rows that use the rates of the whole train fold

Floats = NDArray[np.float64]


def compute_rates(spec: Spec, names: tuple[str, ...], task: Task, labels: TrainLabels, train: Fold) -> Rates:
    """Compute the rates of these fields from the train fold, in one pass over it.

    Returns rates of R rows of the embedding table for each part, and for the whole train fold as the last part.
    """
    outputs = max(1, len(spec.classes))
    places = [np.array(found, np.int64).reshape(-1, 2) for found in spec.rate_places(names)]
    rates = Rates(np.zeros((spec.rows, RATE_PARTS + 1, outputs), np.float32), *places)
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
        if field.name in names:
            block = slice(offset, offset + field.size)
            rates.table_RPC[block] = _compute_block(field, sums_RPS[block], base_C, task)
    return rates


def _targets(rows: Rows, task: Task, outputs: int, labels: TrainLabels) -> Floats:
    """Return (B, C) labels: 0 or 1 for each class, or the standardized label of a regression."""
    if task == "multiclass":
        return np.equal(rows.label[:, np.newaxis], np.arange(outputs)).astype(np.float64)
    label_B = labels.unit.standardize(rows.label) if task == "regression" else rows.label
    return np.asarray(label_B[:, np.newaxis], np.float64)


def _compute_block(field: Field, sums_VPS: Floats, base_C: Floats, task: Task) -> Floats:
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
    count_V1, whole_VC = total_VPS[:, 0, :1], rates_VPC[:, _WHOLE]
    if not (count := count_V1.sum()):
        return np.zeros_like(rates_VPC)
    mean_C = (count_V1 * whole_VC).sum(axis=0) / count
    deviation_C = np.sqrt((count_V1 * (whole_VC - mean_C) ** 2).sum(axis=0) / count)
    standardized: Floats = (rates_VPC - mean_C) / np.where(deviation_C > _TINY, deviation_C, 1.0)
    return standardized
