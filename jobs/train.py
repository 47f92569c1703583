"""dataset/ and encoding/ → model/:  python jobs/train.py --config FILE [--set a.b=c …] [--plan] [--summary]."""

import sys
from argparse import Namespace
from typing import Any

from nfm.config.settings import Config
from nfm.job import run

OPTIONS: dict[str, dict[str, Any]] = {
    "--summary": {
        "action": "store_true",
        "help": "print the network's layers, shapes and parameters, and do nothing; it needs the encoding only",
    },
}


def work(config: Config, asked: Namespace) -> str:
    """Train the model and tell of it."""
    # TensorFlow takes seconds to import: a wrong configuration is told before that.
    from nfm.training import train
    from nfm.training.report import summary

    if asked.summary:
        return summary.network(config, train.read_encoding(config).spec)
    if asked.plan:
        return summary.plan(config, *train.read(config))
    return summary.summary(config, train.train(config))


if __name__ == "__main__":
    sys.exit(run("Train the model on the dataset.", work, options=OPTIONS))
