"""Raw table and model/ → scores/:  spark-submit jobs/score.py --config FILE [--set a.b=c …] [--plan]."""

import sys
from argparse import Namespace

from nfm.config import Config
from nfm.job import run
from nfm.scoring.summary import plan, summary
from nfm.scoring.table import open_all, score_table
from nfm.spark import session


def work(config: Config, asked: Namespace) -> str:
    """Score the table and tell of it."""
    spark = session(f"{config.name} score")
    if asked.plan:
        artifact, scan, source = open_all(spark, config.for_plan())
        return plan(config, artifact, source, f"{scan.method}: {scan.reason}")
    return summary(config, score_table(spark, config))


if __name__ == "__main__":
    sys.exit(run("Score every row of a raw table.", work))
