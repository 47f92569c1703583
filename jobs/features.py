"""Run the command `nfm features` as a script:  spark-submit jobs/features.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.cli import main

if __name__ == "__main__":
    sys.exit(main(["features", *sys.argv[1:]]))
