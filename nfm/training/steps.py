"""One step of the training, and the forward pass that measures a fold; both compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nfm.config_train import Model, Train
from nfm.contract.schema import Spec
from nfm.training.data import Fold, features_of
from nfm.training.evaluate import Tally
from nfm.training.model import linear_part
from nfm.training.optimizers import Optimizer

Step = Callable[[Mapping[str, Any], Any, Any, Any, Any], Any]
_PIECE = 1 << 13  # rows of a forward pass


def make_step(model: keras.Model, spec: Spec, model_settings: Model, settings: Train, optimizer: Optimizer) -> Step:
    """Compile a step.

    Returns:
        (features, label (B, 1), weight (B,), rate, step from 1 on) → the sum of the samples' losses, each times its
        weight, without penalties, as measured before the step.
    """
    dropped = _unknown_dropout(spec, settings) if settings.unknown_dropout else None
    variables = model.trainable_variables

    def step(features: Mapping[str, Any], label: Any, weight: Any, rate: Any, number: Any) -> Any:
        if dropped is not None:
            features = dropped(features, number)
        batch = tf.cast(tf.shape(label)[0], tf.float32)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weight * losses(model_settings.task, label, model(features, training=True)))
            penalties = [batch * penalty for penalty in model.losses]
            total = tf.add_n([loss, *penalties])
            if settings.loss_reduction == "mean":
                total /= batch
        optimizer.apply(tape.gradient(total, variables), rate, number)
        return loss

    compiled: Step = tf.function(step, autograph=False, reduce_retracing=True)
    return compiled


def losses(task: str, label_B1: Any, logits_BC: Any) -> Any:
    """(B,) log losses, squared errors or cross-entropies."""
    match task:
        case "binary":
            return tf.nn.sigmoid_cross_entropy_with_logits(label_B1, logits_BC)[:, 0]
        case "regression":
            return tf.square(logits_BC - label_B1)[:, 0]
        case _:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(label_B1[:, 0], tf.int32), logits_BC)


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

    return dropped


def make_measure(model: keras.Model, spec: Spec) -> Callable[[Fold, Tally], Tally]:
    """Compile the forward pass.

    Returns:
        (fold, a new tally) → the tally with the logits of all the fold's rows, and those of the linear part alone.
    """
    both = linear_part(model)
    forward = tf.function(lambda features: both(features, training=False), autograph=False, reduce_retracing=True)

    def measured(fold: Fold, tally: Tally) -> Tally:
        for rows in fold.pieces(_PIECE):
            logits_BC, linear_BC = forward(features_of(rows.inputs, spec))
            tally.add(rows.label, rows.weight, logits_BC.numpy(), linear_BC.numpy(), rows.group)
        return tally

    return measured
