"""Files in a store (s3, gs, hdfs), read by pyarrow itself: so no row of theirs goes through Spark.

Spark lists them; who may read what, and where the store is, pyarrow takes from its own surroundings on every machine
(for s3 AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, a role of the machine, and the like).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

_SCHEMES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "hdfs": "hdfs"}  # Hadoop's names → pyarrow's
_WAITING = 8  # requests that are under way at once; they wait for the network, and take no core


def in_store(path: str) -> bool:
    """Whether it is the URI of a file in a store; a path on a disk is none."""
    return "://" in path


def unreachable(uris: Sequence[str]) -> str | None:
    """Why pyarrow cannot read these files, as a clause; None if it seems it can. Asks the store for one of them."""
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
    """Bytes of each file, and when it was changed (nanoseconds since 1970).

    Raises:
        OSError: the store does not answer, or a file is not there.
    """
    found = []
    for start in range(0, len(uris), 1000):
        part = [_place(uri) for uri in uris[start : start + 1000]]
        infos = [info for root in dict.fromkeys(root for root, _ in part) for info in _infos(root, part)]
        of = dict(infos)
        found += [of[place] for place in part]
    return found


def _infos(root: str, places: Sequence[tuple[str, str]]) -> list[tuple[tuple[str, str], tuple[int, int]]]:
    mine = [inside for other, inside in places if other == root]
    infos = _system(root).get_file_info(mine)
    gone = [inside for inside, info in zip(mine, infos, strict=True) if info.type != fs.FileType.File]
    if gone:
        raise FileNotFoundError(f"there is no file {gone[0]} in {root}")
    return [((root, inside), (info.size, info.mtime_ns or 0)) for inside, info in zip(mine, infos, strict=True)]


def open_file(uri: str) -> Any:
    """The file, for reading at any place.

    Raises:
        OSError: the store does not answer, or the file is not there.
    """
    root, inside = _place(uri)
    if pa.io_thread_count() < _WAITING:
        pa.set_io_thread_count(_WAITING)
    return _system(root).open_input_file(inside)


def _place(uri: str) -> tuple[str, str]:
    """The root of its file system, and the path inside."""
    scheme, _, rest = uri.partition("://")
    scheme = _SCHEMES[scheme]
    if scheme == "hdfs":
        host, _, path = rest.partition("/")
        return f"hdfs://{host}", f"/{unquote(path)}"
    return f"{scheme}://{rest.partition('/')[0]}", unquote(rest)


@lru_cache
def _system(root: str) -> Any:
    return fs.FileSystem.from_uri(root)[0]
