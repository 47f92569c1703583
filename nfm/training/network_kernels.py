"""The loops of a training step between the pooled vectors and the loss, there and back.

A stage is batch norm → activation → dropout: z → h. Each layer's product leads from a stage's h to the next one's z. A
batch is cut into pieces of rows. A loop takes a range of pieces, so that threads can share the work, and each piece has
sums of its own, which are added up in the pieces' order: the bits are the same for any number of threads.

Matrices are panels, as `products` has them. What a stage does goes down one register's columns after the other, whose
means, scales and sums stay in registers.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import when_called
from nfm.kernels.registers import LANES, full, kept, load, store, where_less
from nfm.training.losses import loss_of
from nfm.training.products import N, add_outer, inlined, multiply

LINEAR, RELU, TANH, SIGMOID = range(4)  # activations

Floats = NDArray[np.float32]
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


class Pieces(NamedTuple):
    """How a batch is cut."""

    size: int  # rows of a piece; the last one may have fewer
    rows: int  # of the batch


class Stage(NamedTuple):
    """What a stage does to each of its P N columns: h = kept · factor · σ(scale (z − mean) + shift)."""

    activation: int
    mean: Floats  # of the batch; 0 without a norm
    inverse: Floats  # 1 / its standard deviation; 0 without a norm
    scale: Floats  # γ / its standard deviation; 1 without a norm, 0 behind the last column
    shift: Floats  # β
    factor: Floats  # 1 / (1 - rate) of the dropout
    least: NDArray[np.uint32]  # of the random bits of a unit that is kept: rate · 2³²
    seeds: tuple[np.uint32, np.uint32]  # of the random bits


@inlined
def _bounds(piece: int, pieces: Any) -> Any:
    return piece * pieces.size, min((piece + 1) * pieces.size, pieces.rows)


@inlined
def _start_of(column: int, rows: int) -> Any:
    """Where a column of a matrix begins; its next row is N elements further."""
    return (column // N) * rows * N + column % N


@inlined
def _moments(start: int, stop: int, z_PBN: Any, place: int, moments_I2X: Any) -> None:
    """Each column's mean, and the sum of the squares of what its numbers are more or less than that."""
    rows, columns, share = z_PBN.shape[1], moments_I2X.shape[2], full(_ONE / np.float32(stop - start))
    for c in range(0, columns, LANES):
        at, total, squares = _start_of(c, rows), full(_ZERO), full(_ZERO)
        for b in range(start, stop):
            total = total + load(z_PBN, at + b * N)
        mean = total * share
        for b in range(start, stop):
            off = load(z_PBN, at + b * N) - mean
            squares = squares + off * off
        store(moments_I2X, 2 * place * columns + c, mean)
        store(moments_I2X, (2 * place + 1) * columns + c, squares)


