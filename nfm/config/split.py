"""Settings of the folds and of the dataset."""

from datetime import date, datetime
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, model_validator

from nfm.config.columns import Fraction, Settings, changed


def _moment(value: Any) -> str | int | None:
    """Return the first moment of a fold as it was written: YAML reads 2026-10-01 as a date."""
    if isinstance(value, date):  # a datetime too
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise ValueError(f"{value!r} given; allowed: a date, a time, a string or an integer")
    return value


class Split(Settings):
    """Rule that assigns rows to the train, valid and test folds: by a hash of key columns, by time, or by a column.
    With a hash, a row keeps its fold for every order and partitioning of the table, and when rows are added."""

    by: tuple[str, ...] = ()
    """By hash: columns to hash; columns.key unless set."""
    valid: Fraction = 0.1
    """By hash: fraction of the rows in the valid fold."""
    test: Fraction = 0.2
    """By hash: fraction of the rows in the test fold."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """By hash: another seed gives another split."""
    time: str | None = None
    """By time: column with a date, a timestamp, or strings or integers that sort by time."""
    valid_from: Annotated[str | int | None, PlainValidator(_moment)] = Field(default=None, examples=["2026-10-01"])
    """By time: first moment of the valid fold; earlier rows are the train fold."""
    test_from: Annotated[str | int | None, PlainValidator(_moment)] = Field(default=None, examples=["2026-11-01"])
    """By time: first moment of the test fold."""
    column: str | None = None
    """By column: column that contains `train`, `valid` or `test`."""
    negative_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Binary: fraction of the train fold's rows with label 0 that is kept. The encoding records it, and the scores are
    corrected for it."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {
            "by, valid, test": {"by", "valid", "test"},
            "time, valid_from, test_from": {"time", "valid_from", "test_from"},
            "column": {"column"},
        }
        given = changed(self)
        used = [name for name, keys in ways.items() if keys & given]
        if len(used) > 1 and (self.time is not None or self.column is not None):
            raise ValueError(f"rows can be split in one way only, but several are set: {'; '.join(used)}")
        if self.time is None and {"valid_from", "test_from"} & given:
            raise ValueError("valid_from and test_from need time, the name of the time column")
        if self.time is not None and self.valid_from is None and self.test_from is None:
            raise ValueError("a split by time needs valid_from, test_from or both")
        if self.valid_from is not None and self.test_from is not None:
            if type(self.valid_from) is not type(self.test_from):
                raise ValueError("valid_from and test_from have different types: write both in the same form")
            if self.valid_from > self.test_from:  # type: ignore[operator]
                raise ValueError("test_from is before valid_from: the order of the folds is train, valid, test")
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test is {self.valid + self.test:g}, which leaves no rows for training")
        return self

    @property
    def has_valid(self) -> bool:
        """The settings define a valid fold."""
        return self.column is not None or (self.valid_from is not None if self.time is not None else self.valid > 0)


class Dataset(Settings):
    """How the encoded rows are stored."""

    partition_by: tuple[str, ...] = Field(default=(), examples=[["country"]])
    """Raw columns; each fold has one folder for each of their values."""
