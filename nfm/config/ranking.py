"""Settings of the ranking task: the columns of users and items, the training's pairs, and the lists."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from nfm.config.columns import Categorical, Columns, Numeric, Positive, Settings, Uncounted, changed, fill_defaults
from nfm.config.source import Source
from nfm.contract.dataset import HISTORY, HISTORY_WEIGHTS, SEQUENCE


class SideTable(Settings):
    """A table with a row for each user or item, and the inputs that the model takes from it."""

    source: Source
    """The table; it has a column of the same name as `ranking.user` or `ranking.item`."""
    categorical: dict[str, Categorical] = Field(default={}, examples=["genres"])
    """Fields by name, as in columns.categorical."""
    numeric: dict[str, Numeric] = Field(default={}, examples=["price"])
    """Numbers by name, as in columns.numeric."""

    @model_validator(mode="before")
    @classmethod
    def _empty_settings(cls, data: Any) -> Any:
        return fill_defaults(data)


class History(Settings):
    """The user's latest items before an interaction: a bag that shares the vocabulary of the item's field."""

    items: Positive = 20
    """Maximum number of items."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The latest item has the weight 1, the one before this number, then its square, and so on."""
    same_time: bool = True
    """Interactions at the same time are ordered by item, as for split.last, and the first ones are in the history of
    the others. `false`: they are not, which suits times that are days: tonight, the items of a day are not known."""


class Ranking(Settings):
    """Ranking (`model.task: ranking`): learn from interactions of users and items to order items for each user."""

    user: str = Field(examples=["user_id"])
    """Column of the user in `source`."""
    item: str = Field(examples=["item_id"])
    """Column of the item in `source`. A field of columns.categorical reads it."""
    time: str | None = Field(default=None, examples=["ts"])
    """Column of the time of an interaction, as for split.time. `history` needs it."""
    users: SideTable | None = Field(default=None, examples=[{"source": {"path": "users"}}])
    """Table of users, joined by `user`."""
    items: SideTable | None = Field(default=None, examples=[{"source": {"path": "items"}}])
    """Table of items, joined by `item`. Its items belong to the catalogue, even without interactions."""
    history: History | None = Field(default=None, examples=[History()])
    """Add the field `history`: the latest items of the user, before the time of the interaction."""
    loss: Literal["bpr", "logistic", "softmax"] = "softmax"
    """`bpr`: -log σ(score of the item - score of a negative) (Rendle et al. 2009). `logistic`: log loss of the item as
    1 and the negatives as 0. `softmax`: cross-entropy of the item among its negatives, corrected for the sampler's
    probabilities."""
    negatives: Positive = 50
    """Items that are drawn for each interaction in each epoch, of those without an interaction of the user in the train
    fold. With the softmax over a batch (`sampler: batch`, no hidden layers, no batch norm), these are all items of the
    batch."""
    hardest: bool = False
    """For bpr: use only the negative with the highest score."""
    sampler: Literal["uniform", "popularity", "batch"] = "batch"
    """Probability of an item as a negative. `uniform`: equal. `popularity`: proportional to its number of interactions
    to the power `alpha`. `batch`: that of an item of another row of the batch."""
    alpha: Annotated[float, Field(ge=0, le=2)] = 0.75
    """For `sampler: popularity`: the power."""
    k: Annotated[tuple[Positive, ...], Field(min_length=1)] = (5, 10, 20)
    """Lengths of lists for which metrics are computed."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.user == self.item:
            raise ValueError(f"user and item are both {self.user!r}: they are two columns of the interactions")
        if self.history is not None and self.time is None:
            raise ValueError("history needs time, the column with the time of an interaction")
        if self.hardest and self.loss != "bpr":
            raise ValueError(f"hardest is only for loss: bpr, but it is {self.loss}: remove it")
        if "alpha" in changed(self) and self.sampler != "popularity":
            raise ValueError(f"alpha is only for sampler: popularity, but it is {self.sampler}: remove it")
        if len(set(self.k)) < len(self.k):
            raise ValueError(f"k: {list(self.k)} given; name each length once")
        return self

    @property
    def tables(self) -> dict[str, SideTable]:
        """The tables of users and items that are set, by the column of `source` that joins them."""
        return {key: table for key, table in ((self.user, self.users), (self.item, self.items)) if table is not None}

    @property
    def of_dataset(self) -> dict[str, Any]:
        """Settings that determine a dataset."""
        sides = {"categorical", "numeric"}
        include: Any = {"user": True, "item": True, "time": True, "history": True, "users": sides, "items": sides}
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=include)

    @property
    def monitors(self) -> tuple[str, ...]:
        """The metrics that early stopping may watch."""
        return tuple(f"{name}@{k}" for k in self.k for name in ("ndcg", "hr", "recall", "map", "mrr"))


def default_monitor(k: tuple[int, ...]) -> str:
    """Return the metric that early stopping watches unless one is set: NDCG at 10, or at the first of `k`."""
    return f"val_ndcg@{10 if 10 in k else k[0]}"


def item_inputs(ranking: Ranking, columns: Columns) -> tuple[str, ...]:
    """Return the names of the fields and numbers that describe the item; all other inputs describe the user's side."""
    of_table = (*ranking.items.categorical, *ranking.items.numeric) if ranking.items else ()
    return (*list_item_fields(ranking, columns), *of_table)


