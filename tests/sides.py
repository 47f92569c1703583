"""A ranking model with every kind of input on both sides, and random rows, for tests."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.artifact import Network
from nfm.contract.dataset import Inputs, arrange_inputs
from nfm.contract.schema import Bag, Field, Number, Spec, bin_name, fraction_name, weights_name
from nfm.forward.pairs import PairScorer
from nfm.forward.sides import Side, select_side, sum_side
from tests.bins import random_bins

Columns = dict[str, Any]
USER_NAMES = ("device", "history", "user", "karma", "income", "age")
ITEM_NAMES = ("tags", "item", "genres", "price", "year", "stock")


def make_spec() -> Spec:
    """Return a spec whose fields and numbers of both sides alternate."""
    bag = Bag(None, ",", None)
    fields = (
        Field("tags", ("tags",), ("text",), 1, 4, "tags", bag=bag),
        Field("device", ("device",), ("text",), 2, 3, "device"),
        Field("item", ("item",), ("text",), 2, 9, "item"),
        Field("history", ("history",), ("text",), 2, 9, "item", bag=bag),
        Field("user", ("user",), ("text",), 3, 7, "user"),
        Field("genres", ("genres",), ("text",), 0, 5, "genres", bag=bag),
    )
    edges = (1.0, 2.0, 4.0)
    numbers = (
        Number("price", "price", "field", 0.0, True, None, "none", 0.0, 1.0),
        Number("karma", "karma", "field", 0.0, False, None, "none", 0.0, 1.0, edges),
        Number("income", "income", "dense", 0.0, True, None, "none", 0.0, 1.0),
        Number("year", "year", "dense", 0.0, False, None, "none", 0.0, 1.0, (0.0, 1.0)),
        Number("age", "age", "dense", 0.0, False, None, "none", 0.0, 1.0, edges),
        Number("stock", "stock", "dense", 0.0, True, None, "none", 0.0, 1.0),
    )
    return Spec(("id",), fields, numbers, ("0", "1", "2", "3", "4"))


def make_weights(spec: Spec, network: Network, seed: int = 1, scale: float = 0.15) -> dict[str, NDArray[Any]]:
    """Return random weights of about the size that training gives them."""
    random = np.random.default_rng(seed)
    shapes = network.weight_shapes(spec)
    return {name: random.normal(scale=scale, size=shape).astype(network.dtype(name)) for name, shape in shapes.items()}


def make_columns(side: Spec, count: int, seed: int) -> Columns:
    """Return random encoded columns: missing, out-of-vocabulary and known ids, and bags of 0 to 6 members."""
    random = np.random.default_rng(seed)
    columns: Columns = {}
    for field in side.fields:
        if field.bag is None:
            columns[field.name] = random.integers(0, field.size, count).astype(np.int32)
        else:
            splits = np.concatenate([[0], np.cumsum(random.integers(0, 7, count))]).astype(np.int32)
            ids = random.integers(0, field.size, splits[-1]).astype(np.int32)
            x = random.choice(np.array([1.0, 0.5, 0.3], np.float32), splits[-1])
            columns[field.name] = pa.ListArray.from_arrays(splits, pa.array(ids))
            columns[weights_name(field.name)] = pa.ListArray.from_arrays(splits, pa.array(x))
    for name in (*side.field_numbers, *side.dense):
        columns[name] = random.normal(size=count).astype(np.float32)
    bins = random_bins(side, random, count)
    for q, number in enumerate(side.binned):
        columns[bin_name(number.name)] = bins["bins_BQ"][:, q]
        columns[fraction_name(number.name)] = bins["fractions_BQ"][:, q]
    return columns


def take(columns: Columns, rows: Any) -> Columns:
    """Return some rows of encoded columns."""
    return {
        name: column.take(pa.array(rows)) if isinstance(column, pa.Array) else column[rows]
        for name, column in columns.items()
    }


class Ranking(NamedTuple):
    """A model with users and items."""

    spec: Spec
    network: Network
    weights: dict[str, NDArray[Any]]
    user_columns: Columns
    item_columns: Columns
    users: Side
    scorer: PairScorer

    def join(self, users: Any, items: Any) -> Inputs:
        """Return the rows of pairs."""
        return arrange_inputs(self.spec, take(self.user_columns, users) | take(self.item_columns, items))


def make_ranking(network: Network, users: int, items: int, seed: int = 1) -> Ranking:
    """Return a random model with random users and items."""
    spec = make_spec()
    weights = make_weights(spec, network, seed)
    user_side, item_side = select_side(spec, USER_NAMES), select_side(spec, ITEM_NAMES)
    user_columns, item_columns = make_columns(user_side, users, seed + 1), make_columns(item_side, items, seed + 2)
    user_sums, item_sums = (
        sum_side(spec, network, weights, side, arrange_inputs(side, columns))
        for side, columns in ((user_side, user_columns), (item_side, item_columns))
    )
    scorer = PairScorer(spec, network, weights, user_side, item_side, item_sums)
    return Ranking(spec, network, weights, user_columns, item_columns, user_sums, scorer)
