"""Score with a trained model: as a job, in a notebook, in SQL. Uses Spark and numpy, no TensorFlow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker imports this package and needs no pandas
    from nfm.scoring.local import Scorer


def load(model: str | Path) -> "Scorer":
    """Open a model that scores pandas or Arrow tables in this process; see `nfm.scoring.local.Scorer.score`."""
    from nfm.scoring.local import load

    return load(model)


def score_udf(model: str | Path) -> Any:
    """Return a function for `df.select(udf(struct("*")))` or `spark.udf.register`; see `nfm.scoring.udf.score_udf`."""
    from nfm.scoring.udf import score_udf

    return score_udf(model)
