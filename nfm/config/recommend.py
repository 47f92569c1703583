"""Settings of the recommend job: users, candidates, and the rules of the lists."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from nfm.config.columns import Positive, Settings, changed
from nfm.config.ranking import Ranking
from nfm.config.source import Source

Share = Annotated[float, Field(ge=0, le=1)]


class RecommendGates(Settings):
    """Limits for publishing lists. Beyond one, nothing is published and the exit code is 4. `null`: no limit."""

    min_users: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[100_000])
    """Smallest number of users with a list."""
    min_coverage: Share | None = Field(default=None, examples=[0.1])
    """Smallest share of the candidates that are in at least one list."""
    max_popular_share: Share | None = Field(default=None, examples=[0.5])
    """Largest share of the recommended items that are among the most popular candidates: the 1 % with the most
    interactions, at least one."""
    min_overlap: Share | None = Field(default=None, examples=[0.2])
    """Smallest mean share of a user's items that were in the user's list of the last publication."""

    @property
    def limits(self) -> dict[str, float]:
        """The gates that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


class Recommend(Settings):
    """Settings of the recommend job, for `model.task: ranking`. It reads the model of `score.model`."""

    users: Source | None = None
    """Table of users, with the column `ranking.user` and, if the model has them, the columns that describe the user's
    situation (context), such as a device. Default: all users of `source` and `ranking.users`."""
    candidates: Source | None = None
    """Table of the items that lists may contain, with the column `ranking.item`. Default: all items of `source` and
    `ranking.items`."""
    segment: str | None = Field(default=None, examples=["country"])
    """Column of the table of users (`users`, or else `ranking.users`) and of `candidates`: a user gets only the
    candidates of the same segment."""
    exclude: tuple[Source, ...] = Field(default=(), examples=[[{"path": "returns"}]])
    """Tables with the columns `ranking.user` and `ranking.item`: these items are left out of the user's list, like all
    items of the user in `source`."""
    where: str | None = Field(default=None, examples=["in_stock"])
    """SQL condition on the table of `ranking.items`; other items are not candidates."""
    k: Positive = 20
    """Maximum length of a list."""
    max_per: dict[str, Positive] = Field(default={}, examples=[{"genres": 5}])
    """Maximum number of items of a list with the same value in a column of `ranking.items`, or with the same member of
    a bag."""
    output: str | None = Field(default=None, examples=["recommendations/ds={ds}"])
    """Folder of the lists; `workdir`/recommendations unless set. A name in braces gets its value from `--set`."""
    file_mb: Annotated[int, Field(ge=1)] = 128
    """Maximum size of an output file, approximately, in MB."""
    gates: Annotated[RecommendGates, BeforeValidator(lambda given: {} if given is None else given)] = RecommendGates()


def check_recommend(settings: Recommend, ranking: Ranking | None, task: str) -> None:
    """Raise ValueError if the settings do not fit each other or those of the ranking."""
    if ranking is None:
        if given := changed(settings):
            raise ValueError(
                f"recommend.{sorted(given)[0]}: the section recommend is only for model.task: ranking, but it is "
                f"{task}: remove it"
            )
        return
    if settings.segment is not None:
        if settings.candidates is None:
            raise ValueError("recommend.segment needs recommend.candidates, the table of each segment's items")
        if settings.users is None and ranking.users is None:
            raise ValueError(
                "recommend.segment needs a table of users with this column: set recommend.users or ranking.users"
            )
    needs: dict[str, Any] = {"where": settings.where, "max_per": settings.max_per}
    for name, value in needs.items():
        if value and ranking.items is None:
            raise ValueError(f"recommend.{name} reads the table of items: set ranking.items, or remove it")
