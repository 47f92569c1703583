"""Run the command `nfm score` as a script:  spark-submit jobs/score.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
