"""Optional dependencies of the package."""

from importlib.util import find_spec

from nfm.contract.errors import ConfigError

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
