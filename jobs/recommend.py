"""Run `nfm recommend` as a script:  spark-submit jobs/recommend.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.cli import main

if __name__ == "__main__":
    sys.exit(main(["recommend", *sys.argv[1:]]))
