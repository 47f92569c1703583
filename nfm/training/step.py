"""One step of the training, and the forward pass that measures a fold."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.kernels.tables import Batch
from nfm.training.data.batches import Fold, features_of
from nfm.training.data.rows import Rows
from nfm.training.metrics.tally import Tally
from nfm.training.model import linear_part
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer
from nfm.training.tables import features_by_sample

Step = Callable[[Mapping[str, Any], Any, Any, float, int], float]
_PIECE = 1 << 13  # rows of a forward pass


def make_step(spec: Spec, model_settings: Model, settings: Train, optimizer: Optimizer) -> Step:
    """Prepare a step: what goes over the features is in `tables`, the layers above them in `network`.

    Returns:
        (features, label (B, 1), weight (B,), rate, step from 1 on) → the sum of the samples' losses, each times its
        weight, without penalties, as measured before the step. The model's own variables show what the step changed
        after `optimizer.publish()`.
    """
    dropped = _unknown_dropout(spec, settings) if settings.unknown_dropout else None
    tables, penalties = optimizer.tables, np.array([model_settings.l2.embedding, model_settings.l2.linear])
    network = Network(spec, model_settings, settings, optimizer.weights, tables.threads)

    def step(features: Mapping[str, Any], label: Any, weight: Any, rate: float, number: int) -> float:
        if dropped is not None:
            features = dropped(features, tf.constant(number, tf.int32))
        read, factor = tables.read(*features_by_sample(features, spec)), 1.0
        dense, label, weight = (np.asarray(array, np.float32) for array in (features["dense"], label, weight))
        of = network.step(read.pooled_BK, read.linear_BC, dense, label, weight, number)
        batch = Batch(read.x_BM, read.sum_BK, of.pooled_BK, of.linear_BC)
        by_row = tables.grouped(read)
        decays = (2 * penalties / (len(read.rows_BM) if settings.loss_reduction == "mean" else 1)).astype(np.float32)
        if settings.clip_norm is not None:
            factor = optimizer.factor(optimizer.square_norm(of.weights) + tables.square_norm(by_row, batch, decays))
        optimizer.apply(of.weights, factor, rate, number)
        tables.move(by_row, batch, decays, factor, rate, number)
        return of.loss

    return step


def _unknown_dropout(spec: Spec, settings: Train) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Replace ids of the vocabulary by out-of-vocabulary ones, at random, but the same at every run of a step."""

    def of(fields: list[Any]) -> tuple[Any, Any]:
        # A field without a vocabulary has no id that is high enough.
        first = [f.first_value if f.vocabulary is not None else np.iinfo(np.int32).max for f in fields]
        return tf.constant(first, tf.int32), tf.constant([max(f.oov_buckets, 1) for f in fields], tf.int32)

    def replaced(ids: Any, first: Any, buckets: Any, seed: int, number: Any) -> Any:
        shape, seeds = tf.shape(ids), [seed, settings.seed]
        drawn = tf.random.experimental.stateless_fold_in(tf.cast(seeds, tf.int64), number)
        unknown = 1 + tf.random.stateless_uniform(shape, drawn + 1, 0, np.iinfo(np.int32).max, tf.int32) % buckets
        lost = (tf.random.stateless_uniform(shape, drawn) < settings.unknown_dropout) & (ids >= first)
        return tf.where(lost, unknown, ids)

    single = of([field for field in spec.fields if field.bag is None])
    all_fields, offsets = of(list(spec.fields)), tf.constant(spec.offsets, tf.int32)

    def dropped(features: Mapping[str, Any], number: Any) -> dict[str, Any]:
        found = dict(features)
        if found["ids"].shape[1]:
            found["ids"] = replaced(found["ids"], *single, 1, number)
        if "bag_rows" in found:
            rows = found["bag_rows"]
            field = tf.reshape(tf.searchsorted(offsets, tf.reshape(rows, [-1]), side="right") - 1, tf.shape(rows))
            start = tf.gather(offsets, field)
            first, buckets = (tf.gather(of_field, field) for of_field in all_fields)
            lost = start + replaced(rows - start, first, buckets, 2, number)
            found["bag_rows"] = tf.where(rows < spec.rows, lost, rows)  # padding stays padding
        return found

    compiled: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    compiled = tf.function(dropped, autograph=False, reduce_retracing=True)
    return compiled


def make_measure(model: keras.Model, spec: Spec) -> Callable[..., Tally]:
    """Compile the forward pass.

    Returns:
        (fold, a new tally) → the tally with the logits of all the fold's rows, and those of the linear part alone. Who
        else wants to see the rows and their (B, C) logits is given as `also`.
    """
    both = linear_part(model)
    forward = tf.function(lambda features: both(features, training=False), autograph=False, reduce_retracing=True)

    def measured(fold: Fold, tally: Tally, also: Callable[[Rows, Any], None] | None = None) -> Tally:
        for rows in fold.pieces(_PIECE):
            logits_BC, linear_BC = forward(features_of(rows.inputs, spec))
            tally.add(rows.label, rows.weight, logits_BC.numpy(), linear_BC.numpy(), rows.group)
            if also is not None:
                also(rows, logits_BC.numpy())
        return tally

    return measured