def list_item_fields(ranking: Ranking, columns: Columns) -> list[str]:
    """Return the fields of columns.categorical that read only the item's column."""
    return [n for n, s in columns.categorical.items() if set(s.columns(n)) == {ranking.item} and not s.bag]


def join_columns(ranking: Ranking, columns: Columns) -> Columns:
    """Return the columns of the joined table: of the interactions, the users, the items and the history.

    The key is followed by SEQUENCE. Raises ValueError if two inputs or raw columns have the same name.
    """
    tables = {"columns": columns, **{f"ranking.{name}": getattr(ranking, name) for name in ("users", "items")}}
    owners: dict[str, str] = {}
    for where, table in tables.items():
        for name in (*table.categorical, *table.numeric) if table else ():
            if (other := owners.setdefault(name.lower(), where)) != where:
                raise ValueError(f"{name!r} is in both {other} and {where}: rename one, and set `column:`")
    categorical = {name: s for table in tables.values() if table for name, s in table.categorical.items()}
    if ranking.history is not None:
        if HISTORY in owners:
            raise ValueError(f"ranking.history adds a field {HISTORY!r}, but there is one already: rename it")
        field = list_item_fields(ranking, columns)[0]
        categorical[HISTORY] = Uncounted(bag=True, weights=HISTORY_WEIGHTS, share_with=field)
    numeric = {name: s for table in tables.values() if table for name, s in table.numeric.items()}
    return columns.model_copy(update={"key": (*columns.key, SEQUENCE), "categorical": categorical, "numeric": numeric})


def check_ranking(ranking: Ranking, columns: Columns, split: Any) -> None:
    """Raise ValueError if the settings of the ranking do not fit those of the columns and the split."""
    if columns.label is not None:
        raise ValueError(
            f"columns.label: {columns.label!r} given, but a ranking has no label: each row of source is an "
            "interaction. Remove it; leave rows out with source.where, or give them weights with columns.weight"
        )
    for key, column in (("user", ranking.user), ("item", ranking.item)):
        if column not in columns.key:
            raise ValueError(f"columns.key: {list(columns.key)} given; it must contain ranking.{key} ({column!r})")
    if not list_item_fields(ranking, columns):
        raise ValueError(
            f"ranking.item: no field of columns.categorical reads the column {ranking.item!r}: add one, such as "
            f"{ranking.item}: {{}}"
        )
    for name, settings in columns.categorical.items():
        read = settings.columns(name)
        if ranking.item in read and (len(read) > 1 or settings.bag):
            raise ValueError(
                f"columns.categorical.{name}: it joins the item with other columns, but an input belongs either to the "
                "item or to the user: remove it, or put it in the table of ranking.items"
            )
    if ranking.item in [s.column or n for n, s in columns.numeric.items()]:
        raise ValueError(f"columns.numeric: the item's column {ranking.item!r} must be a field: remove the number")
    joined = join_columns(ranking, columns)
    Columns.model_validate(_plain(joined))  # the same checks as for the columns of one table
    _check_split(ranking, split)


def _plain(columns: Columns) -> Mapping[str, Any]:
    return {name: getattr(columns, name) for name in columns.model_fields_set | {"categorical", "numeric"}}


def _check_split(ranking: Ranking, split: Any) -> None:
    if split.last is not None and ranking.time is not None and split.time != ranking.time:
        raise ValueError(
            f"split.time: {split.time!r} given, but ranking.time is {ranking.time!r}: the interactions of a user have "
            "one order: name the same column"
        )
    if split.last is not None and split.by not in ((), (ranking.user,)):
        raise ValueError(
            f"split.by: {list(split.by)} given; split.last takes the last interactions of each user: set by: "
            f"[{ranking.user}], or remove it"
        )
