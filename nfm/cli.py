"""The command `nfm`: arguments, exit codes, and one function for each job. jobs/*.py run the same commands."""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import nfm
from nfm import api
from nfm.arguments import SPARK_OPTION, Command, parse, parse_spark_settings
from nfm.config.file import load, read
from nfm.config.settings import Config
from nfm.config.space import read_space
from nfm.contract.errors import ConfigError, NfmError, require_extra
from nfm.contract.messages import did_you_mean
from nfm.contract.paths import without_loop


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see `nfm.contract.errors`; 0 done, 1 any other error).

    Args:
        arguments: the command line; sys.argv unless given.
    """
    _stopped_by.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BaseException as error:
        if _stopped_by:  # after a signal, a call to the JVM may end with any error
            return _end_stopped()
        if isinstance(error, NfmError):
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        if not isinstance(error, BrokenPipeError):
            raise
        code = 0  # the reader closed the pipe, as in `nfm --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


_stopped_by: list[signal.Signals] = []


def _stop(number: int, _frame: FrameType | None) -> None:
    _stopped_by.append(signal.Signals(number))
    raise KeyboardInterrupt


def _end_stopped() -> int:
    """Cancel Spark's running jobs, for which threads of this process wait; return the exit code of the signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a second signal ends this process at once
    pyspark: Any = sys.modules.get("pyspark")
    with suppress(Exception):
        pyspark.SparkContext._active_spark_context.cancelAllJobs()
    print(f"error: stopped by {_stopped_by[0].name}", file=sys.stderr)
    return 128 + _stopped_by[0]


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"nfm {nfm.__version__}")
        return 0
    name = arguments[0]
    if name not in _COMMANDS:
        kind = "unknown " + ("option" if name.startswith("-") else "command")
        hint = did_you_mean([name], [*_COMMANDS, "--help", "--version"])
        raise ConfigError(" ".join(filter(None, [f"{kind} {name}.", hint, f"Commands: {', '.join(_COMMANDS)}"])))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("nfm").setLevel(logging.INFO)
    # py4j logs every call that a signal interrupts through the root logger.
    logging.getLogger().handlers[0].addFilter(lambda record: Path(record.pathname).parent.name != "py4j")
    started = time.monotonic()
    options = parse(name, _COMMANDS[name], arguments[1:])
    if options is None:  # --help
        return 0
    summary = _COMMANDS[name].run(options)
    is_job = name != "init" and not options.plan and not getattr(options, "summary", False)
    print(f"{summary}\nDone in {time.monotonic() - started:.0f} s." if is_job else summary)
    return 0


def _help() -> str:
    return "\n".join(
        [
            "usage: nfm init TABLE",
            "       nfm COMMAND --config FILE [--set KEY=VALUE ...] [--plan]",
            "",
            "Train a Neural Factorization Machine on a table of categories and score tables",
            "with it: Spark makes features, TensorFlow trains, Spark scores.",
            "",
            "commands:",
            *(f"  {name:<10}{command.description}" for name, command in _COMMANDS.items()),
            "",
            "options:",
            "  -h, --help  show this help; for a command: nfm COMMAND --help",
            "  --version   show the version",
            "",
            "examples:",
            "  nfm init orders.csv --label returned",
            "  nfm train --config orders.yaml --set train.seed=2",
        ]
    )


def _session(config: Config, job: str, options: argparse.Namespace) -> Any:
    require_extra("spark", f"the {job} job")
    from nfm.table.session import start_session

    session = start_session(f"{config.name} {job}", parse_spark_settings(options.spark))
    signal.signal(signal.SIGINT, _stop)  # Spark's own handler fails if the signal arrives during a call to the JVM
    return session


def _init(options: argparse.Namespace) -> str:
    from nfm.init.command import write_configuration

    return write_configuration(options.table, options.label, options.output)


