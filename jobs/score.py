"""Raw table and model/ → scores/:  spark-submit jobs/score.py --config FILE [--set a.b=c …] [--plan] [--parity N]."""

import sys
from argparse import Namespace
from importlib.util import find_spec
from typing import Any

from nfm.config.settings import Config
from nfm.contract.errors import ConfigError
from nfm.job import run
from nfm.scoring.prepare import open_all
from nfm.scoring.preview.parity import check, compare
from nfm.scoring.preview.plan import plan
from nfm.scoring.score import score_table
from nfm.scoring.summary import summary
from nfm.table.session import start_session

OPTIONS: dict[str, dict[str, Any]] = {
    "--parity": {
        "type": int,
        "metavar": "N",
        "help": "score N rows by this job's own way and by Keras on the driver, compare, and publish nothing",
    },
}


def work(config: Config, asked: Namespace) -> str:
    """Score the table and tell of it."""
    if asked.parity is not None:
        return _parity(config, asked.parity)
    spark = start_session(f"{config.name} score")
    if asked.plan:
        artifact, scan, source = open_all(spark, config.for_plan())
        return plan(spark, config, artifact, scan, source)
    return summary(config, score_table(spark, config))


def _parity(config: Config, rows: int) -> str:
    if rows < 1:
        raise ConfigError(f"--parity {rows}: give a number of rows of at least 1")
    if find_spec("tensorflow") is None:
        raise ConfigError(
            "--parity compares with Keras, but TensorFlow is not installed here. Install the extra `train` on the "
            "driver: pip install 'nfm-batch[spark,train]'; executors need none"
        )
    from nfm.training.parity import keras_scores  # TensorFlow takes seconds to import, and no other run needs it

    return check(compare(start_session(f"{config.name} parity"), config, keras_scores, rows))


if __name__ == "__main__":
    sys.exit(run("Score every row of a raw table.", work, options=OPTIONS))
