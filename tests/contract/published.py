"""Helpers that publish folders and list their content and neighbours."""

from pathlib import Path

from nfm.contract.publishing.publish import publish

MARKER = "_done.json"


def write(target: Path, text: str, parts: int = 1) -> None:
    """Publish a folder whose files all contain the text."""
    with publish(target, MARKER) as staging:
        for i in range(parts):
            (staging / f"part-{i}").write_text(text)
        (staging / MARKER).write_text(text)


def files(folder: Path) -> dict[str, str]:
    """Return the files of a folder with their text, without the list of written files."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "_files.json"}


def neighbours(target: Path) -> set[str]:
    """Return the names in the target's parent folder, without the target and its lock."""
    return {path.name for path in target.parent.iterdir()} - {target.name, f".{target.name}.lock"}
