"""Parse the options of the commands, and report mistakes in them."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nfm.contract.errors import ConfigError
from nfm.contract.messages import did_you_mean

_SPARK = "--spark"
SPARK_OPTION = {
    _SPARK: {
        "nargs": "+",
        "action": "extend",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "Spark settings: master=local[4] driver.memory=4g; the prefix spark. is optional",
    }
}


@dataclass(frozen=True)
class Command:
    """Description, implementation and options of a command."""

    description: str  # one line for --help
    run: Callable[[argparse.Namespace], str]  # returns the summary to print
    examples: tuple[str, str]
    options: Mapping[str, Mapping[str, Any]]  # arguments of argparse's add_argument
    table: str | None = None  # help for TABLE, which a command without --config takes instead


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        raise ConfigError(f"{self.prog}: {message}{end} See {self.prog} --help")


def parse(name: str, command: Command, arguments: Sequence[str]) -> argparse.Namespace | None:
    """Return the options; None if the help was printed. Raise ConfigError for a mistake."""
    parser = _Parser(
        prog=f"nfm {name}",
        description=command.description,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=80),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    if command.table is None:
        parser.add_argument("--config", type=Path, metavar="FILE", help="the YAML configuration")
        parser.add_argument(
            "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override settings: train.seed=2"
        )
        parser.add_argument("--plan", action="store_true", help="preview the run without writing anything")
    else:
        parser.add_argument("table", nargs="?", type=Path, metavar="TABLE", help=command.table)
    for option, settings in command.options.items():
        parser.add_argument(option, **settings)
    parsed, unknown = parser.parse_known_args(arguments)
    if parsed.help:
        print(parser.format_help(), end="")
        return None
    if unknown:
        known = [*([] if command.table else ["--config", "--set", "--plan"]), "--help", *command.options]
        wrong = unknown[0].partition("=")[0]
        no_config = "" if command.table else "Did you forget --config before it?"
        if wrong == _SPARK:
            parser.error(f"unknown option {_SPARK}. nfm {name} does not use Spark.")
        hint = did_you_mean([wrong], known) if wrong.startswith("-") else no_config
        kind = "unknown option" if wrong.startswith("-") else "unexpected argument"
        parser.error(" ".join(filter(None, [f"{kind} {wrong}.", hint])))
    required = ("config", "--config FILE") if command.table is None else ("table", "TABLE")
    if getattr(parsed, required[0]) is None:
        parser.error(f"{required[1]} is required")
    return parsed


def parse_spark_settings(arguments: Sequence[str]) -> dict[str, str]:
    """Return Spark's settings by name; the prefix `spark.` is added where it is left out."""
    settings = {}
    for setting in arguments:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"{_SPARK} {setting}: write it as KEY=VALUE, for example {_SPARK} spark.driver.memory=4g")
        settings[key if key.startswith("spark.") else f"spark.{key}"] = value
    return settings
