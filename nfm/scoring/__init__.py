"""Score with a trained model: as a job, in a notebook, in SQL. Uses Spark and numpy, no TensorFlow."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfm.contract.errors import require_extra

if TYPE_CHECKING:  # Spark's workers import this package, but not the scorer of tables in memory
    from nfm.scoring.local import Scorer


def load_model(model: str | Path) -> "Scorer":
    """Open a model for scoring tables in this process, without Spark and TensorFlow.

    Args:
        model: the `model/` folder that `train` wrote.

    Returns:
        A scorer whose `score(table)` takes a table of pandas, polars, pyarrow, DuckDB or another library with Arrow's
        PyCapsule interface.

    Raises:
        DataError: the folder has no model, or the model is damaged.

    Example:
        >>> model = nfm.load_model("build/titanic/model")
        >>> passengers = pandas.read_csv("tests/data/titanic.csv")
        >>> passengers["score"] = model.score(passengers)
        >>> bool(passengers["score"].between(0, 1).all())
        True
    """
    from nfm.scoring.local import load

    return load(model)


load = load_model


def score_udf(model: str | Path) -> Any:
    """Return a function for Spark SQL and data frames that maps a struct of raw columns to the score.

    Spark delivers rows as Arrow batches: pandas would turn an integer column with nulls into floats and lose digits of
    large ids. The struct may have more columns than the model reads; leave wide ones out.

    Args:
        model: the `model/` folder that `train` wrote.

    Returns:
        A function that returns a float; for the multiclass task, a struct with a float for each class. It belongs to
        the active session.

    Raises:
        ConfigError: Spark is not installed.
        DataError: the folder has no model, or the model is damaged; in the tasks, a column is missing or of a type
            that cannot represent its values.
        NfmError: no session is active.

    Example:
        In a data frame:

        >>> nfm_score = nfm.score_udf("build/titanic/model")
        >>> passengers = spark.read.csv("tests/data/titanic.csv", header=True, inferSchema=True)
        >>> scores = passengers.select("PassengerId", nfm_score(struct("*")).alias("score"))
        >>> scores.count()
        891

        In SQL:

        >>> _ = spark.udf.register("nfm_score", nfm_score)
        >>> passengers.createOrReplaceTempView("passengers")
        >>> likely = spark.sql("select PassengerId from passengers where nfm_score(struct(*)) > 0.5")
        >>> 0 < likely.count() < 891
        True
    """
    require_extra("spark", "score_udf")
    from nfm.scoring.udf import score_udf

    return score_udf(model)
