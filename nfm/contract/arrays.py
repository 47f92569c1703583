"""NumPy's arrays → Arrow's, and back, without pandas.

`pa.array`, `pa.scalar`, `to_numpy` and plain numbers among the arguments of a computation have pyarrow import pandas
the first time in a process: a third of a second and 25 MB in each worker, and scoring uses nothing of it.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


def arrow(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """(N,) numbers as an Arrow array, null where `missing`; shares the memory of a contiguous array."""
    values = np.ascontiguousarray(values)
    valid = None if missing is None or not missing.any() else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, pa.py_buffer(values)])


def few_texts(values: Sequence[str]) -> pa.Array:
    """(N,) texts (`large_string`); for a few of them."""
    parts = [value.encode() for value in values]
    offsets = np.array([0, *accumulate(map(len, parts))], np.int64)
    return pa.LargeStringArray.from_buffers(len(parts), pa.py_buffer(offsets), pa.py_buffer(b"".join(parts)))


def content(array: pa.Array) -> NDArray[Any]:
    """(N,) the numbers or booleans of an Arrow array, in shared memory; undefined where it is null."""
    start, stop, buffer = array.offset, array.offset + len(array), array.buffers()[1]
    if pa.types.is_boolean(array.type):
        first = start // 8  # the byte of the first bit
        bits = np.unpackbits(np.frombuffer(buffer or b"", np.uint8)[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)
    return np.frombuffer(buffer or b"", array.type.to_pandas_dtype())[start:stop]


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """(N + 1,) where each of N texts (`large_string`) begins and ends in its buffer, and the bytes of these texts."""
    _, offsets_buffer, text_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer or b"", np.int64)[texts.offset : texts.offset + len(texts) + 1]
    offsets = offsets if len(offsets) else np.zeros(1, np.int64)  # Arrow may leave out those of no texts
    return offsets, np.frombuffer(text_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The concatenated ranges from starts[i] to starts[i] + lengths[i] - 1.

    Example:
        ranges(np.array([7, 2]), np.array([2, 3]))  # [7, 8, 2, 3, 4]
    """
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def nulls(array: pa.Array) -> NDArray[np.bool_]:
    """(N,) which values are null."""
    return content(array.is_null())


def map_file(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an .npy file; raise ValueError, with the rest of a sentence about it, unless it has this type and shape."""
    try:
        empty = path.stat().st_size <= 128  # a header and no content: nothing to map
        array = np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"is {array.dtype} {array.shape} where {np.dtype(dtype)} {shape} is needed")
    return array
