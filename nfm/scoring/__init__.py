"""The scoring job: Spark and numpy, no TensorFlow. And a model for those who score in a notebook or in SQL."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker imports this package, and needs neither pandas nor a session
    from nfm.scoring.local import Scorer


def load(model: str | Path) -> "Scorer":
    """Open a model that scores tables of pandas or Arrow in this process; `nfm.scoring.local.Scorer.score` says how.

    Raises:
        DataError: there is no model in this folder, or it is not as it was written.
    """
    from nfm.scoring.local import load

    return load(model)


def score_udf(model: str | Path) -> Any:
    """A function for `df.select(udf(struct("*")))` or `spark.udf.register`; `nfm.scoring.udf.score_udf` says more.

    Raises:
        DataError: there is no model in this folder, or it is not as it was written.
    """
    from nfm.scoring.udf import score_udf

    return score_udf(model)
