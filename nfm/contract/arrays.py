"""Convert NumPy arrays to Arrow arrays and back, without pandas.

`pa.array`, `pa.scalar`, `pa.Array.to_numpy` and Python numbers as arguments of `pyarrow.compute` make pyarrow import
pandas, which costs a third of a second and 25 MB in each worker; scoring does not need it.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


def to_arrow(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """Convert (N,) numbers to an Arrow array, null where `missing`; shares the memory of a contiguous array."""
    values = np.ascontiguousarray(values)
    valid = None if missing is None or not missing.any() else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, pa.py_buffer(values)])


def to_text_array(values: Sequence[str]) -> pa.Array:
    """Convert N texts to an Arrow array (`large_string`); slow for many texts."""
    parts = [value.encode() for value in values]
    offsets = np.array([0, *accumulate(map(len, parts))], np.int64)
    return pa.LargeStringArray.from_buffers(len(parts), pa.py_buffer(offsets), pa.py_buffer(b"".join(parts)))


def to_numpy(array: pa.Array) -> NDArray[Any]:
    """Return the (N,) numbers or booleans of an Arrow array; undefined where it is null. Numbers share its memory."""
    start, stop, buffer = array.offset, array.offset + len(array), array.buffers()[1]
    if pa.types.is_boolean(array.type):
        first = start // 8  # byte of the first bit
        bits = np.unpackbits(np.frombuffer(buffer or b"", np.uint8)[first : -(-stop // 8)], bitorder="little")
        return bits[start - 8 * first : stop - 8 * first].view(np.bool_)
    return np.frombuffer(buffer or b"", array.type.to_pandas_dtype())[start:stop]


def text_buffers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the (N + 1,) offsets of N texts (`large_string`) in their buffer, and the bytes of these texts."""
    _, offsets_buffer, text_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer or b"", np.int64)[texts.offset : texts.offset + len(texts) + 1]
    offsets = offsets if len(offsets) else np.zeros(1, np.int64)  # Arrow may omit them for an empty array
    return offsets, np.frombuffer(text_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]


def concatenate_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate the ranges from starts[i] up to starts[i] + lengths[i]; (sum of lengths,).

    Example:
        concatenate_ranges(np.array([7, 2]), np.array([2, 3]))  # [7, 8, 2, 3, 4]
    """
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def null_mask(array: pa.Array) -> NDArray[np.bool_]:
    """Return (N,) True where the value is null."""
    return to_numpy(array.is_null())


def map_file(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an .npy file; ValueError unless it has this type and shape. The message continues "<file> …"."""
    try:
        empty = path.stat().st_size <= 128  # a header and no content: nothing to map
        array = np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"cannot be read ({error})") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"is {array.dtype} {array.shape} where {np.dtype(dtype)} {shape} is needed")
    return array
