"""dataset/ and encoding/ → model/:  python jobs/train.py --config FILE [--set a.b=c …] [--plan]."""

import sys
from argparse import Namespace

from nfm.config import Config
from nfm.job import run


def work(config: Config, asked: Namespace) -> str:
    """Train the model and tell of it."""
    # TensorFlow takes seconds to import: a wrong configuration is told before that.
    from nfm.training import summary, train

    if asked.plan:
        return summary.plan(config, *train.read(config))
    return summary.summary(config, train.train(config))


if __name__ == "__main__":
    sys.exit(run("Train the model on the dataset.", work))
