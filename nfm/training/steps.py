"""One step of the training, and the forward pass that measures a fold; both compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nfm.config_train import Model, Train
from nfm.contract.schema import Spec
from nfm.training.data import Fold, features_of
from nfm.training.evaluate import Tally
from nfm.training.kernels import Batch
from nfm.training.model import above_tables, linear_part
from nfm.training.optimizers import Optimizer
from nfm.training.rows import Rows
from nfm.training.tables import features_by_sample, taken_over

Step = Callable[[Mapping[str, Any], Any, Any, float, int], float]
_FUSED = 1024  # samples of a batch from which XLA compiles the network
_PIECE = 1 << 13  # rows of a forward pass


def make_step(model: keras.Model, spec: Spec, model_settings: Model, settings: Train, optimizer: Optimizer) -> Step:
    """Prepare a step: what goes over the features is in `tables`, the network between them is TensorFlow's.

    Returns:
        (features, label (B, 1), weight (B,), rate, step from 1 on) → the sum of the samples' losses, each times its
        weight, without penalties, as measured before the step. The model's own variables of the tables show what the
        step changed after `optimizer.tables.publish()`.
    """
    dropped = _unknown_dropout(spec, settings) if settings.unknown_dropout else None
    network, apply = _network(model, spec, model_settings, settings, optimizer)
    penalties, tables = np.array([model_settings.l2.embedding, model_settings.l2.linear]), optimizer.tables

    def step(features: Mapping[str, Any], label: Any, weight: Any, rate: float, number: int) -> float:
        now = tf.constant(rate, tf.float32), tf.constant(number, tf.int32)
        if dropped is not None:
            features = dropped(features, now[1])
        read, factor = tables.read(*features_by_sample(features, spec)), 1.0
        sums = (taken_over(read.pooled_BK), taken_over(read.linear_BC))
        grouped = tables.later(tables.grouped, read)  # the ids alone say how; the network leaves a core idle at times
        given = (tf.convert_to_tensor(array) for array in (features["dense"], label, weight))
        loss, pooled, linear, square_norm, gradients = network(*sums, *given, *now)
        batch = Batch(read.x_BM, read.sum_BK, np.asarray(pooled), np.asarray(linear))
        by_row = grouped.result()
        decays = (2 * penalties / (len(read.rows_BM) if settings.loss_reduction == "mean" else 1)).astype(np.float32)
        if settings.clip_norm is not None:
            factor = optimizer.factor(float(square_norm) + tables.square_norm(by_row, batch, decays))
            apply(gradients, tf.constant(factor, tf.float32), *now)
        tables.move(by_row, batch, decays, factor, rate, number)
        return float(loss)

    return step


def _network(
    model: keras.Model, spec: Spec, model_settings: Model, settings: Train, optimizer: Optimizer
) -> tuple[Any, Any]:
    """Compile what is between the pooled vectors and the loss, there and back.

    Returns:
        (pooled (B, K), sums of the first-order weights (B, C), dense, label, weight, rate, step) → loss, derivatives
        with respect to the first two, and the square of the norm of all variables' gradients, and these, where they
        wait to be clipped: for (gradients, factor, rate, step), which moves the variables by them. Without clipping
        they are moved at once.
    """
    logits_of, layers = above_tables(model)
    bias = model.get_layer("linear").bias
    variables, wait = optimizer.variables, settings.clip_norm is not None

    def network(pooled: Any, linear: Any, dense: Any, label: Any, weight: Any, rate: Any, number: Any) -> Any:
        batch = tf.cast(tf.shape(label)[0], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch([pooled, linear])
            logits = logits_of(pooled, linear + bias, dense)
            loss = tf.reduce_sum(weight * losses(model_settings.task, label, logits))
            total = tf.add_n([loss, *(batch * penalty for layer in layers for penalty in layer.losses)])
            if settings.loss_reduction == "mean":
                total /= batch
        of_pooled, of_linear, *gradients = tape.gradient(total, [pooled, linear, *variables])
        if wait:
            square_norm = tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in gradients])
            return loss, of_pooled, of_linear, square_norm, gradients
        optimizer.apply(gradients, rate, number)
        return loss, of_pooled, of_linear, 0.0, []

    def apply(gradients: Sequence[Any], factor: Any, rate: Any, number: Any) -> None:
        optimizer.apply([factor * gradient for gradient in gradients], rate, number)

    # Compiled for each length of a batch (all but an epoch's last one have the same), and not anew for any length once
    # there were two: that would be slower and round otherwise, and where a training was killed would tell.
    # XLA saves a third of a large batch's time, and compiles for a second more: small batches do not win that back.
    fused = settings.batch_size >= _FUSED
    return tf.function(network, autograph=False, jit_compile=fused), tf.function(apply, autograph=False)


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
