"""Raw table → dataset/ and encoding/:  spark-submit jobs/features.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.config import Config
from nfm.features.dataset import build, checked_table
from nfm.features.summary import plan, summary
from nfm.job import run
from nfm.spark import session


def work(config: Config, only_plan: bool) -> str:
    """Make the dataset and tell of it."""
    spark = session(f"{config.name} features")
    if only_plan:
        table, _ = checked_table(spark, config)
        return plan(config, table.columns)
    return summary(config, build(spark, config))


if __name__ == "__main__":
    sys.exit(run("Make the dataset and the encoding from a raw table.", work))
