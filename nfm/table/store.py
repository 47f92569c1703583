"""Read files in a remote store (s3, gs, hdfs) with pyarrow, so that their rows do not go through Spark.

Spark lists the files. pyarrow takes credentials and the address of the store from each machine's environment
(for s3: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, the machine's role, and so on).
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

_SCHEMES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "hdfs": "hdfs"}  # Hadoop's names → pyarrow's
_IO_THREADS = 8  # requests at the same time; they wait for the network and need no core
_STATE_FILES = 1000  # files whose size and time are requested together


def is_in_store(path: str) -> bool:
    """Return whether this is the URI of a file in a store, not a path on a disk."""
    return "://" in path


def uri_to_path(uri: str) -> str:
    """Return the path of a `file:` URI; other URIs are returned unchanged."""
    return "/" + unquote(uri.removeprefix("file:").lstrip("/")) if uri.startswith("file:") else uri


def find_access_problem(uris: Sequence[str]) -> str | None:
    """Return why pyarrow cannot read these files, as a clause; None if it can access the first file."""
    unsupported = next((uri for uri in uris if uri.partition("://")[0] not in _SCHEMES), None)
    if unsupported is not None:
        return f"pyarrow does not support the store of {unsupported}"
    try:
        if uris:
            read_file_states(uris[:1])
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"pyarrow cannot reach {uris[0]} ({str(error).strip().splitlines()[0].rstrip('.')})"
    return None


def read_file_states(uris: Sequence[str]) -> list[tuple[int, int]]:
    """Return the size of each file in bytes, and its last change in nanoseconds since 1970; OSError if one fails."""
    by_root, states = defaultdict[str, list[str]](list), dict[str, tuple[int, int]]()
    for uri in uris:
        by_root[_split_uri(uri)[0]].append(uri)
    for root, files in by_root.items():
        for start in range(0, len(files), _STATE_FILES):
            batch = files[start : start + _STATE_FILES]
            infos = _file_system(root).get_file_info([_split_uri(uri)[1] for uri in batch])
            for uri, info in zip(batch, infos, strict=True):
                if info.type != fs.FileType.File:
                    raise FileNotFoundError(f"{root} has no file {info.path}")
                states[uri] = info.size, info.mtime_ns or 0
    return [states[uri] for uri in uris]


def open_file(uri: str) -> Any:
    """Open a file for reading with random access."""
    root, path = _split_uri(uri)
    if pa.io_thread_count() < _IO_THREADS:
        pa.set_io_thread_count(_IO_THREADS)
    return _file_system(root).open_input_file(path)


def _split_uri(uri: str) -> tuple[str, str]:
    """Return the root of the file's file system, and the file's path in it."""
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    root = f"{_SCHEMES[scheme]}://{host}"
    return root, f"/{unquote(path)}" if scheme == "hdfs" else unquote(rest)


@lru_cache
def _file_system(root: str) -> Any:
    return fs.FileSystem.from_uri(root)[0]
