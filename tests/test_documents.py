"""The documents: commands and settings in them work, links lead somewhere, the help texts are those of the commands.

`python tests/test_documents.py` writes the help texts into docs/cli.md again.
"""

import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from nfm.config.file import checked
from nfm.config.settings import Config
from tests.forks import Forks, forks
from tests.processes import ROOT, run
from tests.settings import MINIMAL

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples/README.md"])
CLI = ROOT / "docs/cli.md"


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def orders(rows: int) -> pd.DataFrame:
    """Return a table with a null, an empty text, a date and a text that is different in every row."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(rows)],
            "ordered_on": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows) % 300, "D"),
            "returned": rng.integers(0, 2, rows),
            "customer": rng.choice(np.array(["ann", "bob", "cy", None]), rows),
            "product": rng.choice(["shirt", "shoe", "hat"], rows),
            "country": rng.choice(["NL", "FR", ""], rows),
            "price": rng.lognormal(3, 1, rows).round(2),
            "days_since_last": np.where(rng.random(rows) < 0.3, np.nan, rng.integers(1, 99, rows)),
            "comment": [f"please ring twice, door {i}" for i in range(rows)],
        }
    )


@pytest.mark.e2e
def test_the_readmes_five_steps_run(commands: Forks, trainings: Forks, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    steps = readme[readme.index("## Your own table") : readme.index("## Compared with")]
    lines = "".join(blocks(steps, "bash")).splitlines()
    jobs = ["init", "features", "features", "train", "score"]
    assert [line.split()[:2] for line in lines] == [["nfm", job] for job in jobs]

    table = orders(600)
    table.to_csv(tmp_path / "orders.csv", index=False)
    tonight = table.drop(columns="returned").head(50)
    tonight.loc[[0, 1], ["customer", "product"]] = ["zoe", None]
    tonight.to_csv(tmp_path / "tonight.csv", index=False)
    for line in lines:
        arguments = line.split()[1:]
        done = (trainings if arguments[0] == "train" else commands).run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    workdir = tmp_path / "build/orders"
    scores = pd.read_parquet(workdir / "scores")
    assert sorted(scores["order_id"]) == sorted(tonight["order_id"])
    assert scores["score"].between(0, 1).all()
    values = json.loads((workdir / "scores/_report.json").read_text())["values"]
    assert values["customer"]["out_of_vocabulary"]["count"] == 2
    assert values["product"]["missing"]["count"] == 2
    assert "comment" not in values
    assert (workdir / "model/report.html").stat().st_size > 10_000

    (script,) = blocks(steps, "python")
    script = f"{script}\nprint(scores.to_json())"
    done = run([sys.executable, "-c", script], {"PYTHONPATH": str(ROOT)}, tmp_path)
    assert done.returncode == 0, done.stderr
    in_process = pd.Series(json.loads(done.stdout.splitlines()[-1]))
    by_job = scores.set_index("order_id")["score"].loc[tonight["order_id"]]
    np.testing.assert_allclose(in_process, by_job, atol=1e-6)


@pytest.mark.unit
def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def anchors(path: Path) -> set[str]:
    """The anchors of a page, as Python-Markdown makes them from its headings."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.M), re.MULTILINE
    )
    plain = (re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.unit
@pytest.mark.parametrize("name", names(DOCUMENTS))
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{target} does not exist"
        assert linked.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.unit
def test_the_site_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = re.findall(r": (\w+\.md)$", text, re.MULTILINE)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.unit
def test_the_architecture_names_what_the_code_has() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    paths = re.findall(r"`((?:nfm|tests)/[\w/.]+)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    placed = re.findall(r"`([\w.]+)` \(`(nfm/[\w/]+\.py)`\)", text)
    assert len(placed) > 8
    for name, path in placed:
        assert re.search(rf"\b{name.split('.')[-1]}\b", (ROOT / path).read_text()), f"{path} has no {name}"


def settings(block: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the settings of a block, which may be a part of one."""
    content: dict[str, Any] = yaml.safe_load(MINIMAL)
    if block.keys() <= {"categorical", "numeric", "time", "time_zone"}:
        block = {"columns": {**content["columns"], **block}}
    return content | block


@pytest.mark.unit
@pytest.mark.parametrize("name", [name for name in names(DOCUMENTS) if blocks((ROOT / name).read_text(), "yaml")])
def test_settings_in_documents_are_valid(name: str) -> None:
    for block in blocks((ROOT / name).read_text(), "yaml"):
        assert isinstance(checked(settings(yaml.safe_load(block)), name), Config)


def with_help(text: str, commands: Forks) -> str:
    """Return the text of docs/cli.md with the help of each command that it names."""

    def filled(match: re.Match[str]) -> str:
        done = commands.run(*match[1].split())
        assert (done.returncode, done.stderr) == (0, "")
        return f"`$ nfm {match[1]}`\n\n```text\n{done.stdout}```"

    return re.sub(r"`\$ nfm (.*?)`\n\n```text\n.*?```", filled, text, flags=re.DOTALL)


@pytest.mark.e2e
def test_the_help_texts_are_those_of_the_commands(commands: Forks) -> None:
    text = CLI.read_text()
    assert text.count("```text") == 6
    assert text == with_help(text, commands), "stale: run python tests/test_documents.py"


if __name__ == "__main__":
    with TemporaryDirectory() as folder, forks(Path(folder)) as commands:
        CLI.write_text(with_help(CLI.read_text(), commands))
