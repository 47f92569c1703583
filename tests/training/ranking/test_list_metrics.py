"""Metrics of top-K lists agree with their definitions in plain Python and with scikit-learn."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score

from nfm.training.ranking import metrics
from nfm.training.ranking.metrics import (
    Targets,
    by_activity,
    mean_intervals,
    measure_catalogue,
    measure_lists,
    paired_difference,
    summarize,
)

pytestmark = pytest.mark.unit

NAMES = ("hr", "recall", "ndcg", "map", "mrr")


def targets_of(sets: Sequence[Sequence[int]]) -> Targets:
    lengths = [len(items) for items in sets]
    items = [item for items in sets for item in sorted(items)]
    return Targets(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), np.array(items, np.int32))


def by_definition(ranked: Sequence[int], relevant: set[int], k: int) -> dict[str, float]:
    """Figures of one user, from the definitions in text books."""
    first = [item for item in ranked if item >= 0][:k]
    hits = [item for item in first if item in relevant]
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(first, 1) if item in relevant)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
    precisions = [
        len(relevant.intersection(first[:rank])) / rank for rank, item in enumerate(first, 1) if item in relevant
    ]
    reciprocals = [1 / rank for rank, item in enumerate(first, 1) if item in relevant]
    return {
        "hr": float(bool(hits)),
        "recall": len(hits) / len(relevant),
        "ndcg": gain / ideal,
        "map": sum(precisions) / min(k, len(relevant)),
        "mrr": max(reciprocals, default=0.0),
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.int32], list[list[int]], list[int], int]:
    """Lists with empty places, sets of targets, several K (some longer than the lists), and the catalogue's size."""
    items, users, width = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(0, 14))
    lists_UK = np.full((users, width), -1, np.int32)
    sets = []
    for user in range(users):
        ranked = draw(st.permutations(range(items)))[: draw(st.integers(0, width))]
        lists_UK[user, : len(ranked)] = ranked[:width]
        sets.append(draw(st.lists(st.integers(0, items - 1), min_size=1, unique=True)))
    ks = draw(st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True))
    return lists_UK, sets, ks, items


@given(cases())
def test_metrics_agree_with_the_definitions(case: tuple[NDArray[np.int32], list[list[int]], list[int], int]) -> None:
    lists_UK, sets, ks, _ = case
    figures = measure_lists(lists_UK, targets_of(sets), ks)
    assert list(figures) == [f"{name}@{k}" for k in ks for name in NAMES]
    for k in ks:
        for user, relevant in enumerate(sets):
            expected = by_definition(lists_UK[user].tolist(), set(relevant), k)
            found = {name: figures[f"{name}@{k}"][user] for name in NAMES}
            assert found == pytest.approx(expected, abs=1e-12)


def test_metrics_of_a_small_example() -> None:
    lists_UK = np.array([[7, 3, 5, 1], [2, 4, 6, 8], [9, -1, -1, -1]], np.int32)
    figures = measure_lists(lists_UK, targets_of([[3, 1, 100], [0], [9]]), [1, 2, 4])
    assert figures["hr@1"].tolist() == [0, 0, 1]
    assert figures["hr@2"].tolist() == [1, 0, 1]
    assert figures["recall@4"].tolist() == pytest.approx([2 / 3, 0, 1])
    assert figures["mrr@1"].tolist() == [0, 0, 1]
    assert figures["mrr@4"].tolist() == [0.5, 0, 1]
    assert figures["map@2"].tolist() == [0.25, 0, 1]  # precision 1/2 at rank 2, two possible hits
    assert figures["map@4"].tolist() == pytest.approx([(1 / 2 + 2 / 4) / 3, 0, 1])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert figures["ndcg@4"].tolist() == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 0, 1])


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_ndcg_agrees_with_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(5)
    scores = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)  # no ties: scikit-learn averages over them
    relevant = rng.random((40, 30)) < 0.2
    relevant[:, 0] = True
    targets = targets_of([np.flatnonzero(row).tolist() for row in relevant])
    ndcg = measure_lists(np.argsort(-scores, axis=1).astype(np.int32), targets, [k])[f"ndcg@{k}"]
    assert ndcg.mean() == pytest.approx(ndcg_score(relevant.astype(float), scores, k=k), abs=1e-12)


def test_perfect_lists_have_the_figure_one() -> None:
    figures = measure_lists(np.array([[4, 2, 0, -1]], np.int32), targets_of([[0, 2, 4]]), [2, 3, 10])
    assert figures.pop("recall@2").tolist() == [pytest.approx(2 / 3)]
    assert figures.pop("mrr@2").tolist() == [1]
    assert all(values.tolist() == [pytest.approx(1)] for values in figures.values())


def test_inputs_that_do_not_fit_are_refused() -> None:
    lists_UK = np.zeros((2, 3), np.int32)
    with pytest.raises(ValueError, match="targets of 1 users"):
        measure_lists(lists_UK, targets_of([[0]]), [1])
    with pytest.raises(ValueError, match="without a relevant item"):
        measure_lists(lists_UK, targets_of([[0], []]), [1])
    for ks in ([], [0]):
        with pytest.raises(ValueError, match="K must be positive"):
            measure_lists(lists_UK, targets_of([[0], [1]]), ks)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("users", [1, 30, 943, 5000])