def _features(options: argparse.Namespace) -> str:
    config = load(options.config, options.set)
    api.check_growth(options.grow_from, options.refresh_numbers)
    spark = _session(config, "features", options)
    if options.plan:
        from nfm.features.dataset import Growth, prepare
        from nfm.features.summary import plan

        old = options.grow_from and Growth(
            without_loop(options.grow_from, "--grow-from").resolve(), options.refresh_numbers
        )
        return plan(config, prepare(spark, config, old, searches=False))
    result = api.build_features(config, spark, grow_from=options.grow_from, refresh_numbers=options.refresh_numbers)
    return result.summary


def _train(options: argparse.Namespace) -> str:
    config = load(options.config, options.set)  # TensorFlow takes seconds to import: mistakes are reported before that
    if not (options.plan or options.summary):
        return api.train(config).summary
    require_extra("train", "training")
    from nfm.training import train
    from nfm.training.report import summary

    if options.summary:
        return summary.network(config, train.read_encoding(config).spec)
    return summary.plan(config, *train.read(config))


def _tune(options: argparse.Namespace) -> str:
    api.check_trials(options.trials)
    space = read_space(options.config, read(options.config, options.set))
    if not options.plan:
        return api.tune_space(space, options.trials).summary
    require_extra("train", "tuning")
    from nfm.training.search import summary, tune

    return summary.plan(space, tune.read_search(space), options.trials)


def _score(options: argparse.Namespace) -> str:
    config = load(options.config, options.set)
    if options.parity is not None:
        return _parity(config, options)
    spark = _session(config, "score", options)
    if options.plan:
        from nfm.scoring.prepare import open_all
        from nfm.scoring.preview.plan import plan

        return plan(spark, config, *open_all(spark, config, searches=False))
    return api.score_table(config, spark).summary


def _recommend(options: argparse.Namespace) -> str:
    config = load(options.config, options.set)
    spark = _session(config, "recommend", options)
    if options.plan:
        from nfm.ranking.prepare import open_all
        from nfm.ranking.summary import plan

        return plan(config, open_all(spark, config, searches=False))
    return api.recommend(config, spark).summary


def _parity(config: Config, options: argparse.Namespace) -> str:
    if options.parity < 1:
        raise ConfigError(f"--parity {options.parity}: the number of rows must be at least 1")
    require_extra("train", "--parity compares with Keras on the driver (executors do not need Keras), so it")
    spark = _session(config, "parity", options)
    from nfm.scoring.preview.parity import check, compare
    from nfm.training.parity import keras_scores

    return check(compare(spark, config, keras_scores, options.parity))


_COMMANDS = {
    "init": Command(
        "Write a commented configuration for a table.",
        _init,
        ("nfm init orders.csv --label returned", "nfm init events/ --label clicked --output -"),
        {
            "--label": {"metavar": "COLUMN", "help": "column to predict; default: guessed from common names"},
            "--output": {"metavar": "FILE", "help": "file to write; default: TABLE.yaml here; - prints it"},
        },
        table="a CSV, TSV or Parquet file, or a folder of them",
    ),
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
            **SPARK_OPTION,
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
                "help": "only print the network's layers, shapes and parameters; needs the encoding",
            }
        },
    ),
    "tune": Command(
        "Search for better settings on the dataset (TensorFlow).",
        _tune,
        ("nfm tune --config orders.yaml --trials 50", "nfm tune --config orders.yaml --plan"),
        {
            "--trials": {
                "type": int,
                "default": 20,
                "metavar": "N",
                "help": "number of trials, with those of earlier runs (default: 20)",
            }
        },
    ),
    "score": Command(
        "Score every row of a raw table (Spark).",
        _score,
        (
            "nfm score --config conf/titanic.yaml --plan",
            "nfm score --config conf/titanic.yaml --set source.path=tonight.csv",
        ),
        {
            "--parity": {
                "type": int,
                "metavar": "N",
                "help": "compare the scores of N rows with Keras; publishes nothing",
            },
            **SPARK_OPTION,
        },
    ),
    "recommend": Command(
        "Make every user's list of the best items with a ranking model (Spark).",
        _recommend,
        (
            "nfm recommend --config movielens.yaml --plan",
            "nfm recommend --config movielens.yaml --set recommend.k=10",
        ),
        SPARK_OPTION,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
