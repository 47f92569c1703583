"""The command `nfm`: arguments, exit codes, and one function for each job. jobs/*.py are the same commands."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import nfm
from nfm import api
from nfm.config.file import load, read
from nfm.config.settings import Config
from nfm.config.space import read_space
from nfm.contract.errors import ConfigError, NfmError
from nfm.contract.extras import require_extra
from nfm.contract.messages import did_you_mean

_WIDTH = 80
_SPARK = "--spark"


@dataclass(frozen=True)
class Command:
    """A job of the command line."""

    text: str  # one line for --help
    work: Callable[[argparse.Namespace], str]  # returns the summary to print
    examples: tuple[str, str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # as argparse takes them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see `nfm.contract.errors`; 0 done, 1 any other error).

    Args:
        arguments: the command line; sys.argv unless given.
    """
    code = 130  # of SIGINT

    def terminate(_number: int, _frame: FrameType | None) -> None:
        nonlocal code
        code = 143
        signal.raise_signal(signal.SIGINT)  # pyspark's own handler cancels the running jobs

    signal.signal(signal.SIGTERM, terminate)
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except NfmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: stopped by {'SIGINT' if code == 130 else 'SIGTERM'}", file=sys.stderr)
    except BrokenPipeError:  # the reader of the output has ended, as in `nfm --help | head -1`
        code = 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"nfm {nfm.__version__}")
        return 0
    name = arguments[0]
    # PLACE OF `nfm init TABLE [--label L] [--output FILE]`: call its entry with arguments[1:], and add it to _help.
    if name not in _COMMANDS:
        what = "unknown option" if name.startswith("-") else "unknown command"
        hint = did_you_mean([name], [*_COMMANDS, "--help", "--version"])
        raise ConfigError(" ".join(filter(None, [f"{what} {name}.", hint, f"Commands: {', '.join(_COMMANDS)}"])))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("nfm").setLevel(logging.INFO)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs each call that a signal interrupts
    started = time.monotonic()
    asked = _parse(name, arguments[1:])
    if asked is None:  # --help
        return 0
    summary = _COMMANDS[name].work(asked)
    only_printed = asked.plan or getattr(asked, "summary", False)
    print(summary if only_printed else f"{summary}\nDone in {time.monotonic() - started:.0f} s.")
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        raise ConfigError(f"{self.prog}: {message}{end} See {self.prog} --help")


def _parse(name: str, arguments: list[str]) -> argparse.Namespace | None:
    """Return the options; None if the help was printed."""
    command = _COMMANDS[name]
    parser = _Parser(
        prog=f"nfm {name}",
        description=command.text,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=_WIDTH),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the YAML configuration")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change settings: train.seed=2 …"
    )
    parser.add_argument("--plan", action="store_true", help="preview the run without writing anything")
    for option, settings in command.options.items():
        parser.add_argument(option, **settings)
    asked, unknown = parser.parse_known_args(arguments)
    if asked.help:
        print(parser.format_help(), end="")
        return None
    if unknown:
        known = ["--config", "--set", "--plan", "--help", *command.options]
        wrong = unknown[0].partition("=")[0]
        hint = did_you_mean([wrong], known) if wrong.startswith("-") else "Did you forget --config before it?"
        what = "unknown option" if wrong.startswith("-") else "unexpected argument"
        parser.error(" ".join(filter(None, [f"{what} {wrong}.", hint])))
    if asked.config is None:
        parser.error("--config FILE is required")
    return asked


def _help() -> str:
    lines = [
        "usage: nfm COMMAND --config FILE [--set KEY=VALUE ...] [--plan]",
        "",
        "Train a Neural Factorization Machine on a table of categories and score tables",
        "with it: Spark makes features, TensorFlow trains, Spark scores.",
        "",
        "commands:",
        *(f"  {name:<10}{command.text}" for name, command in _COMMANDS.items()),
        "",
        "options:",
        "  -h, --help  show this help; nfm COMMAND --help shows that of a command",
        "  --version   show the version",
        "",
        "examples:",
        "  nfm features --config conf/titanic.yaml",
        "  nfm train --config conf/titanic.yaml --set train.seed=2",
    ]
    return "\n".join(lines)


def _spark_settings(given: Sequence[str]) -> dict[str, str]:
    """Return Spark's settings by name. Each name of Spark begins with `spark.`, so that it may be left out."""
    settings = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise ConfigError(f"{_SPARK} {one}: write it as KEY=VALUE, for example {_SPARK} spark.driver.memory=4g")
        settings[key if key.startswith("spark.") else f"spark.{key}"] = value
    return settings


