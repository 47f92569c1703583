"""Check the paths that a user gives."""

import errno
from pathlib import Path

from nfm.contract.errors import ConfigError


def without_loop(path: Path, key: str | None = None) -> Path:
    """Return the path; ConfigError if a symbolic link in it leads back to itself. `key` is the path's setting."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            where = f"{key}: {str(path)!r} given, but" if key else f"{path}:"
            raise ConfigError(
                f"{where} a symbolic link in this path leads back to itself. Correct the link, or choose another path."
            ) from error
    return path
