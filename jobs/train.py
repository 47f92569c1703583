"""Run the command `nfm train` as a script:  python jobs/train.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
