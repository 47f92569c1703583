"""Dense layers over a tile of rows: products, bias and ReLU in one loop, each row's sums in registers of its own.

A library's product rounds differently for another number of rows, and a row's score must not depend on the rows that it
happens to travel with. At the sizes of these layers this is faster, too: docs/performance.md.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from nfm.kernels.compile import compiled
from nfm.kernels.registers import INT, LANES, VECTOR, spread

# Rows and columns of the block whose 12 sums fit into the registers, with what a step of the loop reads: 6 numbers of
# rows and 2 vectors of weights. With 24 sums, for which AVX-512 has registers, LLVM reads all 12 numbers first and has
# some sums wait in the stack: 1.4 to 2.4 times the time, by where the stack lies.
ROWS = 6
_COLUMNS = 2 * LANES
_ZERO = np.float32(0)


def panels(kernel_XU: NDArray[np.float32], bias_U: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """A layer's weights as `layer` reads them: (P, X, N) and (P, N), N columns side by side; zeros behind the last."""
    inputs, units = kernel_XU.shape
    count = -(-units // _COLUMNS)
    kernel, bias = np.zeros((inputs, count * _COLUMNS), np.float32), np.zeros(count * _COLUMNS, np.float32)
    kernel[:, :units], bias[:units] = kernel_XU, bias_U
    split = kernel.reshape(inputs, count, _COLUMNS).transpose(1, 0, 2)
    return np.ascontiguousarray(split), bias.reshape(count, _COLUMNS)


@cache
def layer() -> Callable[..., None]:
    """The loop of a layer, compiled.

    Returns:
        A function that lets other threads run. Its arguments:
            x_TX: the rows; columns behind the first X are not looked at.
            kernel_PXN, bias_PN: as `panels` makes them.
            least: 0 for ReLU, or minus infinity.
            out_TU, P * N columns: receives max(x W + b, least).
            rows: how many. Both arrays have whole blocks of `ROWS`, of which the last goes through as it is.
    """
    matrix = types.Array(types.float32, 2, "C")
    weights, bias = (types.Array(types.float32, n, "C", readonly=True) for n in (3, 2))
    return compiled(types.void(matrix, weights, bias, types.float32, matrix, types.int64), _layer)


def _layer(x_TX: Any, kernel_PXN: Any, bias_PN: Any, least: Any, out_TU: Any, rows: Any) -> None:
    for p in range(len(kernel_PXN)):
        for t in range(0, rows, ROWS):
            _block(x_TX, kernel_PXN, bias_PN, least, out_TU, t, p)  # type: ignore[call-arg]


@cache
def add_products() -> Callable[..., None]:
    """The loop of the last layer, which has few outputs, compiled.

    Returns:
        A function that lets other threads run, and adds to out_TC the products of x_TX, from this column on, and the
        kernel_CX, for so many rows.
    """
    matrix, kernel = types.Array(types.float32, 2, "C"), types.Array(types.float32, 2, "C", readonly=True)
    signature = types.void(matrix, types.int64, kernel, matrix, types.int64)
    # Sums in lanes, as many of them in each row.
    return compiled(signature, _add_products, fastmath={"reassoc", "contract"})


def _add_products(x_TX: Any, column: Any, kernel_CX: Any, out_TC: Any, rows: Any) -> None:
    for t in range(np.uint64(rows)):
        for c in range(np.uint64(kernel_CX.shape[0])):
            product = _ZERO
            for x in range(np.uint64(kernel_CX.shape[1])):
                product += x_TX[t, np.uint64(column) + x] * kernel_CX[c, x]
            out_TC[t, c] += product


@intrinsic
def _block(_: Any, x: Any, kernel: Any, bias: Any, least: Any, out: Any, t: Any, p: Any) -> Any:
    """Rows t to t + ROWS of the output's columns of panel p. LLVM would not find to this by itself."""
    return types.void(x, kernel, bias, least, out, t, p), _generate


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    made = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 2, 4)]
    (x, kernel, bias, out), (least, t, p) = (array.data for array in made), (arguments[i] for i in (3, 5, 6))
    width, inputs, stride = (builder.extract_value(made[i].shape, 1) for i in (0, 1, 3))
    multiply_add = ir.Function(builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32")

    def at(pointer: Any, *steps: Any) -> Any:
        for step in steps:
            pointer = builder.gep(pointer, [step])
        return pointer

    def vector(pointer: Any) -> Any:
        return builder.load(builder.bitcast(pointer, VECTOR.as_pointer()), align=4)

    halves = [INT(0), INT(LANES)]
    rows = [at(x, builder.mul(builder.add(t, INT(row)), width)) for row in range(ROWS)]
    panel = at(kernel, builder.mul(builder.mul(p, inputs), INT(_COLUMNS)))
    biases = [vector(at(bias, builder.mul(p, INT(_COLUMNS)), half)) for half in halves]
    before = builder.block
    body, behind = builder.append_basic_block("inputs"), builder.append_basic_block("done")
    builder.branch(body)

    builder.position_at_end(body)
    i = builder.phi(INT)
    sums = [[builder.phi(VECTOR) for _ in halves] for _ in range(ROWS)]
    weights = [vector(at(panel, builder.mul(i, INT(_COLUMNS)), half)) for half in halves]
    grown = []
    for row, old in zip(rows, sums, strict=True):
        value = spread(builder, builder.load(at(row, i)))
        grown.append([builder.call(multiply_add, [value, w, s]) for w, s in zip(weights, old, strict=True)])
    following = builder.add(i, INT(1))
    i.add_incoming(INT(0), before)
    i.add_incoming(following, body)
    for old, new in zip(sums, grown, strict=True):
        for half in range(2):
            old[half].add_incoming(biases[half], before)
            old[half].add_incoming(new[half], body)
    builder.cbranch(builder.icmp_unsigned("<", following, inputs), body, behind)

    builder.position_at_end(behind)
    floor = spread(builder, least)
    for row, new in enumerate(grown):
        place = at(out, builder.mul(builder.add(t, INT(row)), stride), builder.mul(p, INT(_COLUMNS)))
        for half, total in zip(halves, new, strict=True):
            # What is no number stays none.
            kept = builder.select(builder.fcmp_ordered("<", total, floor), floor, total)
            builder.store(kept, builder.bitcast(at(place, half), VECTOR.as_pointer()), align=4)
    return context.get_dummy_value()
