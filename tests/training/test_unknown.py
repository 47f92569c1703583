"""Shares of ids that training replaces with out-of-vocabulary ids."""

import numpy as np

from nfm.contract.dataset import Inputs
from nfm.contract.schema import Bag, Field, Spec
from nfm.training.data.batches import Rows
from nfm.training.data.unknown import compute_shares
from tests.bins import without_bins
from tests.training.examples import fold_in_memory

SPEC = Spec(
    ("k",),
    (
        Field("a", ("a",), ("text",), 1, 5, "a"),
        Field("tags", ("tags",), ("text",), 1, 4, "tags", bag=Bag(None, ",", None)),
        Field("b", ("b",), ("text",), 1, 4, "b"),
    ),
    (),
    (),
)


def inputs_of(ids: list[list[int]], bags: list[list[int]]) -> Inputs:
    none = np.empty((len(ids), 0), np.float32)
    members = np.array([SPEC.offsets[1] + member for bag in bags for member in bag], np.int32)
    splits = np.cumsum([0, *map(len, bags)])
    return without_bins(np.array(ids, np.int32), none, none, members, np.ones(len(members), np.float32), splits)


def test_shares_depend_on_the_number_of_train_rows() -> None:
    # a: id 2 has one row, 3 has three, 0 (missing) one; tags: 2 occurs three times, 3 once; b: 3 has all five rows.
    inputs = inputs_of([[2, 3], [3, 3], [3, 3], [3, 3], [0, 3]], [[2, 2], [3], [], [2], []])
    label = np.zeros(5, np.float32)
    fold = fold_in_memory(SPEC, Rows(inputs, label, label + 1, None))
    shares = compute_shares(SPEC, 0.4, fold)
    assert shares is not None
    expected = [3 / 4, 1, 3 / 4, 1 / 2, 1, 1, 1], [1, 1, 1 / 2, 3 / 4, 1, 1], [1, 1, 1, 0.4, 1, 1]  # 3 / 8 < 0.4
    np.testing.assert_allclose(shares, [share for field in expected for share in field], rtol=1e-6)
    assert compute_shares(SPEC, 0.0, fold) is None
