"""Scores of all pairs of some users and some items, from the sums of each side (`forward.sides`).

Without hidden layers, with h the output weights and w_0 the bias (He & Chua 2017, eq. 2 and 7):

    score(u, i) = a_u + b_i + Σ_k (h_k s_uk) s_ik        a_u = w_0 + linear_u + hᵀ p_u        b_i = linear_i + hᵀ p_i

which is a matrix product with one more column for a_u. With hidden layers, the pooled vector of each pair passes
through them. Both use `kernels.layers`, whose sums add one input after the other: a score does not depend on the pairs
around it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.schema import Spec
from nfm.forward.rows import TILE, Layers
from nfm.forward.sides import Side, check_network, find_columns
from nfm.kernels.layers import COLUMNS, ROWS, add_products, apply_layer
from nfm.kernels.pairs import pool_pairs

Floats = NDArray[np.float32]


class PairScorer:
    """Model and items, prepared to score pairs; threads may share it."""

    def __init__(
        self,
        spec: Spec,
        network: Network,
        weights: Mapping[str, NDArray[Any]],
        user_side: Spec,
        item_side: Spec,
        items: Side,
    ) -> None:
        """Prepare the items.

        Args:
            spec: the model's specification.
            network: the architecture.
            weights: arrays as in `Network.weight_shapes`.
            user_side: specification of the user's side, from `select_side`.
            item_side: specification of the item's side.
            items: sums of the items.
        """
        check_network(network)
        self.spec, self.network, self.weights, self.items = spec, network, weights, items
        self.user_columns, self.item_columns = (
            network.embedding_dim + find_columns(spec, side) for side in (user_side, item_side)
        )
        self.output_1K = np.ascontiguousarray(weights["output"].T)
        self.panels: tuple[Floats, Floats] | None = _make_panels(items, self.output_1K) if self.is_product else None

    @property
    def is_product(self) -> bool:
        """True if all scores are a matrix product: the model has no hidden layers."""
        return not self.network.hidden_units

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.items.linear_B)

    def prepare(self, users: Side) -> "Products | HiddenPairs":
        """Return an object that scores pairs of these users, for one thread."""
        return Products(self, users) if self.is_product else HiddenPairs(self, users)


class Products:
    """Scores of U users' pairs by a model without hidden layers."""

    def __init__(self, scorer: PairScorer, users: Side) -> None:
        """Compute h ⊙ s_u and a_u."""
        self._scorer, self._count = scorer, len(users.linear_B)
        rows, dim = -(-self._count // ROWS) * ROWS, scorer.network.embedding_dim
        self._users_UX = np.zeros((rows, dim + 1), np.float32)
        self._users_UX[: self._count, :dim] = users.sum_BK * scorer.output_1K
        constants_U1 = users.linear_B[:, np.newaxis] + scorer.weights["bias"]
        add_products(np.ascontiguousarray(users.pooled_BK), 0, scorer.output_1K, constants_U1, self._count)
        self._users_UX[: self._count, dim:] = constants_U1
        self._scratch = np.empty(0, np.float32)

    def score(self, start: int, stop: int, out_UT: Floats) -> None:
        """Write the logits of all users and the items from start up to stop; faster if start is a multiple of 32."""
        assert self._scorer.panels is not None
        panels_PXN, bias_PN = self._scorer.panels
        first, last = start // COLUMNS, -(-stop // COLUMNS)
        rows, width = len(self._users_UX), (last - first) * COLUMNS
        if self._scratch.size < rows * width:
            self._scratch = np.empty(rows * width, np.float32)
        scores_UT = self._scratch[: rows * width].reshape(rows, width)
        apply_layer(self._users_UX, panels_PXN[first:last], bias_PN[first:last], -np.inf, scores_UT, self._count)
        offset = start - first * COLUMNS
        out_UT[:] = scores_UT[: self._count, offset : offset + stop - start]


class HiddenPairs:
    """Scores of U users' pairs by a model with hidden layers."""

    def __init__(self, scorer: PairScorer, users: Side) -> None:
        """Allocate the layers' arrays."""
        self._scorer, self._layers = scorer, Layers(scorer.spec, scorer.network, scorer.weights)
        self._users_U2K = np.stack([users.sum_BK, users.pooled_BK], axis=1)
        self._linear_U = users.linear_B + scorer.weights["bias"]
        self._dense_UD = users.dense_BD

    def score(self, start: int, stop: int, out_UT: Floats) -> None:
        """Write the logits of all users and the items from start up to stop."""
        for first in range(start, stop, TILE):
            last = min(first + TILE, stop)
            self._score_tile(first, last, out_UT[:, first - start : last - start])

    def _score_tile(self, start: int, stop: int, out_UT: Floats) -> None:
        scorer, layers, items, count = self._scorer, self._layers, self._scorer.items, stop - start
        layers.inputs_TX[:count, scorer.item_columns] = items.dense_BD[start:stop]
        for u, linear in enumerate(self._linear_U):
            layers.inputs_TX[:count, scorer.user_columns] = self._dense_UD[u]
            pool_pairs(self._users_U2K[u], items.sum_BK, items.pooled_BK, start, stop, layers.inputs_TX)
            np.add(items.linear_B[start:stop], linear, out=layers.linear_TC[:count, 0])
            layers.add_outputs(count)
            out_UT[u] = layers.linear_TC[:count, 0]


def _make_panels(items: Side, output_1K: Floats) -> tuple[Floats, Floats]:
    """Return s_i as (P, K + 1, N) panels of N items, with a row of ones, and b_i as (P, N); padded with zeros."""
    count, dim = items.sum_BK.shape
    panels, full = -(-count // COLUMNS), count // COLUMNS
    panels_PXN, bias_PN = np.zeros((panels, dim + 1, COLUMNS), np.float32), np.zeros((panels, COLUMNS), np.float32)
    whole = items.sum_BK[: full * COLUMNS].reshape(full, COLUMNS, dim)
    panels_PXN[:full, :dim] = whole.transpose(0, 2, 1)
    if panels > full:
        panels_PXN[full, :dim, : count - full * COLUMNS] = items.sum_BK[full * COLUMNS :].T
    panels_PXN[:, dim] = 1
    bias_I1 = bias_PN.reshape(-1, 1)
    bias_I1[:count, 0] = items.linear_B
    add_products(np.ascontiguousarray(items.pooled_BK), 0, output_1K, bias_I1, count)
    return panels_PXN, bias_PN
