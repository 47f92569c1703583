"""Alias tables and the numbers behind the draws, against exact integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.kernels import sampling

WORD = st.integers(0, 2**64 - 1)


def test_hashes_are_those_of_splitmix64() -> None:
    # The first outputs for the seed 1234567, from the reference implementation.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(sampling._hash(np.uint64(1234567), number)) for number in range(4)] == expected


@given(WORD, st.integers(1, 2**31))
def test_bounded_numbers_are_the_high_word_of_the_product(word: int, count: int) -> None:
    assert sampling._below(np.uint64(word), count) == (word * count) >> 64


@given(st.integers(1, 40), st.data())
def test_the_items_that_are_not_in_a_list_are_found_by_rank(items: int, data: st.DataObject) -> None:
    seen = sorted(data.draw(st.sets(st.integers(0, items - 1))))
    padded = np.array([7, *seen, 0], np.int32)  # a user's list is a part of a longer array
    unseen = [item for item in range(items) if item not in seen]
    assert [sampling._find_unseen(padded, 1, 1 + len(seen), rank) for rank in range(len(unseen))] == unseen
    assert [item for item in range(items) if sampling._has(padded, 1, 1 + len(seen), item)] == seen


def marginals(thresholds_I: np.ndarray, aliases_I: np.ndarray) -> list[float]:
    """Return the probability of each item, from exact integers."""
    exact = [int(threshold) for threshold in thresholds_I]
    for threshold, alias in zip(thresholds_I, aliases_I, strict=True):
        exact[alias] += 2**64 - int(threshold)
    assert sum(exact) == len(exact) * 2**64
    return [number / (len(exact) * 2**64) for number in exact]


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.floats(0.5, 2)), min_size=1, max_size=60))
def test_an_alias_table_has_the_probabilities_of_the_weights(weights: list[float]) -> None:
    weights_I = np.array(weights)
    if not weights_I.any():
        weights_I[0] = 1
    thresholds_I, aliases_I = np.zeros(len(weights), np.uint64), np.zeros(len(weights), np.int32)
    sampling.fill_alias_table(weights_I, thresholds_I, aliases_I)
    actual = marginals(thresholds_I, aliases_I)
    np.testing.assert_allclose(actual, weights_I / weights_I.sum(), rtol=1e-9, atol=1e-13)
    assert [p for p, weight in zip(actual, weights_I, strict=True) if weight == 0 and p > 0] == []


@pytest.mark.parametrize("exponent", [0.0, 0.75, 3.0])
def test_an_alias_table_of_a_large_catalogue_has_the_probabilities_of_the_weights(exponent: float) -> None:
    weights_I = np.arange(1, 100_001) ** -exponent
    weights_I[::7] = 0
    np.random.default_rng(1).shuffle(weights_I)
    thresholds_I, aliases_I = np.zeros(100_000, np.uint64), np.zeros(100_000, np.int32)
    sampling.fill_alias_table(weights_I, thresholds_I, aliases_I)
    actual = np.array(marginals(thresholds_I, aliases_I))
    np.testing.assert_allclose(actual, weights_I / weights_I.sum(), rtol=1e-9, atol=1e-13)
    assert not actual[weights_I == 0].any()
