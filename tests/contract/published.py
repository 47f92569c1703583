"""Folders published, and what is in them and beside them."""

from pathlib import Path

from nfm.contract.publish import publish

MARKER = "_done.json"


def write(target: Path, text: str, parts: int = 1) -> None:
    with publish(target, MARKER) as staging:
        for i in range(parts):
            (staging / f"part-{i}").write_text(text)
        (staging / MARKER).write_text(text)


def files(folder: Path) -> dict[str, str]:
    """What there is in a folder, but for the list of what it was published with."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "_files.json"}


def beside(target: Path) -> set[str]:
    """What there is in the target's parent, but for the target and its lock."""
    return {path.name for path in target.parent.iterdir()} - {target.name, f".{target.name}.lock"}