def _session(config: Config, job: str, asked: argparse.Namespace) -> Any:
    require_extra("spark", {"features": "making features", "score": "scoring a table"}.get(job, job))
    from nfm.table.session import start_session

    return start_session(f"{config.name} {job}", _spark_settings(asked.spark))


def _features(asked: argparse.Namespace) -> str:
    config = load(asked.config, asked.set)
    api.check_growth(asked.grow_from, asked.refresh_numbers)
    spark = _session(config, "features", asked)
    if asked.plan:
        from nfm.features.dataset import Growth, prepare
        from nfm.features.summary import plan

        old = asked.grow_from and Growth(asked.grow_from.resolve(), asked.refresh_numbers)
        return plan(config, prepare(spark, config.for_plan(), old))
    result = api.build_features(config, spark, grow_from=asked.grow_from, refresh_numbers=asked.refresh_numbers)
    return result.summary


def _train(asked: argparse.Namespace) -> str:
    config = load(asked.config, asked.set)  # TensorFlow takes seconds to import: mistakes are reported before that
    if not (asked.plan or asked.summary):
        return api.train(config).summary
    require_extra("train", "training")
    from nfm.training import train
    from nfm.training.report import summary

    if asked.summary:
        return summary.network(config, train.read_encoding(config).spec)
    return summary.plan(config, *train.read(config))


def _tune(asked: argparse.Namespace) -> str:
    api.check_trials(asked.trials)
    space = read_space(asked.config, read(asked.config, asked.set))
    if not asked.plan:
        return api.tune_space(space, asked.trials).summary
    require_extra("train", "tuning")
    from nfm.training.search import summary, tune

    return summary.plan(space, tune.begun(space), asked.trials)


def _score(asked: argparse.Namespace) -> str:
    config = load(asked.config, asked.set)
    if asked.parity is not None:
        return _parity(config, asked)
    spark = _session(config, "score", asked)
    if asked.plan:
        from nfm.scoring.prepare import open_all
        from nfm.scoring.preview.plan import plan

        return plan(spark, config, *open_all(spark, config.for_plan()))
    return api.score_table(config, spark).summary


def _parity(config: Config, asked: argparse.Namespace) -> str:
    if asked.parity < 1:
        raise ConfigError(f"--parity {asked.parity}: give a number of rows of at least 1")
    require_extra("train", "--parity compares with Keras on the driver (executors need none), which")
    spark = _session(config, "parity", asked)
    from nfm.scoring.preview.parity import check, compare
    from nfm.training.parity import keras_scores

    return check(compare(spark, config, keras_scores, asked.parity))


_SPARK_OPTION = {
    _SPARK: {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "settings of Spark: master=local[4] driver.memory=4g; the prefix spark. may be left out",
    }
}
_COMMANDS = {
    "features": Command(
        "Make the dataset and the encoding from a raw table (Spark).",
        _features,
        (
            "nfm features --config conf/titanic.yaml --plan",
            "nfm features --config conf/titanic.yaml --spark master=local[4]",
        ),
        {
            "--grow-from": {
                "type": Path,
                "metavar": "ENCODING",
                "help": "older encoding/ to grow: its ids stay, new values are appended",
            },
            "--refresh-numbers": {
                "action": "store_true",
                "help": "with --grow-from: learn means, deviations and quantiles again instead of keeping them",
            },
            **_SPARK_OPTION,
        },
    ),
    "train": Command(
        "Train the model on the dataset (TensorFlow).",
        _train,
        (
            "nfm train --config conf/titanic.yaml",
            "nfm train --config conf/titanic.yaml --set train.seed=2 train.epochs=30",
        ),
        {
            "--summary": {
                "action": "store_true",
                "help": "print the network's layers, shapes and parameters only; needs the encoding",
            }
        },
    ),
    "tune": Command(
        "Search for better settings on the dataset (TensorFlow).",
        _tune,
        ("nfm tune --config orders.yaml --trials 50", "nfm tune --config orders.yaml --plan"),
        {"--trials": {"type": int, "default": 20, "metavar": "N", "help": "in all, earlier calls included (20)"}},
    ),
    "score": Command(
        "Score every row of a raw table (Spark).",
        _score,
        (
            "nfm score --config conf/titanic.yaml --plan",
            "nfm score --config conf/titanic.yaml --set score.source.path=tonight.csv",
        ),
        {
            "--parity": {
                "type": int,
                "metavar": "N",
                "help": "score N rows by this job and by Keras and compare; publishes nothing",
            },
            **_SPARK_OPTION,
        },
    ),
}

if __name__ == "__main__":
    sys.exit(main())
