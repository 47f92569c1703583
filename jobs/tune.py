"""dataset/ and encoding/ → better settings:  python jobs/tune.py --config FILE --trials N [--set a.b=c …] [--plan]."""

import sys
from argparse import Namespace

from nfm.config.file import read
from nfm.config.settings import Config
from nfm.config.space import read_space
from nfm.contract.errors import ConfigError
from nfm.job import run


def work(config: Config, asked: Namespace) -> str:
    """Search, and tell of it."""
    if asked.trials < 1:
        raise ConfigError(f"--trials {asked.trials}: give a number of at least 1")
    space = read_space(asked.config, read(asked.config, asked.set))
    # TensorFlow takes seconds to import: a wrong configuration is told before that.
    from nfm.training.search import summary as tune_summary
    from nfm.training.search import tune

    if asked.plan:
        return tune_summary.plan(space, tune.read_search(space), asked.trials)
    return tune_summary.summary(space, tune.tune(space, asked.trials), asked.trials)


OPTIONS = {"--trials": {"type": int, "default": 20, "metavar": "N", "help": "in all, earlier calls included (20)"}}

if __name__ == "__main__":
    sys.exit(run("Search for better settings.", work, options=OPTIONS))
