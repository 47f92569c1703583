"""Raw table → dataset/ and encoding/:  spark-submit jobs/features.py --config FILE [--set a.b=c …] [--plan]."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from nfm.config.settings import Config
from nfm.contract.errors import ConfigError
from nfm.features.dataset import Growth, build, prepare
from nfm.features.summary import plan, summary
from nfm.job import run
from nfm.table.session import start_session

OPTIONS: dict[str, dict[str, Any]] = {
    "--grow-from": {
        "type": Path,
        "metavar": "ENCODING",
        "help": "an older encoding/, whose ids stay; values that are new are appended",
    },
    "--refresh-numbers": {
        "action": "store_true",
        "help": "with --grow-from: learn means, spreads and quantiles anew, instead of keeping the older ones",
    },
}


def work(config: Config, asked: Namespace) -> str:
    """Make the dataset and tell of it."""
    if asked.refresh_numbers and asked.grow_from is None:
        raise ConfigError("--refresh-numbers goes with --grow-from; without it, numbers are learned anew anyway")
    growth = asked.grow_from and Growth(asked.grow_from.resolve(), asked.refresh_numbers)
    spark = start_session(f"{config.name} features")
    if asked.plan:
        return plan(config, prepare(spark, config.for_plan(), growth))
    return summary(config, build(spark, config, prepare(spark, config, growth)))


if __name__ == "__main__":
    sys.exit(run("Make the dataset and the encoding from a raw table.", work, options=OPTIONS))
