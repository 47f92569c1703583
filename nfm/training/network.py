"""The network of a training step: from the pooled vectors to the loss, and the derivatives on the way back.

What Keras's layers say of it in `model` is done here by the loops of `network_kernels`, which share a batch's pieces
among threads; between two loops, the pieces' sums are added up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.training import losses
from nfm.training import network_kernels as loops
from nfm.training.model import BATCH_NORM
from nfm.training.network_kernels import Pieces, Stage
from nfm.training.products import ROWS, N, packed, padded, panels_of, unpacked
from nfm.training.threads import even, shared

Floats = NDArray[np.float32]
_PIECE = 256  # rows: what they take stays in a core's own cache
_ACTIVATIONS = {"linear": loops.LINEAR, "relu": loops.RELU, "tanh": loops.TANH, "sigmoid": loops.SIGMOID}
_TASKS = {"binary": losses.BINARY, "regression": losses.REGRESSION, "multiclass": losses.MULTICLASS}


class Derivatives(NamedTuple):
    """Of the objective: the samples' losses, their mean or sum, and the penalties."""

    loss: float  # the samples' weighted sum, without penalties
    pooled_BK: Floats
    linear_BC: Floats
    weights: dict[str, Floats]  # by the name of each of the network's trainable ones


class _Room(NamedTuple):
    """What a batch of one size takes, and each stage of it."""

    pieces: Pieces
    z: Sequence[Floats]  # (P, B, N) of each stage: what goes in,
    h: Sequence[Floats]  # what comes out,
    g: Sequence[Floats]  # and a derivative


