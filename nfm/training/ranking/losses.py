"""Losses of a ranking: each compares the score of an item that a user chose with those of negatives.

    bpr        mean over the negatives j of −ln σ(ŷ(u, i) − ŷ(u, j))         (Rendle et al., UAI 2009)
    logistic   −ln σ(ŷ(u, i)) − Σ_j ln (1 − σ(ŷ(u, j)))
    softmax    −ln of the item's share of Σ exp ŷ, over itself and the negatives

For softmax, the logarithm of an item's probability in the sampler is subtracted from its score before this (logQ
correction; Bengio & Senécal 2008), so that the expected gradient is close to that of the softmax over the catalogue.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nfm.config.ranking import Ranking

NEVER = -1e9  # added to the score of a sample that stands for a missing negative: its loss and gradient are 0


def choose_pair_loss(ranking: Ranking) -> Callable[[Any, Any], Any]:
    """Return the function of (labels (B,), which are not used, logits (S, 1)) → losses (B,).

    S = (1 + n) B: the B items that were chosen, then the first negatives of all, then the second ones, and so on.

    Example:
        >>> loss = choose_pair_loss(Ranking(user="u", item="i", negatives=2))
        >>> loss(tf.ones(1), tf.constant([[1.0], [1.0], [NEVER]])).numpy().round(4).tolist()
        [0.3466]
    """
    samples = 1 + ranking.negatives

    def split(logits: Any) -> tuple[Any, Any]:
        by_sample = tf.reshape(logits, (samples, -1))
        return by_sample[:1], by_sample[1:]  # (1, B), (n, B)

    def bpr(_: Any, logits: Any) -> Any:
        chosen, negatives = split(logits)
        if ranking.hardest:
            negatives = tf.reduce_max(negatives, axis=0, keepdims=True)
        return tf.reduce_mean(tf.math.softplus(negatives - chosen), axis=0)

    def logistic(_: Any, logits: Any) -> Any:
        chosen, negatives = split(logits)
        return tf.math.softplus(-chosen)[0] + tf.reduce_sum(tf.math.softplus(negatives), axis=0)

    def softmax(_: Any, logits: Any) -> Any:
        chosen, negatives = split(logits)
        return tf.reduce_logsumexp(tf.concat([chosen, negatives], 0), axis=0) - chosen[0]

    return {"bpr": bpr, "logistic": logistic, "softmax": softmax}[ranking.loss]
