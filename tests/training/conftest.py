"""Specifications and rows for tests of the model, made without a table and without Spark; interrupted trainings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.contract.dataset import Inputs
from nfm.contract.schema import Bag, Field, Number, Placement, Spec
from tests.bins import random_bins, without_bins
from tests.training.interrupted import fail_after, train


def number(name: str, placement: Placement, missing_flag: bool = False) -> Number:
    """Return a number without a transformation."""
    return Number(name, name, placement, 0.0, missing_flag, None, "none", 0.0, 1.0)


@pytest.fixture(scope="session")
def mixed() -> Spec:
    """Three fields (one with three out-of-vocabulary ids), a number in the pooling with a flag, and two dense ones.

    A dense number has bins.
    """
    fields = (
        Field("a", ("a",), ("text",), 1, 3, "a"),
        Field("b", ("b",), ("number",), 3, 5, "b"),
        Field("c", ("c",), ("number",), 0, 4, None, (1.0, 2.0, 3.0)),
    )
    numbers = (number("x", "field", missing_flag=True), number("y", "dense"), number("z", "dense"))
    binned = replace(numbers[1], edges=(-1.0, 0.0, 2.0))
    return Spec(("k",), fields, (numbers[0], binned, numbers[2]), ())


@pytest.fixture(scope="session")
def categories() -> Spec:
    """Two fields, no numbers."""
    return Spec(("k",), (Field("a", ("a",), ("text",), 1, 3, "a"), Field("b", ("b",), ("text",), 1, 2, "b")), (), ())


@pytest.fixture(scope="session")
def bags() -> Spec:
    """Two bags with weights around a field, a number in the pooling and a dense one; a label of three classes.

    First rows of the table's blocks: tags 0, a 6, links 11, x 16; it has 17 rows, and padding has row 17.
    """
    fields = (
        Field("tags", ("tags",), ("text",), 2, 3, "tags", None, Bag("tags_w", ",", None)),
        Field("a", ("a",), ("text",), 1, 3, "a"),
        Field("links", ("links",), ("text",), 4, 0, None, None, Bag("links_w", ",", None)),  # hashed
    )
    classes = ("blue", "green", "red")
    return Spec(("k",), fields, (number("x", "field"), number("y", "dense")), (), classes=classes)


@pytest.fixture(scope="session")
def only_bags() -> Spec:
    """A single bag."""
    return Spec(("k",), (Field("tags", ("tags",), ("text",), 1, 4, "tags", None, Bag(None, ",", None)),), (), ())


def random_rows(spec: Spec, count: int, seed: int = 0) -> Inputs:
    """Draw rows from all ids of each field, with missing and out-of-vocabulary ones; bags have 0 to 5 members."""
    rng = np.random.default_rng(seed)
    single = [field for field in spec.fields if field.bag is None]
    ids_FB: list[NDArray[Any]] = [rng.integers(0, field.size, count) for field in single]
    values_BN = rng.normal(size=(count, len(spec.field_numbers))).astype(np.float32)
    dense_BD = rng.normal(size=(count, len(spec.dense))).astype(np.float32)
    members_of_rows: list[list[int]] = [[] for _ in range(count)]
    for field, offset in zip(spec.fields, spec.offsets, strict=True):
        if field.bag is not None:
            for members in members_of_rows:
                members += (offset + rng.integers(0, field.size, rng.integers(0, 6))).tolist()
    bag_rows = np.array([row for members in members_of_rows for row in members], np.int32)
    return without_bins(
        np.reshape(ids_FB, (len(single), count)).T.astype(np.int32),
        values_BN,
        dense_BD,
        bag_rows,
        rng.normal(0.5, 1, len(bag_rows)).astype(np.float32),
        np.cumsum([0, *(len(members) for members in members_of_rows)], dtype=np.int64),
    )._replace(**random_bins(spec, rng, count))


@pytest.fixture(scope="session")
def make_rows() -> Any:
    """Return `random_rows`."""
    return random_rows


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare small folds in several pieces, like large ones."""
    monkeypatch.setattr("nfm.training.data.batches.PIECE", 16)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "outcome.npz"
    train(None, path)
    return path


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Return the checkpoint folder of a training that failed after 23 steps, in its third epoch."""
    folder = tmp_path / "checkpoint"
    with pytest.raises(OSError, match="the disk failed"):
        train(folder, tmp_path / "never.npz", fail_after(23))
    return folder
