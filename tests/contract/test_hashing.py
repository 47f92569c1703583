"""The hash equals a reference in plain Python, for slices too, and never changes."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.hashing import hash64, hash_rows

Hash = Callable[[str | None, int], int]

texts = st.lists(st.none() | st.text(max_size=30))
seeds = st.integers(0, 2**63)


def array(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.large_string())


def test_the_reference_equals_the_published_splitmix64(splitmix: Callable[[int], int]) -> None:
    golden = 0x9E3779B97F4A7C15
    outputs = [splitmix(golden * i % 2**64) for i in (1, 2, 3)]  # the generator with seed 0
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(values=texts, seed=seeds)
def test_hash64_equals_the_reference(reference_hash: Hash, values: list[str | None], seed: int) -> None:
    hashes = hash64(array(values), seed)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [reference_hash(value, seed) for value in values]


@given(values=texts, data=st.data())
def test_hashes_of_a_slice_are_those_of_its_texts(
    reference_hash: Hash, values: list[str | None], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    assert hash64(array(values)[start:stop]).tolist() == [reference_hash(value, 0) for value in values[start:stop]]


def test_hash64_is_the_same_in_every_version() -> None:
    # Folds, buckets and indices on disk depend on these numbers: changing the hash changes the format.
    values = ["", "a", "01234567", "012345678", "Ωmega", None]
    assert hash64(array(values), 7).tolist() == [
        8409816773569330625,
        16594183426022122276,
        4478699860584345662,
        7045908461851045391,
        15157303135300631058,
        17152296954827862636,
    ]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 64])
def test_the_hash_depends_on_each_byte_and_on_the_length(length: int) -> None:
    zeros = "\0" * length
    variants = [zeros[:i] + "\1" + zeros[i + 1 :] for i in range(length)] + [zeros, zeros + "\0"]
    assert len(set(hash64(array(variants)).tolist())) == length + 2


def test_a_null_is_not_the_empty_string() -> None:
    null, empty = hash64(array([None, ""])).tolist()
    assert null != empty


def test_hashes_depend_on_the_seed() -> None:
    values = array([str(i) for i in range(1000)])
    assert not np.any(hash64(values, 0) == hash64(values, 1))


@pytest.mark.parametrize("values", [array([]), array(["a", "b"])[2:], pa.nulls(0, pa.large_string())])
def test_empty_arrays_have_no_hashes(values: pa.Array) -> None:
    assert hash64(values).shape == (0,)


def test_serial_numbers_are_spread_evenly_over_buckets() -> None:
    counts = np.bincount((hash64(array([str(i) for i in range(100_000)])) % np.uint64(10)).astype(int))
    # The standard deviation of a count is 95.
    assert np.all(np.abs(counts - 10_000) < 4 * 95)


@given(rows=st.lists(st.tuples(st.none() | st.text(max_size=9), st.none() | st.text(max_size=9)), min_size=1))
def test_hash_rows_equals_the_reference(
    reference_hash: Hash, splitmix: Callable[[int], int], rows: list[tuple[str | None, str | None]]
) -> None:
    golden, expected = 0x9E3779B97F4A7C15, []
    for row in rows:
        combined = 0
        for text in row:
            combined = splitmix(((combined ^ reference_hash(text, 5)) + golden) % 2**64)
        expected.append(combined)
    columns = [array([row[0] for row in rows]), array([row[1] for row in rows])]
    assert hash_rows(columns, 5).tolist() == expected


def test_hashes_of_rows_depend_on_the_column_of_each_text() -> None:
    first, second = array(["ab", "a", "b", None, "", "a"]), array(["c", "bc", "a", "", None, "b"])
    assert len(set(hash_rows([first, second], 1).tolist())) == 6
