"""Plain English: documents, docstrings, comments and messages without the phrases that readers must decode.

`python tests/test_wording.py` lists them; with --all in the whole project, with a count for each package.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
CODE = ("nfm", "jobs", "examples")
CHECKED = CODE
PATTERNS = {  # a phrase, and what to write
    r"(tell|tells|told|telling)(?! (\w+ )?apart)": "show, log, report, list",
    r"anew": "again",
    r"so (many|much|often)(?! (that|as))": "n, that number, that share",
    r"(some|no|any)body": "another process, a user",
    r"(?<!there )(is|are|was|were) no (?!longer|more\b|less\b|later|earlier)[a-z]+": "is not a …",
    r"(go|goes|went|gone|going) on( from)?(?! to)": "resume, continue",
    r"lie|lies|lay": "is, are",
    r"(stand|stands|stood)(?! for)": "is, are, has",
    r"(?<!can )(?<!cannot )(hold|holds)": "contain, has, keep",
    r"by heart": "overfit",
    r"foretells?|praises?": "show",
    r"what (it|they|one|that) (is|are|was|were|says?|takes?|notices?)\b(?= of)": "name the thing",
}
STARTS = r"(Of|What|One|Whether|Who|Wherever)\b"  # of a docstring: begin with a verb or a plain noun phrase
_PHRASES = [(re.compile(rf"\b({phrase})\b", re.IGNORECASE), hint) for phrase, hint in PATTERNS.items()]


class Finding(NamedTuple):
    """A phrase in a file."""

    path: Path
    line: int
    phrase: str
    hint: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.phrase!r}: write {self.hint}"


def phrases(path: Path, line: int, text: str) -> Iterator[Finding]:
    for pattern, hint in _PHRASES:
        for match in pattern.finditer(text):
            yield Finding(path, line + text.count("\n", 0, match.start()), match[0], hint)


def in_document(path: Path) -> Iterator[Finding]:
    """Find phrases outside code; the glossary's last column lists words that are not used."""
    code = r"^```.*?^```|`[^`\n]*`" if path.suffix == ".md" else "$."
    text = re.sub(code, lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.DOTALL | re.MULTILINE)
    if path.name == "glossary.md":
        text = re.sub(r"\|[^|\n]*\|$", "", text, flags=re.MULTILINE)
    yield from phrases(path, 1, text)


def in_code(path: Path) -> Iterator[Finding]:
    """Find phrases in docstrings, comments, and all texts with more than one word."""
    source = path.read_text()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            first = node.body[0].lineno
            if start := re.match(STARTS, docstring):
                yield Finding(path, first, f"{start[0]} …", "a docstring that begins with a verb or a noun")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from phrases(path, node.lineno, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from phrases(path, token.start[0], token.string)


DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("conf/*.yaml"), *ROOT.glob("*/**/README.md")]
)
DOCUMENTS = [path for path in DOCUMENTS if not {".venv", "build"} & set(path.relative_to(ROOT).parts)]


def code_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_documents_are_plain(path: Path) -> None:
    assert [str(finding) for finding in in_document(path)] == []


@pytest.mark.parametrize("folder", CHECKED)
def test_code_is_plain(folder: str) -> None:
    assert [str(finding) for path in code_files(folder) for finding in in_code(path)] == []


def test_phrases_are_found(tmp_path: Path) -> None:
    path = ROOT / "nfm/none.py"
    found = {
        finding.phrase for finding in phrases(path, 1, "It tells so many things.\nNobody is no fool; x stands for y.")
    }
    assert found == {"tells", "so many", "Nobody", "is no fool"}
    document = tmp_path / "a.md"
    document.write_text("`holds`\n\n```text\nlies\n```\nIt holds x.\n")
    assert [(finding.line, finding.phrase) for finding in in_document(document)] == [(6, "holds")]
    code = tmp_path / "a.py"
    code.write_text('"""Of a file, the name."""\n\nx = f"it is told {1}"  # anew\ny = "told"\n')
    assert [(finding.line, finding.phrase) for finding in in_code(code)] == [(1, "Of …"), (3, "told"), (3, "anew")]


def main() -> int:
    """List the findings; return 1 if there is one where none may be."""
    everything = "--all" in sys.argv
    found = [finding for path in DOCUMENTS for finding in in_document(path)]
    found += [
        one for folder in (CODE if everything else CHECKED) for path in code_files(folder) for one in in_code(path)
    ]
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    packages = Counter("/".join(finding.path.relative_to(ROOT).parts[:2]) for finding in found)
    for package, count in sorted(packages.items()) if everything else ():
        sys.stdout.write(f"{count:5} {package}\n")
    return 0 if everything else int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
