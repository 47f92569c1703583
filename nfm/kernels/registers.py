"""The processor's registers in compiled loops: a vector of float32 numbers that are worked on at once.

Where LLVM does not find to vectors by itself, a loop says so: `load`, arithmetic, `store`. Indices are not checked.
"""

import operator
import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

from nfm.kernels.layers import INT, INTS, LANES, VECTOR, spread

__all__ = ["INT", "LANES", "VECTOR", "spread"]  # for other modules of loops

intrinsic: Any = _intrinsic  # numba's types speak of the function that makes it, not of what a loop calls
_X86 = platform.machine() in ("x86_64", "AMD64")


class _Register(types.Type):
    def __init__(self) -> None:
        super().__init__("Register")


REGISTER = _Register()


@register_model(_Register)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, VECTOR)


def _place(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
    """Pointer to the elements of the first argument, an array, from the second one on."""
    if kinds[0].layout != "C":
        raise TypingError(f"registers are loaded from C-contiguous arrays, not from {kinds[0]}")
    data = context.make_array(kinds[0])(context, builder, arguments[0]).data
    at = context.cast(builder, arguments[1], kinds[1], types.intp)
    return builder.bitcast(builder.gep(data, [at]), VECTOR.as_pointer())


@intrinsic
def load(_: Any, array: Any, at: Any) -> Any:
    """The numbers of a C-contiguous array from its element `at` on, counted through all its dimensions."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, signature.args, arguments), align=4)

    return REGISTER(array, at), generate


@intrinsic
def store(_: Any, array: Any, at: Any, value: Any) -> Any:
    """Put the numbers there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _place(context, builder, signature.args, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, at, value), generate


@intrinsic
def full(_: Any, number: Any) -> Any:
    """A float32 in every lane."""
    return REGISTER(types.float32), lambda _, builder, __, arguments: spread(builder, arguments[0])


@intrinsic
def where_less(_: Any, a: Any, b: Any, value: Any, other: Any) -> Any:
    """The value where a < b, the other where not: where one of them is no number, too."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments[:2]), *arguments[2:])

    return REGISTER(a, b, value, other), generate


@intrinsic
def kept(_: Any, value: Any, at: Any, seed: Any, other: Any, least: Any, column: Any) -> Any:
    """The value in lanes whose 32 random bits are at least what an array of uint32 has from `column` on; 0 in others.

    A lane's bits are a hash of its number, which is `at` for the first one, and of two seeds: the finalizer of
    github.com/skeeto/hash-prospector.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: int) -> Any:
            return ir.Constant(INTS, [number] * LANES)

        def mixed(bits: Any, shift: int, factor: int | None) -> Any:
            bits = builder.xor(bits, builder.lshr(bits, constant(shift)))
            return builder.mul(bits, constant(factor)) if factor is not None else bits

        start, seeds = arguments[1], arguments[2:4]
        start = context.cast(builder, start, signature.args[1], types.uint32)
        bits = builder.add(spread(builder, start, INTS), ir.Constant(INTS, list(range(LANES))))
        bits = builder.add(builder.mul(bits, constant(0x9E3779B9)), spread(builder, seeds[0], INTS))
        bits = builder.add(mixed(bits, 16, 0x21F0AAAD), spread(builder, seeds[1], INTS))
        bits = mixed(mixed(bits, 15, 0xD35A2D97), 15, None)
        pointer = _place(context, builder, signature.args[4:], arguments[4:])
        bounds = builder.load(builder.bitcast(pointer, INTS.as_pointer()), align=4)
        found = builder.icmp_unsigned(">=", bits, bounds)
        return builder.select(found, arguments[0], ir.Constant(VECTOR, [0.0] * LANES))

    return REGISTER(value, at, types.uint32, types.uint32, least, column), generate


def _define(of: Any, instruction: str) -> None:
    @intrinsic
    def computed(_: Any, a: Any, b: Any) -> Any:
        return REGISTER(a, b), lambda _, builder, __, arguments: getattr(builder, instruction)(*arguments)

    @overload(of, inline="always")
    def lane_by_lane(a, b):  # type: ignore[no-untyped-def]  # numba compares it with what it returns
        return (lambda a, b: computed(a, b)) if a == b == REGISTER else None


for _of, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_of, _instruction)


@intrinsic
def loaded_anew(_: Any, array: Any) -> Any:
    """The first element of an array of int64, which another thread may change."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(array), generate


@intrinsic
def pause(_: Any) -> Any:
    """Wait for a few cycles, and let the core's other thread have them."""

    def generate(context: Any, builder: Any, _: Any, __: Any) -> Any:
        if _X86:
            form = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, form, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate
