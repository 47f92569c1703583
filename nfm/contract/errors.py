"""The errors a user can cause. Each says the rule, the value received, where, and what to do."""

from importlib.util import find_spec


class NfmError(Exception):
    """Base of all errors that are told to the user without a traceback."""

    exit_code = 1


class ConfigError(NfmError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class GateError(NfmError):
    """The table is unlike what the model knows, more than the settings allow: nothing is published."""

    exit_code = 4


class DataError(NfmError):
    """A table, a dataset or an artifact breaks its contract."""

    exit_code = 3


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
