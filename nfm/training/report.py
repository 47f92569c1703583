"""placeholder"""

from pathlib import Path
from typing import TYPE_CHECKING

from nfm.config import Config

if TYPE_CHECKING:
    from nfm.training.train import Trained


def write(path: Path, config: Config, trained: "Trained") -> None:
    path.write_text("x")
