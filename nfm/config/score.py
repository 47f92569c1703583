"""Settings of the score job."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nfm.config.columns import Settings
from nfm.config.source import Source


class Gates(Settings):
    """Limits for publishing scores. Beyond one, nothing is published and the exit code is 4. `null`: no limit."""

    max_oov_rate: Annotated[float, Field(ge=0, le=1)] | None = Field(default=None, examples=[0.2])
    """Maximum rate of out-of-vocabulary values in a field."""
    max_psi: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[0.25])
    """Maximum PSI (population stability index) of the scores, against the scores of the valid fold (with train.refit:
    of the test fold); 0.25 is usual. A PSI gate fires only when the shift is statistically significant for the table's
    size (p < 0.001)."""
    max_field_psi: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[0.5])
    """Maximum PSI of any field or number, against the train fold."""
    min_rows: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[1_000_000])
    """Smallest number of rows of the table."""
    max_duplicate_keys: Annotated[int, Field(ge=0)] | None = Field(default=None, examples=[0])
    """Maximum number of keys (values of `columns.key`) that occur in more than one row."""

    @property
    def limits(self) -> dict[str, float]:
        """The gates that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


class Score(Settings):
    """Settings of the score job: its input and output."""

    source: Source | None = None
    """Table to score, with the same keys as `source`. Default: `source`."""
    model: str | None = None
    """Folder of the model; `workdir`/model unless set."""
    output: str | None = Field(default=None, examples=["scores/ds={ds}"])
    """Folder of the scores; `workdir`/scores unless set. A name in braces gets its value from `--set ds=2026-11-20`;
    only that folder is replaced. With `format: delta`, it is a partition of the table in the folder above."""
    columns: tuple[str, ...] = ()
    """Columns to copy to the output, besides the key."""
    encoded: bool = False
    """The source is a dataset/ of the feature job, or a fold of it, instead of a raw table."""
    partition_by: tuple[str, ...] = Field(default=(), examples=[["country"]])
    """Columns of the source; the output has one folder for each of their values."""
    format: Literal["parquet", "csv", "delta"] = "parquet"
    """Format of the output; `delta` needs the package deltalake, and keeps the versions of earlier runs."""
    file_mb: Annotated[int, Field(ge=1)] = 128
    """Approximate size of an output file, in MB."""
    explain: Annotated[int, Field(ge=0, le=10)] = 0
    """Number of reason codes: adds reason_1, reason_1_effect, …, the fields and numbers that changed the row's score
    most. An effect is the score minus the score with this value missing; above 0, the value raised the score. Null if
    fewer fields had an effect. For multiclass, effects are on the row's highest class."""
    rank: bool = False
    """Add score_rank; 1 is the highest score of the table. Not for multiclass."""
    quantile: bool = False
    """Add score_quantile, the fraction of rows whose score is not higher. Not for multiclass."""
    count_duplicate_keys: bool = True
    """Count the keys that occur in more than one row, exactly, and the rows with a null in their key."""
    gates: Annotated[Gates, BeforeValidator(lambda given: {} if given is None else given)] = Gates()

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.gates.max_duplicate_keys is not None and not self.count_duplicate_keys:
            raise ValueError("gates.max_duplicate_keys needs count_duplicate_keys: true")
        return self
