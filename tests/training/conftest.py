"""Specifications and rows for the model's tests; no table and no Spark behind them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nfm.contract.encoder import Inputs
from nfm.contract.schema import Field, Number, Placement, Spec


def number(name: str, placement: Placement, missing_flag: bool = False) -> Number:
    """A number that is taken as it is."""
    return Number(name, name, placement, 0.0, missing_flag, None, False, 0.0, 1.0)


@pytest.fixture(scope="session")
def mixed() -> Spec:
    """Three fields (one with three out-of-vocabulary ids), a number in the pooling with a flag, and two dense ones."""
    fields = (
        Field("a", ("a",), ("text",), 1, 3, "a"),
        Field("b", ("b",), ("number",), 3, 5, "b"),
        Field("c", ("c",), ("number",), 0, 4, None, (1.0, 2.0, 3.0)),
    )
    numbers = (number("x", "field", missing_flag=True), number("y", "dense"), number("z", "dense"))
    return Spec(("k",), fields, numbers, ())


@pytest.fixture(scope="session")
def categories() -> Spec:
    """Two fields, no numbers."""
    return Spec(("k",), (Field("a", ("a",), ("text",), 1, 3, "a"), Field("b", ("b",), ("text",), 1, 2, "b")), (), ())


def random_rows(spec: Spec, count: int, seed: int = 0) -> Inputs:
    """Rows over every id of every field, missing and out-of-vocabulary among them."""
    rng = np.random.default_rng(seed)
    ids: list[NDArray[Any]] = [rng.integers(0, field.size, count) for field in spec.fields]
    return Inputs(
        np.stack(ids, axis=1).astype(np.int32),
        rng.normal(size=(count, len(spec.field_numbers))).astype(np.float32),
        rng.normal(size=(count, len(spec.dense))).astype(np.float32),
    )


@pytest.fixture(scope="session")
def make_rows() -> Any:
    """`random_rows`, for tests."""
    return random_rows
