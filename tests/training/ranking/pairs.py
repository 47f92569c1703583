"""Steps of a ranking on random rows with every kind of input, and the same objective in Keras over the joined rows."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.ranking import Ranking
from nfm.config.train import Model, Train
from nfm.contract.dataset import Inputs, arrange_inputs
from nfm.contract.schema import Spec
from nfm.forward.catalogue import Catalogue
from nfm.forward.sides import divide
from nfm.training.data.batches import Fold
from nfm.training.data.labels import describe_train_labels
from nfm.training.data.rows import Rows
from nfm.training.layers import make_keras_inputs
from nfm.training.model import TABLES, Weights, build
from nfm.training.ranking import step as steps
from nfm.training.ranking.data import Pairs, Ranked
from tests.sides import ITEM_NAMES, Columns, make_columns, make_spec, take
from tests.training.trained import weights_of

ITEMS = 12
SPEC = replace(make_spec(), item_inputs=ITEM_NAMES)
PENALTIES = {"embedding": 0.3, "linear": 0.2, "hidden": 0.1}

Ids = NDArray[np.int32]


def ranking_of(**changes: Any) -> Ranking:
    return Ranking.model_validate({"user": "user", "item": "item", "loss": "bpr", "sampler": "uniform", **changes})


class GivenNegatives:
    """Object with the interface of a sampler, which returns these negatives."""

    def __init__(self, negatives_BN: Ids) -> None:
        self.negatives_BN = negatives_BN

    def draw(self, *_: Any) -> Ids:
        return self.negatives_BN


class Batch:
    """B users who chose an item each, and items with their encoded columns."""

    def __init__(self, spec: Spec, count: int, negatives: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.spec, self.sides = spec, divide(spec)
        self.user_columns: Columns = make_columns(self.sides[0], count, seed + 1)
        self.item_columns: Columns = make_columns(self.sides[1], ITEMS, seed + 2)
        self.chosen_B = rng.integers(0, ITEMS, count).astype(np.int32)
        self.negatives_BN = rng.integers(0, ITEMS, (count, negatives)).astype(np.int32)
        self.pairs: tuple[Ids, Ids] | None = None  # users and items of the train fold
        self.weight_B = rng.choice(np.array([0.5, 1, 2], np.float32), count)

    def ranked(self, ranking: Ranking) -> Ranked:
        """Return the catalogue, with item 0 chosen once, item 1 twice, and so on, or the interactions `self.pairs`."""
        inputs = arrange_inputs(self.sides[1], self.item_columns)
        catalogue = Catalogue(pa.array(range(ITEMS)), np.arange(1, ITEMS + 1), inputs)
        items = np.repeat(np.arange(ITEMS), np.arange(1, ITEMS + 1)).astype(np.int32)
        users = np.arange(len(items), dtype=np.int32)
        if self.pairs is not None:
            users, items = self.pairs
        pairs = {"train": Pairs(users, items, np.zeros(len(items), np.int64))}
        return Ranked(ranking, self.sides, catalogue, pa.array(np.arange(users.max() + 1)), pairs)

    def rows(self) -> Rows:
        count = len(self.chosen_B)
        group = np.stack([np.arange(count, dtype=np.int32), self.chosen_B], axis=1)
        inputs = arrange_inputs(self.sides[0], self.user_columns)
        return Rows(inputs, np.zeros(count, np.float32), self.weight_B, group)

    def join(self) -> tuple[Inputs, NDArray[np.bool_]]:
        """Return the joined rows of the chosen items, the first negatives, …, and whether each negative is there.

        A missing negative has the item that the user chose.
        """
        is_there_NB = self.negatives_BN.T >= 0
        items_NB = np.where(is_there_NB, self.negatives_BN.T, self.chosen_B)
        items_S = np.concatenate([self.chosen_B, items_NB.ravel()])
        users_S = np.tile(np.arange(len(self.chosen_B)), 1 + len(items_NB))
        return arrange_inputs(self.spec, take(self.user_columns, users_S) | take(self.item_columns, items_S)), (
            is_there_NB
        )


def random_weights(spec: Spec, model: Model, seed: int = 3) -> Weights:
    """Return weights that are all far from 0; dense numbers have weights of their own."""
    built, rng = build(spec, model), np.random.default_rng(seed)
    for variable in built.weights:
        spread = rng.normal(0.05, 0.3, variable.shape)
        is_fixed = variable.path == "output/kernel" and model.output == "ones"
        variable.assign(
            np.ones(variable.shape) if is_fixed else np.abs(spread) if "variance" in variable.path else spread
        )
    return weights_of(built)


def run_step(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, model: Model, train: Train, ranking: Ranking, weights: Weights
) -> float:
    """Change the weights by one step, and return its loss."""
    monkeypatch.setattr(steps, "make_sampler", lambda *_: GivenNegatives(batch.negatives_BN))
    train_fold = Fold(batch.sides[0], (), True, "", ranked=batch.ranked(ranking))
    labels = describe_train_labels(batch.spec, model, train, train_fold)
    _, step, _ = steps.make_pair_parts(batch.spec, model, train, train_fold, labels, weights)
    return step(batch.rows(), train.learning_rate, 1)


def keras_loss(ranking: Ranking, chosen_B: Any, negatives_NB: Any, is_there_NB: Any) -> Any:
    """Return the (B,) losses by the formulas in the papers; a missing negative has none."""
    share_NB = tf.constant(is_there_NB.astype(np.float32))
    match ranking.loss:
        case "bpr" if ranking.hardest:
            best_B = tf.reduce_max(tf.where(is_there_NB, negatives_NB, -1e6), axis=0)
            return tf.where(is_there_NB.any(axis=0), -tf.math.log_sigmoid(chosen_B - best_B), 0.0)
        case "bpr":
            return tf.reduce_mean(share_NB * -tf.math.log_sigmoid(chosen_B - negatives_NB), axis=0)
        case "logistic":
            return -tf.math.log_sigmoid(chosen_B) - tf.reduce_sum(share_NB * tf.math.log_sigmoid(-negatives_NB), axis=0)
        case _:
            powers_B = tf.exp(chosen_B)
            return -tf.math.log(powers_B / (powers_B + tf.reduce_sum(share_NB * tf.exp(negatives_NB), axis=0)))


def keras_step(
    batch: Batch, model: Model, train: Train, ranking: Ranking, weights: Weights
) -> tuple[float, dict[str, NDArray[Any]]]:
    """Return the weighted loss of a step by Keras over the joined rows, and the weights after plain SGD."""
    plain = model.model_copy(update={"l2": model.l2.model_copy(update={"embedding": 0.0, "linear": 0.0})})
    keras_model: keras.Model = build(batch.spec, plain, weights)
    count, (rows, is_there_NB) = len(batch.chosen_B), batch.join()
    with tf.GradientTape() as tape:
        logits_S = keras_model(make_keras_inputs(rows, batch.spec), training=True)[:, 0]
        if ranking.loss == "softmax":
            power = {"uniform": 0.0, "popularity": ranking.alpha, "batch": 1.0}[ranking.sampler]
            items_S = np.concatenate([batch.chosen_B, np.maximum(batch.negatives_BN.T, 0).ravel()])
            logits_S -= (power * np.log(1 + items_S)).astype(np.float32)  # item i was chosen i + 1 times
        by_sample = tf.reshape(logits_S, (-1, count))
        loss = tf.reduce_sum(batch.weight_B * keras_loss(ranking, by_sample[0], by_sample[1:], is_there_NB))
        penalty = tf.add_n([penalize(batch, rows, model, keras_model), *keras_model.losses])
        total = loss / count + penalty if train.loss_reduction == "mean" else loss + count * penalty
    return float(loss), apply_sgd(keras_model, tape.gradient(total, keras_model.trainable_variables), train)


def penalize(batch: Batch, rows: Inputs, model: Model, keras_model: keras.Model) -> Any:
    """Return the L2 penalty of the tables, divided by the number of users."""
    counts_R1, penalty = count_features(batch, rows), tf.zeros(())
    for table, factor in zip(TABLES, (model.l2.embedding, model.l2.linear), strict=True):
        (variable,) = (one for one in keras_model.weights if one.path == table)
        penalty += factor * tf.reduce_sum(counts_R1 * tf.square(variable[:-1])) / len(batch.chosen_B)
    return penalty


def apply_sgd(keras_model: keras.Model, found: list[Any], train: Train) -> dict[str, NDArray[Any]]:
    """Return the trained weights after a step with these gradients."""
    gradients = [tf.convert_to_tensor(gradient) for gradient in found]
    norm = float(tf.linalg.global_norm(gradients))
    scale = 1.0 if train.clip_norm is None else train.clip_norm / max(norm, train.clip_norm)
    for variable, gradient in zip(keras_model.trainable_variables, gradients, strict=True):
        variable.assign_sub(train.learning_rate * scale * gradient)
    return {v.path: v.numpy()[:-1] if v.path in TABLES else v.numpy() for v in keras_model.trainable_variables}


def count_features(batch: Batch, rows: Inputs) -> NDArray[np.float32]:
    """Return how often a step reads each row of the tables, (R, 1): users once, items for each of their pairs."""
    spec, counts = batch.spec, np.zeros((2, batch.spec.rows))  # of all users, once for each pair, and of all pairs
    is_item_F = {field.name: field.name in spec.item_inputs for field in spec.fields}
    starts = dict(zip((field.name for field in spec.fields), spec.offsets, strict=True))
    for column, field in enumerate(field for field in spec.fields if field.bag is None):
        np.add.at(counts[int(is_item_F[field.name])], starts[field.name] + rows.ids_BF[:, column], 1)
    for field in spec.fields:
        if field.bag is not None:
            block = slice(starts[field.name], starts[field.name] + field.size)
            counts[int(is_item_F[field.name]), block] += np.bincount(rows.bag_rows, minlength=spec.rows)[block]
    for q, number in enumerate(spec.binned):
        low = spec.bin_offsets[q] + rows.bins_BQ[:, q]
        for place in (low, low + (rows.fractions_BQ[:, q] > 0)):
            np.add.at(counts[int(number.name in spec.item_inputs)], place, 1)
    owners = [
        number.name in spec.item_inputs
        for number in spec.numbers
        for _ in number.outputs
        if number.placement == "field"
    ]
    for number_row, is_item in enumerate(owners):
        counts[int(is_item), spec.bin_offsets[-1] + number_row] += len(rows.ids_BF)
    samples = len(rows.ids_BF) // len(batch.chosen_B)
    counts_R: NDArray[np.float32] = (counts[0] / samples + counts[1]).astype(np.float32)
    return counts_R[:, np.newaxis]
