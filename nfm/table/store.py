"""Read files in a store (s3, gs, hdfs) with pyarrow, so that their rows do not go through Spark.

Spark lists the files. pyarrow takes access rights and the place of the store from each machine's environment
(for s3 AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a role of the machine, and so on).
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

_SCHEMES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "hdfs": "hdfs"}  # Hadoop's names → pyarrow's
_WAITING = 8  # requests at once; they wait for the network and need no core
_LISTED = 1000  # files whose size and time are requested at once


def in_store(path: str) -> bool:
    """Return whether this is the URI of a file in a store, and not a path on a disk."""
    return "://" in path


def unreachable(uris: Sequence[str]) -> str | None:
    """Return why pyarrow cannot read these files, as a clause; None if it can reach the first of them."""
    other = next((uri for uri in uris if uri.partition("://")[0] not in _SCHEMES), None)
    if other is not None:
        return f"pyarrow knows no store such as {other}"
    try:
        if uris:
            states(uris[:1])
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"pyarrow cannot reach {uris[0]} ({str(error).strip().splitlines()[0].rstrip('.')})"
    return None


def states(uris: Sequence[str]) -> list[tuple[int, int]]:
    """Return the bytes of each file, and when it was changed (nanoseconds since 1970); OSError if one fails."""
    by_root, found = defaultdict[str, list[str]](list), dict[str, tuple[int, int]]()
    for uri in uris:
        by_root[_split(uri)[0]].append(uri)
    for root, files in by_root.items():
        for start in range(0, len(files), _LISTED):
            part = files[start : start + _LISTED]
            infos = _system(root).get_file_info([_split(uri)[1] for uri in part])
            for uri, info in zip(part, infos, strict=True):
                if info.type != fs.FileType.File:
                    raise FileNotFoundError(f"{root} has no file {info.path}")
                found[uri] = info.size, info.mtime_ns or 0
    return [found[uri] for uri in uris]


def open_file(uri: str) -> Any:
    """Open the file for reading at any position."""
    root, path = _split(uri)
    if pa.io_thread_count() < _WAITING:
        pa.set_io_thread_count(_WAITING)
    return _system(root).open_input_file(path)


def _split(uri: str) -> tuple[str, str]:
    """Return the root of a file's file system, and its path inside."""
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    root = f"{_SCHEMES[scheme]}://{host}"
    return root, f"/{unquote(path)}" if scheme == "hdfs" else unquote(rest)


@lru_cache
def _system(root: str) -> Any:
    return fs.FileSystem.from_uri(root)[0]