class Network:
    """The layers above the tables, as the model's settings have them."""

    def __init__(self, spec: Spec, form: Model, settings: Train, weights: Mapping[str, Floats], threads: int) -> None:
        """Prepare for batches.

        Args:
            spec: of the encoding.
            form: of the model.
            settings: how the objective is reduced, and the seed of the dropout.
            weights: by the path of the model's variable; are read at each step, and the moving averages changed.
            threads: that share the work. The results do not depend on it.
        """
        self._form, self._weights, self._threads = form, weights, threads
        self._seed, self._mean = settings.seed, settings.loss_reduction == "mean"
        self._dense = len(spec.dense) if form.hidden_units else 0  # numbers that join the pooled vector
        self._names = ["pooling", *(f"hidden_{i}" for i in range(len(form.hidden_units)))]
        self._units = [form.embedding_dim, *form.hidden_units]
        self._columns = [form.embedding_dim + self._dense, *form.hidden_units]
        rates = [form.pooling_dropout, *[form.hidden_dropout] * len(form.hidden_units)]
        self._dropouts = [_dropout(*of) for of in zip(rates, self._units, self._columns, strict=True)]
        self._rooms: dict[int, _Room] = {}

    def step(
        self, pooled_BK: Floats, linear_BC: Floats, dense_BD: Floats, label_B1: Floats, weight_B: Floats, number: int
    ) -> Derivatives:
        """The loss of a batch and its derivatives.

        Args:
            pooled_BK: Bi-Interaction pooling.
            linear_BC: sums of the first-order weights, without the bias.
            dense_BD: the dense numbers.
            label_B1: as the task has them.
            weight_B: of the samples.
            number: of the step; the units that are dropped depend on it.
        """
        room, of = self._room(len(pooled_BK)), dict[str, Floats]()
        dense_BD = np.ascontiguousarray(dense_BD, np.float32)
        stages = self._forward(room, pooled_BK, dense_BD, number)
        loss, upstream_BC, sums = self._turn(room, stages[-1], linear_BC, dense_BD, label_B1, weight_B, of)
        of_pooled_BK = np.empty_like(pooled_BK)
        means = self._backward(room, stages, sums, of)
        self._run(room, loops.leave, stages[0], means, room.z[0], room.g[0], of_pooled_BK)
        return Derivatives(loss, of_pooled_BK, upstream_BC, of)

    def _forward(self, room: _Room, pooled_BK: Floats, dense_BD: Floats, number: int) -> list[Stage]:
        """Up to what goes into the last stage; all stages, which know the batch's statistics."""
        joined_BD, moments = dense_BD[:, : self._dense].copy(), self._sums(room, 2, room.z[0])
        self._run(room, loops.arrange, pooled_BK, joined_BD, room.z[0], moments)
        stages = [self._stage(0, room, moments, number)]
        for i, name in enumerate(self._names[1:]):
            kernel = packed(self._weights[f"{name}/kernel"], len(room.h[i]))
            bias = padded(self._weights[f"{name}/bias"], self._units[i + 1]).reshape(-1, N)
            moments = self._sums(room, 2, room.z[i + 1])
            self._run(room, loops.forward, stages[i], room.z[i], room.h[i], kernel, bias, room.z[i + 1], moments)
            stages.append(self._stage(i + 1, room, moments, number))
        return stages

    def _turn(
        self,
        room: _Room,
        stage: Stage,
        linear_BC: Floats,
        dense_BD: Floats,
        label_B1: Floats,
        weight_B: Floats,
        of: dict[str, Floats],
    ) -> tuple[float, Floats, Floats]:
        """The loss, the derivative by the logits, and what the last stage's norm takes to go back."""
        logits_BC = linear_BC + self._weights["linear/bias"]
        if dense_BD.shape[1]:
            logits_BC += dense_BD @ self._weights["dense_linear/kernel"]
        z, h, g = room.z[-1], room.h[-1], room.g[-1]
        kernel_CX = np.zeros((logits_BC.shape[1], len(z) * N), np.float32)
        kernel_CX[:, : self._columns[-1]] = self._weights["output/kernel"].T
        upstream_BC, of_pieces = np.empty_like(logits_BC), np.empty(self._count(room))
        of_output, sums = self._sums(room, len(kernel_CX), z), self._sums(room, 2, z)
        label_B, weight_B = np.array(label_B1, np.float32).reshape(-1), np.array(weight_B, np.float32)
        task, share = _TASKS[self._form.task], np.float32(1 / len(label_B) if self._mean else 1)
        given = (kernel_CX, logits_BC, label_B, weight_B, task, share)
        self._run(room, loops.turn, stage, z, h, *given, g, upstream_BC, of_pieces, of_output, sums)
        of["output/kernel"] = of_output.sum(axis=0)[:, : self._columns[-1]].T
        of["linear/bias"] = upstream_BC.sum(axis=0)
        of["dense_linear/kernel"] = dense_BD.T @ upstream_BC
        return float(of_pieces.sum()), upstream_BC, sums

    def _backward(self, room: _Room, stages: Sequence[Stage], sums: Floats, of: dict[str, Floats]) -> Floats:
        """Down to the first stage; what its norm takes."""
        for i in reversed(range(len(stages) - 1)):
            name, means = self._names[i + 1], self._means(i + 1, room, sums, of)
            kernel, behind, before = self._weights[f"{name}/kernel"], len(room.z[i + 1]), len(room.z[i])
            of_kernel = np.empty((self._count(room), behind, before * N, N), np.float32)
            of_bias, sums = np.empty((self._count(room), behind * N), np.float32), self._sums(room, 2, room.z[i])
            self._run(
                *(room, loops.backward, stages[i + 1], means, room.z[i + 1], room.g[i + 1]),
                *(stages[i], room.z[i], room.h[i], packed(kernel.T, behind), room.g[i], of_kernel, of_bias, sums),
            )
            of[f"{name}/kernel"] = unpacked(of_kernel.sum(axis=0), *kernel.shape)
            of[f"{name}/bias"] = of_bias.sum(axis=0)[: self._units[i + 1]]
            if self._form.l2.hidden:
                decay = 2 * self._form.l2.hidden * (1 if self._mean else room.pieces.rows)
                of[f"{name}/kernel"] = of[f"{name}/kernel"] + np.float32(decay) * kernel
        return self._means(0, room, sums, of)

    def _stage(self, i: int, room: _Room, moments_I2X: Floats, number: int) -> Stage:
        form, units, columns = self._form, self._units[i], len(room.z[i]) * N
        mean, inverse, scale, shift = (np.zeros(columns, np.float32) for _ in range(4))
        scale[: self._columns[i]] = 1
        if form.batch_norm:
            name = f"{self._names[i]}_norm"
            found, variance = _merged(room.pieces, moments_I2X[:, :, :units])
            for average, now in (("moving_mean", found), ("moving_variance", variance)):
                kept = BATCH_NORM["momentum"]
                self._weights[f"{name}/{average}"][:] = kept * self._weights[f"{name}/{average}"] + (1 - kept) * now
            mean[:units], inverse[:units] = found, 1 / np.sqrt(variance + BATCH_NORM["epsilon"])
            scale[:units] = self._weights[f"{name}/gamma"] * inverse[:units]
            shift[:units] = self._weights[f"{name}/beta"]
        factor, least = self._dropouts[i]
        seeds = np.random.SeedSequence([self._seed, number, i]).generate_state(2)
        activation = _ACTIVATIONS[form.activation] if i else loops.LINEAR
        return Stage(activation, mean, inverse, scale, shift, factor, least, tuple(seeds))

    def _means(self, i: int, room: _Room, sums_I2X: Floats, of: dict[str, Floats]) -> Floats:
        """What the derivative of a stage's norm takes; the norm's own derivatives join the others."""
        sums_2X = sums_I2X.sum(axis=0)
        if not self._form.batch_norm:
            return np.zeros_like(sums_2X)
        of_beta, of_gamma = sums_2X[:, : self._units[i]]
        of[f"{self._names[i]}_norm/beta"], of[f"{self._names[i]}_norm/gamma"] = of_beta, of_gamma
        means_2X: Floats = sums_2X / np.float32(room.pieces.rows)
        return means_2X

    def _run(self, room: _Room, loop: Any, *arguments: Any) -> None:
        shared(self._threads, even(self._count(room), self._threads), loop, room.pieces, *arguments)

    def _count(self, room: _Room) -> int:
        return -(-room.pieces.rows // _PIECE)

    def _sums(self, room: _Room, of: int, like_PBN: Floats) -> Floats:
        """(I, of, P N): for each piece and column."""
        return np.empty((self._count(room), of, len(like_PBN) * N), np.float32)

    def _room(self, rows: int) -> _Room:
        if rows not in self._rooms:
            whole = -(-rows // ROWS) * ROWS
            each = [[np.zeros((panels_of(c), whole, N), np.float32) for c in self._columns] for _ in range(3)]
            self._rooms[rows] = _Room(Pieces(_PIECE, rows), *each)
        return self._rooms[rows]


def _dropout(rate: float, units: int, columns: int) -> tuple[Floats, NDArray[np.uint32]]:
    """`factor` and `least` of a stage; numbers that join it are not dropped."""
    whole = panels_of(columns) * N
    factor, least = np.ones(whole, np.float32), np.zeros(whole, np.uint32)
    factor[:units], least[:units] = 1 / (1 - rate), round(rate * 2**32)
    return factor, least


def _merged(pieces: Pieces, moments_I2X: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and variances of the batch from those of its pieces (Chan, Golub & LeVeque 1979)."""
    means_IX, squares_IX = moments_I2X.astype(np.float64).transpose(1, 0, 2)
    starts, rows = np.arange(len(means_IX)) * _PIECE, pieces.rows
    counts_I1 = (np.minimum(starts + _PIECE, rows) - starts)[:, np.newaxis]
    mean_X = (counts_I1 * means_IX).sum(axis=0) / rows
    variance_X = (squares_IX + counts_I1 * (means_IX - mean_X) ** 2).sum(axis=0) / rows
    return mean_X, variance_X
