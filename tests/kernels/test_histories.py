"""Histories equal a plain search: earlier interactions of the same user with other items, the latest first."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nfm.kernels.histories import find_histories

Row = tuple[int, int]  # time, item

# Few times and items, so that both repeat.
USERS = st.lists(st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4)), max_size=12).map(sorted), max_size=4)


def find(users: list[list[Row]], most: int, same_time: bool) -> list[list[int]]:
    """Return the places that the loop finds for each interaction."""
    starts_U1 = np.cumsum([0, *map(len, users)]).astype(np.int64)
    rows = np.array([row for user in users for row in user], np.int64).reshape(-1, 2)
    places, splits = find_histories(starts_U1, rows[:, 0].copy(), rows[:, 1].astype(np.int32), most, same_time)
    assert len(splits) == len(rows) + 1
    assert splits[0] == 0
    assert splits[-1] == len(places)
    return [places[start:stop].tolist() for start, stop in pairwise(splits)]


def search(users: list[list[Row]], most: int, same_time: bool) -> list[list[int]]:
    found, start = [], 0
    for user in users:
        for n, (time, item) in enumerate(user):
            earlier = [
                m for m, (t, other) in enumerate(user[:n]) if other != item and (t < time or (same_time and t == time))
            ]
            found.append([start + m for m in reversed(earlier)][:most])
        start += len(user)
    return found


@given(USERS, st.integers(1, 5), st.booleans())
def test_histories_equal_a_plain_search(users: list[list[Row]], most: int, same_time: bool) -> None:
    assert find(users, most, same_time) == search(users, most, same_time)


@given(USERS, st.integers(1, 5), st.booleans())
def test_a_history_has_only_earlier_other_items_of_the_user(users: list[list[Row]], most: int, same_time: bool) -> None:
    rows = [(u, *row) for u, user in enumerate(users) for row in user]
    for n, history in enumerate(find(users, most, same_time)):
        user, time, item = rows[n]
        assert len(history) <= most
        assert history == sorted(history, reverse=True)
        for place in history:
            assert place < n
            assert rows[place][0] == user
            assert rows[place][2] != item
            assert rows[place][1] <= time if same_time else rows[place][1] < time


def test_one_user_by_hand() -> None:
    user = [(1, 7), (2, 3), (2, 7), (2, 9), (5, 3)]
    assert find([user], 2, True) == [[], [0], [1], [2, 1], [3, 2]]
    assert find([user], 2, False) == [[], [0], [], [0], [3, 2]]
    assert find([user], 9, True) == [[], [0], [1], [2, 1, 0], [3, 2, 0]]


def test_more_histories_than_fit_at_first() -> None:
    # 80 · 79 / 2 = 3160 members: the array, which begins with 1024, grows twice.
    user = [(time, time) for time in range(80)]
    assert find([user, user], 80, True) == search([user, user], 80, True)


def test_no_interactions() -> None:
    assert find([], 3, True) == []
    assert find([[], []], 3, False) == []
