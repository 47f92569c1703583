"""Shared by all jobs: arguments, settings, exit codes."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nfm.config.file import load
from nfm.config.settings import Config
from nfm.contract.errors import ConfigError, NfmError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message}\n{self.format_usage()}")


def run(
    description: str,
    work: Callable[[Config, argparse.Namespace], str],
    arguments: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> int:
    """Run a job from its command line and return its exit code (see `nfm.contract.errors`; 0 done, 1 any other error).

    Args:
        description: one line for --help.
        work: takes the settings and the parsed options; returns the summary to print.
        arguments: the command line; sys.argv unless given.
        options: this job's own options, as argparse takes them.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("nfm").setLevel(logging.INFO)
    parser = _Parser(description=description)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML configuration")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change settings: train.seed=2 …"
    )
    parser.add_argument("--plan", action="store_true", help="print what would happen, and do nothing")
    for name, settings in options.items():
        parser.add_argument(name, **settings)
    started = time.monotonic()
    try:
        parsed = parser.parse_args(arguments)
        summary = work(load(parsed.config, parsed.set), parsed)
    except NfmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    quick = parsed.plan or getattr(parsed, "summary", False)  # they print, and do nothing
    print(summary if quick else f"{summary}\nDone in {time.monotonic() - started:.0f} s.")
    return 0
