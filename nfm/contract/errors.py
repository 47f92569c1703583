"""Errors that a user can cause. Each message gives the rule, the value found, where, and what to do."""

from importlib.util import find_spec


class NfmError(Exception):
    """Base class of all errors that are shown to the user without a traceback."""

    exit_code = 1


class ConfigError(NfmError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class GateError(NfmError):
    """The table exceeds a gate, a limit on its difference from the training data; nothing is published."""

    exit_code = 4


class DataError(NfmError):
    """A table, a dataset or a model is missing, damaged or does not fit the others."""

    exit_code = 3


class ReplacedError(DataError):
    """A model, an encoding, a dataset or a table was changed while a job read it; another run reads the new one."""

    exit_code = 1


class DivergedError(DataError):
    """A training's weights or outputs are not finite; other settings may avoid it."""


_EXTRAS = {  # module → name in messages
    "spark": {"pyspark": "Spark", "pandas": "pandas", "jinja2": "Jinja2"},
    "train": {
        "tensorflow": "TensorFlow",
        "sklearn": "scikit-learn",
        "jinja2": "Jinja2",
        "tqdm": "tqdm",
        "optuna": "Optuna",
    },
}


def require_extra(extra: str, work: str) -> None:
    """Raise ConfigError, with the command that installs it, if a library of an extra is missing.

    Example:
        require_extra("train", "training")  # training needs TensorFlow: pip install 'nfm-batch[train]'
    """
    for module, library in _EXTRAS[extra].items():
        if find_spec(module) is None:
            raise ConfigError(f"{work} needs {library}: pip install 'nfm-batch[{extra}]'")
