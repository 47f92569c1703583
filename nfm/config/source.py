"""Settings of a raw table."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, SerializationInfo, field_serializer, model_validator

from nfm.config.columns import Settings
from nfm.contract.errors import ConfigError

SECRETS = object()  # context of a serialization that keeps passwords
_SECRET = re.compile(r"password|secret|token|key", re.IGNORECASE)
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")  # a name whose value comes from --set: scores/ds={ds}


def check_filled(key: str, text: str | None) -> None:
    """Raise ConfigError if a name in braces has no value."""
    if text is not None and (waiting := PLACEHOLDER.search(text)):
        name = waiting.group(1)
        raise ConfigError(f"{key}: {text!r} has no value for {{{name}}}: set it with --set {name}=…")


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | bool | int | float):
        raise ValueError(f"{value!r} given; an option is a string, a number, true or false")
    return value


def _paths(value: Any) -> str | tuple[str, ...] | None:
    listed = isinstance(value, tuple) and value and all(isinstance(path, str) for path in value)
    if value is not None and not listed and not isinstance(value, str):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"{shown!r} given; a path is a string or a list of strings")
    return value  # type: ignore[no-any-return]


class Source(Settings):
    """A raw table, anything that Spark reads: `path` with a format, or `table`."""

    format: str = "parquet"
    """Data source of Spark: parquet, csv, json, orc, …"""
    path: Annotated[str | tuple[str, ...] | None, PlainValidator(_paths)] = Field(
        default=None, examples=["raw/orders", ["2025.parquet", "2026.parquet"]]
    )
    """A file or a folder, or a list of them."""
    table: str | None = Field(default=None, examples=["shop.orders"])
    """A table of Spark's catalog, instead of `path`."""
    options: dict[str, Annotated[Any, PlainValidator(_scalar)]] = Field(
        default={}, examples=[{"sep": ";", "nullValue": "NA"}]
    )
    """Options of Spark's reader. Values of options named like a password, secret, token or key are not stored in the
    model."""
    where: str | None = Field(default=None, examples=["country = 'NL'"])
    """SQL condition; other rows are left out."""
    scan: Literal["auto", "parquet", "spark"] = "auto"
    """`parquet`: tasks read Parquet files themselves, which is fast. `spark`: rows come through Spark, from any source.
    `auto`: `parquet` where possible; `--plan` shows which, and why."""
    on_corrupt: Literal["refuse", "skip"] = "refuse"
    """A file that cannot be read ends the job (`refuse`) or is left out and reported (`skip`)."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """For text files (csv, json, xml): rows with the wrong number of values, or with a value that does not have its
    column's type, end the job (`refuse`) or are left out and reported (`skip`)."""
    types: dict[str, str] = Field(default={}, examples=[{"zip": "string", "price": "decimal(18,2)"}])
    """For text files: types of columns in Spark's SQL, instead of inferred ones. Scoring uses the types of the
    training."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.table is None):
            raise ValueError("give either path (with format and options) or table")
        if (self.types or self.on_bad_row == "skip") and (self.table or self.format not in ("csv", "json", "xml")):
            raise ValueError(
                "types and on_bad_row: skip are for csv, json and xml; other tables have types of their own"
            )
        return self

    @field_serializer("options")
    def _without_secrets(self, options: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
        # Every model and its report contain the settings, but no password of a database.
        if info.context is SECRETS:
            return options
        return {key: "***" if _SECRET.search(key) else value for key, value in options.items()}

    def __str__(self) -> str:
        """Return the table's name for messages."""
        return f"table {self.table}" if self.table else ", ".join(self.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files and folders; empty for a table of the catalog."""
        return (self.path,) if isinstance(self.path, str) else self.path or ()

    def check_filled(self) -> None:
        """Raise ConfigError if a name in braces has no value."""
        for key, text in (*(("path", path) for path in self.paths), ("table", self.table), ("where", self.where)):
            check_filled(f"source.{key}", text)