@inlined
def _through(start: int, stop: int, stage: Any, z_PBN: Any, h_PBN: Any) -> None:
    rows, zero, (seed, other) = z_PBN.shape[1], full(_ZERO), stage.seeds
    for c in range(0, z_PBN.shape[0] * N, LANES):
        at, mean, scale, shift = _start_of(c, rows), load(stage.mean, c), load(stage.scale, c), load(stage.shift, c)
        factor = load(stage.factor, c)
        for b in range(start, stop):
            h = scale * (load(z_PBN, at + b * N) - mean) + shift
            if stage.activation == RELU:
                h = where_less(h, zero, zero, h)  # what is no number stays none
            elif stage.activation != LINEAR:
                store(h_PBN, at + b * N, h)
                _bend(stage.activation, c // N, b, c % N, h_PBN)
                h = load(h_PBN, at + b * N)
            store(h_PBN, at + b * N, kept(h * factor, at + b * N, seed, other, stage.least, c))


@inlined
def _bend(activation: int, p: int, b: int, column: int, h_PBN: Any) -> None:
    for n in range(column, column + LANES):
        if activation == TANH:
            h_PBN[p, b, n] = np.tanh(h_PBN[p, b, n])
        else:
            h_PBN[p, b, n] = _HALF * (_ONE + np.tanh(_HALF * h_PBN[p, b, n]))


@inlined
def _back(start: int, stop: int, stage: Any, z_PBN: Any, h_PBN: Any, g_PBN: Any, place: int, sums_I2X: Any) -> None:
    """g: from the derivative by h to that by scale (z − mean) + shift; and Σ g and Σ g (z − mean) · inverse."""
    rows, columns, zero, one = z_PBN.shape[1], sums_I2X.shape[2], full(_ZERO), full(_ONE)
    seed, other = stage.seeds
    for c in range(0, columns, LANES):
        # One factor a register: only columns whose derivative nobody asks for, dense numbers, could have another one.
        at, mean, inverse, factor = _start_of(c, rows), load(stage.mean, c), load(stage.inverse, c), stage.factor[c]
        of_shift, of_scale, unscaled = zero, zero, full(_ONE / factor)
        for b in range(start, stop):
            g, h = full(factor) * load(g_PBN, at + b * N), load(h_PBN, at + b * N)
            if stage.activation == RELU:
                g = where_less(zero, h, g, zero)
            elif stage.activation == TANH:
                g = g * (one - unscaled * h * (unscaled * h))
            elif stage.activation == SIGMOID:
                g = g * (unscaled * h * (one - unscaled * h))
            g = kept(g, at + b * N, seed, other, stage.least, c)
            store(g_PBN, at + b * N, g)
            of_shift = of_shift + g
            of_scale = of_scale + g * ((load(z_PBN, at + b * N) - mean) * inverse)
        store(sums_I2X, 2 * place * columns + c, of_shift)
        store(sums_I2X, (2 * place + 1) * columns + c, of_scale)


@inlined
def _through_norm(
    start: int, stop: int, stage: Any, means_2X: Any, z_PBN: Any, g_PBN: Any, place: int, totals_IX: Any
) -> None:
    """g: on to the derivative by z (Ioffe & Szegedy 2015, section 3), and Σ g.

    `means` are over the batch what `_back` sums up.
    """
    rows, columns = z_PBN.shape[1], means_2X.shape[1]
    for c in range(0, columns, LANES):
        at, mean, inverse, scale = _start_of(c, rows), load(stage.mean, c), load(stage.inverse, c), load(stage.scale, c)
        less, along, total = load(means_2X, c), load(means_2X, columns + c), full(_ZERO)
        for b in range(start, stop):
            normed = (load(z_PBN, at + b * N) - mean) * inverse
            g = scale * (load(g_PBN, at + b * N) - less - normed * along)
            store(g_PBN, at + b * N, g)
            total = total + g
        store(totals_IX, place * columns + c, total)


@when_called
def arrange(
    first: int, last: int, pieces: Pieces, pooled_BK: Floats, dense_BD: Floats, z_PBN: Floats, moments_I2X: Floats
) -> None:
    """Put pooled vectors and dense numbers beside each other, as panels; and tell the moments of each piece."""
    dim, more = pooled_BK.shape[1], dense_BD.shape[1]
    for piece in range(first, last):
        start, stop = _bounds(piece, pieces)
        for b in range(start, stop):
            for k in range(dim):
                z_PBN[k // N, b, k % N] = pooled_BK[b, k]
            for d in range(more):
                z_PBN[(dim + d) // N, b, (dim + d) % N] = dense_BD[b, d]
        _moments(start, stop, z_PBN, piece, moments_I2X)


@when_called
def forward(
    first: int,
    last: int,
    pieces: Pieces,
    stage: Stage,
    z_PBN: Floats,
    h_PBN: Floats,
    kernel_QXN: Floats,
    bias_QN: Floats,
    next_QBN: Floats,
    moments_I2X: Floats,
) -> None:
    """A stage, and the layer behind it; and the moments of what that makes."""
    for piece in range(first, last):
        start, stop = _bounds(piece, pieces)
        _through(start, stop, stage, z_PBN, h_PBN)
        multiply(start, stop, h_PBN, kernel_QXN, bias_QN, next_QBN)
        _moments(start, stop, next_QBN, piece, moments_I2X)


@when_called
def turn(
    first: int,
    last: int,
    pieces: Pieces,
    stage: Stage,
    z_PBN: Floats,
    h_PBN: Floats,
    output_CX: Floats,
    linear_BC: Floats,
    label_B: Floats,
    weight_B: Floats,
    task: int,
    share: np.float32,
    g_PBN: Floats,
    upstream_BC: Floats,
    losses_I: NDArray[np.float64],
    of_output_ICX: Floats,
    sums_I2X: Floats,
) -> None:
    """The last stage, the logits, each sample's loss, and back through that stage.

    Args:
        first: piece.
        last: behind the last piece.
        pieces: of the batch.
        stage: the last one.
        z_PBN: what goes into it.
        h_PBN: filled with what comes out.
        output_CX: the weights h.
        linear_BC: the logits' linear part.
        label_B: 0 or 1, numbers, or classes.
        weight_B: of the samples.
        task: of `losses`.
        share: of the objective's gradient, that a sample of weight 1 has.
        g_PBN: filled, as `_back` says.
        upstream_BC: filled with the derivative by the logits.
        losses_I: filled with each piece's weighted sum of losses.
        of_output_ICX: filled with the derivative by the output's weights.
        sums_I2X: filled, as `_back` says.
    """
    rows, columns, classes = z_PBN.shape[1], output_CX.shape[1], output_CX.shape[0]
    logits, lanes = np.empty(classes, np.float32), np.empty(LANES, np.float32)
    for piece in range(first, last):
        start, stop = _bounds(piece, pieces)
        _through(start, stop, stage, z_PBN, h_PBN)
        losses_I[piece] = 0.0
        for b in range(start, stop):
            for k in range(classes):
                product = full(_ZERO)
                for c in range(0, columns, LANES):
                    product = product + load(h_PBN, _start_of(c, rows) + b * N) * load(output_CX, k * columns + c)
                store(lanes, 0, product)
                logits[k] = linear_BC[b, k]
                for n in range(LANES):
                    logits[k] += lanes[n]
            losses_I[piece] += weight_B[b] * loss_of(task, label_B[b], logits, upstream_BC[b])
            for k in range(classes):
                upstream_BC[b, k] *= weight_B[b] * share
        for c in range(0, columns, LANES):
            at = _start_of(c, rows)
            for k in range(classes):
                weights, total = load(output_CX, k * columns + c), full(_ZERO)
                for b in range(start, stop):
                    upstream = full(upstream_BC[b, k])
                    before = load(g_PBN, at + b * N) if k else full(_ZERO)
                    store(g_PBN, at + b * N, before + upstream * weights)
                    total = total + upstream * load(h_PBN, at + b * N)
                store(of_output_ICX, (piece * classes + k) * columns + c, total)
        _back(start, stop, stage, z_PBN, h_PBN, g_PBN, piece, sums_I2X)


@when_called
def backward(
    first: int,
    last: int,
    pieces: Pieces,
    behind: Stage,
    means_2X: Floats,
    z_QBN: Floats,
    g_QBN: Floats,
    stage: Stage,
    z_PBN: Floats,
    h_PBN: Floats,
    transposed_PXN: Floats,
    g_PBN: Floats,
    of_kernel_IQXN: Floats,
    of_bias_IX: Floats,
    sums_I2X: Floats,
) -> None:
    """Back through a stage's norm (`behind`), the layer that leads to it, and the stage before that layer.

    Args:
        first: piece.
        last: behind the last piece.
        pieces: of the batch.
        behind: the stage that the layer leads to.
        means_2X: of that stage, over the batch.
        z_QBN: what went into it.
        g_QBN: the derivative as `_back` left it; is changed to that by z_QBN.
        stage: the stage before.
        z_PBN: what went into it.
        h_PBN: what came out.
        transposed_PXN: the layer's weights, `packed` the other way round.
        g_PBN: filled, as `_back` says.
        of_kernel_IQXN: filled with the derivative by the layer's weights, as they are `packed`.
        of_bias_IX: filled.
        sums_I2X: filled, as `_back` says.
    """
    nothing = np.zeros((transposed_PXN.shape[0], N), np.float32)
    for piece in range(first, last):
        start, stop = _bounds(piece, pieces)
        _through_norm(start, stop, behind, means_2X, z_QBN, g_QBN, piece, of_bias_IX)
        of_kernel_IQXN[piece] = _ZERO
        add_outer(start, stop, h_PBN, g_QBN, piece, of_kernel_IQXN)
        multiply(start, stop, g_QBN, transposed_PXN, nothing, g_PBN)
        _back(start, stop, stage, z_PBN, h_PBN, g_PBN, piece, sums_I2X)


@when_called
def leave(
    first: int, last: int, pieces: Pieces, stage: Stage, means_2X: Floats, z_PBN: Floats, g_PBN: Floats, of_BK: Floats
) -> None:
    """Back through the first stage's norm, to the pooled vectors."""
    totals = np.empty((1, means_2X.shape[1]), np.float32)
    for piece in range(first, last):
        start, stop = _bounds(piece, pieces)
        _through_norm(start, stop, stage, means_2X, z_PBN, g_PBN, 0, totals)
        for b in range(start, stop):
            for k in range(of_BK.shape[1]):
                of_BK[b, k] = g_PBN[k // N, b, k % N]
