"""Run the command `nfm tune` as a script:  python jobs/tune.py --config FILE [--set a.b=c …] [--plan]."""

import sys

from nfm.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
