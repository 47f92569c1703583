"""Settings of the folds and of the dataset."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, model_validator

from nfm.config.columns import Fraction, Settings, changed

_BY_TIME = {"time", "format", "valid_from", "test_from"}
_DIRECTIVES = "YymdbBjHIMSfzpaA%"  # of strptime; the others are ignored by Python, or depend on the machine


def _moment(value: Any) -> str | int | None:
    """Return the first moment of a fold as it was written: YAML reads 2026-10-01 as a date."""
    if isinstance(value, date):  # a datetime too
        return value.isoformat(" ") if isinstance(value, datetime) else value.isoformat()
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{value!r} given; allowed: an ISO date or time such as 2026-10-31 or 2026-10-31 12:00, or an integer"
        ) from None
    return value  # type: ignore[no-any-return]


def _time_format(value: Any) -> str | None:
    """Check that a format has only directives that Python can parse, and determines the time up to its last unit."""
    if value is None:
        return None
    used = re.findall(r"%(.?)", value) if isinstance(value, str) else []
    if not used or any(not directive or directive not in _DIRECTIVES for directive in used):
        allowed = " ".join(f"%{directive}" for directive in _DIRECTIVES)
        raise ValueError(f"{value!r} given; allowed: a string such as '%m/%d/%Y' with Python's directives {allowed}")
    sample = datetime(2001, 12, 30, 23, 58, 59, tzinfo=UTC)
    parts = sample.timetuple()[:6]
    found = datetime.strptime(sample.strftime(value), value).timetuple()[:6]
    complete = [parts[:n] + (1, 1, 1, 0, 0, 0)[n:] for n in range(1, 7)]
    if found not in complete:
        raise ValueError(
            f"{value!r} given, which does not determine a time: it needs a year, each smaller unit only with the "
            "larger ones, and %p with %I"
        )
    return value  # type: ignore[no-any-return]


def _comparable(moment: str | int) -> Any:
    if isinstance(moment, int):
        return moment
    time = datetime.fromisoformat(moment)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


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
    last: Annotated[int, Field(ge=1)] | None = Field(default=None, examples=[1])
    """For ranking: number of each user's last interactions, by `time` and then by item, in the test fold; as many
    before them are the valid fold. A user's first interaction is always in the train fold."""
    time: str | None = None
    """By time: column with a date, a timestamp, integers that sort by time, or strings: ISO 8601, or with `format`."""
    format: Annotated[str | None, PlainValidator(_time_format)] = Field(default=None, examples=["%m/%d/%Y"])
    """By time: form of the strings or integers in the time column, as in Python's `strptime`: `%m/%d/%Y` for
    07/24/2024, `%Y%m%d` for 20240724. A two-digit year (`%y`) is one of 1969 to 2068."""
    valid_from: Annotated[str | int | None, PlainValidator(_moment)] = Field(default=None, examples=["2026-10-01"])
    """By time: first moment of the valid fold, an ISO date or time (in UTC, unless it has an offset) or an integer;
    earlier rows are the train fold."""
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
            "by, valid, test": {"valid", "test"} if self.last else {"by", "valid", "test"},
            "time, valid_from, test_from": {"valid_from", "test_from"} if self.last else _BY_TIME,
            "last": {"last"},
            "column": {"column"},
        }
        given = changed(self)
        used = [name for name, keys in ways.items() if keys & given]
        if len(used) > 1 and (self.time is not None or self.column is not None or self.last is not None):
            raise ValueError(f"rows can be split in one way only, but several are set: {'; '.join(used)}")
        if self.time is None and {"valid_from", "test_from"} & given:
            raise ValueError("valid_from and test_from need time, the name of the time column")
        if self.time is None and self.format is not None:
            raise ValueError("format needs time, the name of the time column")
        if self.last is not None and self.time is None:
            raise ValueError("last needs time, the column by which the interactions of a user are ordered")
        if self.time is not None and self.last is None and self.valid_from is None and self.test_from is None:
            raise ValueError("a split by time needs valid_from, test_from or both (a ranking: or last)")
        if self.valid_from is not None and self.test_from is not None:
            if type(self.valid_from) is not type(self.test_from):
                raise ValueError("valid_from and test_from have different types: write both in the same form")
            if _comparable(self.valid_from) > _comparable(self.test_from):
                raise ValueError("test_from is before valid_from: the order of the folds is train, valid, test")
        if self.format is not None and int in map(type, (self.valid_from, self.test_from)):
            raise ValueError("with format, valid_from and test_from are dates such as 2026-10-31, not integers")
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test is {self.valid + self.test:g}, which leaves no rows for training")
        return self

    @property
    def has_valid(self) -> bool:
        """The settings define a valid fold."""
        if self.last is not None or self.column is not None:
            return True
        return self.valid_from is not None if self.time is not None else self.valid > 0


class Dataset(Settings):
    """How the encoded rows are stored."""

    partition_by: tuple[str, ...] = Field(default=(), examples=[["country"]])
    """Raw columns; each fold has one folder for each of their values."""
