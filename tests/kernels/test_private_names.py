"""Undocumented names of numba and llvmlite that the kernels use. An upgrade that renames one fails here first."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target

# Owner, name, and use in the kernels
NAMES: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: FunctionCache, "_index_key", "compile: adds a hash of the package to the key of cached machine code"),
    (lambda: FunctionCache, "save_overload", "compile: a full disk does not end a job"),
    (lambda: FunctionCache, "load_overload", "compile: an unreadable cache does not end a job"),
    (lambda: njit(lambda: 0), "_cache", "compile: is replaced by the cache above"),
    (lambda: njit(lambda: 0), "disable_compile", "compile: a loop accepts only the types that it was compiled for"),
    (lambda: cpu_target.target_context, "make_array", "layers, prefetch: the address and shape of an array"),
    (lambda: cpu_target.target_context, "get_dummy_value", "layers, prefetch: result of a loop without a value"),
    (lambda: cpu_target.target_context, "cast", "prefetch: converts the number of a row to an address offset"),
    (lambda: cgutils, "unpack_tuple", "prefetch: the strides of an array"),
    (lambda: cgutils, "get_or_insert_function", "prefetch: declares llvm.prefetch"),
    (lambda: cgutils, "for_range_slice", "prefetch: a loop over the cache lines of a row"),
    (lambda: ir.IRBuilder, "phi", "layers: sums that stay in registers"),
    (lambda: ir.IRBuilder, "shuffle_vector", "layers: a number in all lanes of a register"),
    (lambda: ir.IRBuilder, "fcmp_ordered", "layers: ReLU that keeps NaN"),
]


@pytest.mark.parametrize(("owner", "name", "use"), NAMES, ids=[name for _, name, _ in NAMES])
def test_the_name_exists(owner: Callable[[], Any], name: str, use: str) -> None:
    assert hasattr(owner(), name), use


def test_a_tuple_of_arrays_is_converted_to_the_types_of_a_loop() -> None:
    """`pooling` and `reasons` declare read-only arrays of any layout, and are called with other arrays."""
    make_tuple: Any = types.Tuple
    wanted = make_tuple([types.Array(types.float32, 2, "A", readonly=True), types.int64])
    loop: Any = njit(lambda pair: pair[0][pair[1], 0])
    loop.compile(types.float32(wanted))
    loop.disable_compile()
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    constant = matrix.copy()
    constant.flags.writeable = False
    for array in (matrix, constant, matrix.T.copy().T, matrix[:, ::2]):
        assert loop((array, 1)) == 3
    with pytest.raises(TypeError, match="No matching definition"):
        loop((matrix.astype(np.float64), 1))