def test_bootstrap_limits_agree_with_the_normal_formula(users: int) -> None:
    rng = np.random.default_rng(3)
    values_UM = np.stack([rng.random(users), rng.random(users) < 0.3], axis=1)
    for column, interval in enumerate(mean_intervals(values_UM, 1)):
        values = values_UM[:, column]
        error = values.std() / math.sqrt(users)
        assert interval.mean == pytest.approx(values.mean())
        # The percentile 2.5 of 1,000 means varies by about 0.085 standard errors; a mean of 30 users is not yet normal.
        assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.35 * error + 1e-12)
        assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.35 * error + 1e-12)


def test_intervals_contain_the_true_mean_in_95_of_100_samples() -> None:
    rng = np.random.default_rng(8)
    samples_UM = rng.exponential(size=(200, 400))  # a column is a sample of 200 users; the true mean is 1
    covered = sum(interval.low <= 1 <= interval.high for interval in mean_intervals(samples_UM))
    assert 0.91 <= covered / 400 <= 0.98


def test_a_resample_draws_all_users_with_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    values_UM = np.eye(4)
    means_RM = metrics._resampled_means(values_UM, 5)
    assert means_RM.shape == (1000, 4)
    assert means_RM.sum(axis=1) == pytest.approx(np.ones(1000))
    assert len(np.unique(means_RM, axis=0)) > 25  # of the 35 ways to draw 4 users
    monkeypatch.setattr(metrics, "_CELLS", 28)
    assert (metrics._resampled_means(values_UM, 5) == means_RM).all()  # whatever the size of the blocks


def test_intervals_of_many_users_are_those_of_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values_U1 = np.random.default_rng(2).random((3000, 1))
    bootstrap = mean_intervals(values_U1)[0]
    monkeypatch.setattr(metrics, "MANY_USERS", 2999)
    error = values_U1.std() / math.sqrt(3000)
    assert mean_intervals(values_U1)[0] == pytest.approx(bootstrap, abs=0.3 * error)


def test_summaries_repeat_with_a_seed() -> None:
    figures = {"hr@1": np.array([0.0, 1, 1, 0]), "mrr@1": np.array([0.5, 0.5, 0.5, 0.5])}
    summary = summarize(figures, seed=4)
    assert summary == summarize(figures, seed=4)
    assert list(summary) == ["hr@1", "mrr@1"]
    assert summary["mrr@1"] == (0.5, 0.5, 0.5)
    assert summary["hr@1"].low < summary["hr@1"].mean == 0.5 < summary["hr@1"].high
    assert summarize({}) == {}
    assert np.isnan(summarize({"hr@1": np.array([])})["hr@1"]).all()


def test_paired_differences_ignore_what_users_have_in_common() -> None:
    rng = np.random.default_rng(6)
    common = rng.random(500) * 100
    difference = paired_difference(common + 0.5 + rng.random(500) * 0.1, common)
    assert 0.54 < difference.low < difference.mean < difference.high < 0.56


def test_bins_of_activity_divide_the_users() -> None:
    activity_U = np.array([1, 1, 1, 1, 2, 3, 4, 9, 9, 50])
    values_U = np.arange(10.0)
    bins = by_activity(values_U, activity_U, 4)
    assert [(part.first, part.last, part.users, part.figure.mean) for part in bins] == [
        (1, 1, 4, 1.5),
        (2, 2, 1, 4.0),
        (3, 9, 4, 6.5),
        (50, 50, 1, 9.0),
    ]
    assert by_activity(np.array([]), np.array([], int), 4) == []


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 12))
def test_each_user_is_in_one_bin(activity: list[int], bins: int) -> None:
    parts = by_activity(np.ones(len(activity)), np.array(activity), bins)
    assert 1 <= len(parts) <= bins
    assert sum(part.users for part in parts) == len(activity)
    for part in parts:
        assert part.users == sum(part.first <= number <= part.last for number in activity)


def test_coverage_and_novelty_of_a_small_example() -> None:
    counts_I = np.array([8, 4, 3, 1, 0])
    figures = measure_catalogue(np.array([[0, 1], [0, 4], [3, -1]], np.int32), counts_I, [1, 2, 9])
    assert figures["coverage@1"] == pytest.approx(2 / 5)
    assert figures["coverage@2"] == figures["coverage@9"] == pytest.approx(4 / 5)
    assert figures["novelty@1"] == pytest.approx((1 + 1 + 4) / 3)
    assert figures["novelty@2"] == pytest.approx((1 + 2 + 1 + 4 + 4) / 5)  # item 4 counts as one with one interaction
    assert math.isnan(measure_catalogue(np.full((2, 3), -1, np.int32), counts_I, [2])["novelty@2"])


@given(cases(), st.integers(0, 100))
def test_coverage_and_novelty_agree_with_the_definitions(
    case: tuple[NDArray[np.int32], list[list[int]], list[int], int], seed: int
) -> None:
    lists_UK, _, ks, items = case
    counts = np.random.default_rng(seed).integers(0, 9, items)
    figures = measure_catalogue(lists_UK, counts, ks)
    for k in ks:
        shown = [item for row in lists_UK.tolist() for item in row[:k] if item >= 0]
        assert figures[f"coverage@{k}"] == pytest.approx(len(set(shown)) / items)
        if shown:
            bits = [-math.log2(max(1, counts[item]) / max(1, sum(counts))) for item in shown]
            assert figures[f"novelty@{k}"] == pytest.approx(sum(bits) / len(bits))
