"""Neural Factorization Machines for tables of categories: features, training and batch scoring.

    nfm.build_features("conf/titanic.yaml")   # Spark: dataset and encoding
    nfm.train("conf/titanic.yaml")            # TensorFlow: the model
    nfm.score_table("conf/titanic.yaml")      # Spark: a score for every row
    nfm.load_model("build/titanic/model").score(frame)   # in this process, without Spark

Names are imported when they are first used: `import nfm` loads neither Spark nor TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfm.api import (
        build_features,
        recommend,
        score_table,
        train,
        tune,
    )
    from nfm.config.file import load_config
    from nfm.config.settings import Config
    from nfm.contract.errors import ConfigError, DataError, GateError, NfmError
    from nfm.contract.publishing.publish import BusyError
    from nfm.results import FeaturesResult, RecommendResult, ScoreResult, TrainResult, TuneResult
    from nfm.scoring import load_model, score_udf
    from nfm.scoring.local import Scorer

__version__ = "0.1.0"

__all__ = [
    "BusyError",
    "Config",
    "ConfigError",
    "DataError",
    "FeaturesResult",
    "GateError",
    "NfmError",
    "RecommendResult",
    "ScoreResult",
    "Scorer",
    "TrainResult",
    "TuneResult",
    "build_features",
    "load_config",
    "load_model",
    "recommend",
    "score_table",
    "score_udf",
    "train",
    "tune",
]

_MODULES = {
    "nfm.config.file": ("load_config",),
    "nfm.config.settings": ("Config",),
    "nfm.contract.errors": ("ConfigError", "DataError", "GateError", "NfmError"),
    "nfm.contract.publishing.publish": ("BusyError",),
    "nfm.results": ("FeaturesResult", "RecommendResult", "ScoreResult", "TrainResult", "TuneResult"),
    "nfm.scoring": ("load_model", "score_udf"),
    "nfm.scoring.local": ("Scorer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'nfm' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF.get(name, "nfm.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exported names as well, before they are imported."""
    return sorted({*globals(), *__all__})
