"""Conversions between NumPy and Arrow arrays, compared with pyarrow's own, which import pandas."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from nfm.contract.arrays import concatenate_ranges, null_mask, text_buffers, to_arrow, to_numpy, to_text_array


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 8, 11])
def test_to_arrow_equals_pyarrows_conversion(dtype: str, rows: int) -> None:
    values, missing = np.arange(rows).astype(dtype), np.arange(rows) % 3 == 1
    assert to_arrow(values).equals(pa.array(values))
    converted = to_arrow(values, missing)
    converted.validate(full=True)
    assert converted.equals(pa.array(values, mask=missing))
    assert to_arrow(values, np.zeros(rows, np.bool_)).null_count == 0
    assert to_arrow(np.repeat(values, 2)[::2]).to_pylist() == values.tolist()  # a strided view


@pytest.mark.parametrize("start", [0, 1, 7, 8, 9, 20])
def test_slices_are_converted_from_their_own_start(start: int) -> None:
    truths = [None if i % 5 == 0 else i % 3 == 0 for i in range(20)]
    numbers = [None if truth is None else i for i, truth in enumerate(truths)]
    for values in (truths, numbers):
        for length in (0, 1, 20):
            array, wanted = pa.array(values).slice(start, length), values[start : start + length]
            assert null_mask(array).tolist() == [value is None for value in wanted]
            known = [value for value, null in zip(to_numpy(array).tolist(), null_mask(array), strict=True) if not null]
            assert known == [value for value in wanted if value is not None]
    assert to_numpy(pa.array([], pa.bool_())).tolist() == to_numpy(pa.array([], pa.int32())).tolist() == []


def test_to_text_array() -> None:
    for texts in ([], [""], ["red", "", "größe`", "a\0b"]):
        assert to_text_array(texts).equals(pa.array(texts, pa.large_string()))


@pytest.mark.parametrize("texts", [[], ["a"], ["", "é", None, "xyz"]])
def test_text_buffers_of_a_slice(texts: list[str | None]) -> None:
    padded = pa.array(["before", *texts, "after"], pa.large_string())
    for array in (padded.slice(1, len(texts)), pa.array(texts, pa.large_string())):
        offsets, content = text_buffers(array)
        each = [bytes(content[a - offsets[0] : b - offsets[0]]) for a, b in itertools.pairwise(offsets)]
        assert each == [(text or "").encode() for text in texts]
        assert len(content) == sum(map(len, each))


def test_ranges_are_concatenated() -> None:
    starts, lengths = np.array([7, 0, 2, 5]), np.array([2, 0, 3, 1])
    assert concatenate_ranges(starts, lengths).tolist() == [7, 8, 2, 3, 4, 5]
    assert concatenate_ranges(starts[:0], lengths[:0]).tolist() == []
