"""Measure the defaults: models of configurations that name only columns, compared with LightGBM and a linear model.

`make bench-quality` prints a Markdown table of validation figures. It passes options on: ARGS="--tables adult,diamonds
--seeds 3 --set train.learning_rate=0.02" chooses tables, the number of training seeds, and settings to try. The test
folds and the tables held out for the final trial are opened only by --test and --held-out. All models have the same
columns, train on the same rows and are measured on the same rows by scikit-learn.

Encoded datasets and the figures of the other models are kept in build/bench/quality and made again when the table, the
settings or the code that made them change. Each result is added to results.jsonl there, with its settings.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nfm
from nfm.config.file import as_yaml, change_settings, checked
from nfm.config.settings import Config
from nfm.contract.errors import NfmError
from tests.bench.flights import LIGHTGBM, find_uv
from tests.bench.quality_models import MAIN, SIGN
from tests.bench.quality_tables import FOLDER, KEY, TABLES, Table, fold_column, write

OTHERS = {"linear": "logistic / ridge", "lightgbm": "LightGBM"}
OTHER_COLUMNS = [column for name in OTHERS.values() for column in (name, "log loss")]
Run = dict[str, Any]  # figures of one training, as quality_train.py prints them
HEADER = ["table", "figure", "NFM", "sd", "log loss", *OTHER_COLUMNS, "distance", "best epoch", "seconds"]


def digest(*parts: bytes) -> str:
    """Return 12 hexadecimal digits that identify the parts."""
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def code(paths: Iterable[Path]) -> bytes:
    """Return the text of source files."""
    return b"\0".join(path.read_bytes() for path in sorted(paths))


def configure(table: Table, split: int, changes: Sequence[str]) -> tuple[dict[str, Any], Config]:
    """Return the configuration of a split, which names only columns and the task, as written and with its defaults.

    Its workdir has a name that depends on everything that makes the dataset: table, settings and code.
    """
    roles = {"categorical": table.categorical, "numeric": table.numeric}
    content: dict[str, Any] = {
        "name": table.name,
        "workdir": "unknown",
        "source": {"path": str(table.path)},
        "columns": {"key": [KEY], "label": table.label}
        | {role: {name: {} for name in names} for role, names in roles.items() if names},
        "split": {"column": fold_column(split)},
        "model": {} if table.task == "binary" else {"task": table.task},
        "train": {},
    }
    content = change_settings(content, changes)
    config = checked(content, "the configuration")
    settings = config.model_dump_json(include={"source", "columns", "split", "dataset"}) + config.model.task
    sources = code(path for part in ("contract", "features") for path in Path(nfm.__path__[0], part).rglob("*.py"))
    made_of = digest(settings.encode(), table.path.read_bytes(), sources)
    content["workdir"] = str(FOLDER / "datasets" / f"{table.name}-{split}-{made_of}")
    return content, checked(content, "the configuration")


def make_features(config: Config) -> None:
    """Run the feature job, unless its dataset exists."""
    if config.dataset_folder.exists() and config.encoding_folder.exists():
        return
    result = nfm.build_features(config)
    log(f"{config.name}: features in {result.seconds:.0f} s, rows {dict(result.rows)}")


def train(table: Table, contents: list[dict[str, Any]], seeds: int, fold: str) -> list[Run]:
    """Train the configurations of all splits, in a process of their own, and return the figures on a fold."""
    paths = [Path(content["workdir"], "config.yaml") for content in contents]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(as_yaml(content))
    command = [sys.executable, "-m", "tests.bench.quality_train", table.name, fold, str(seeds), *map(str, paths)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        sys.exit(f"error: the training of {table.name} failed:\n{completed.stderr}")
    runs: list[Run] = json.loads(completed.stdout.splitlines()[-1])
    for run in runs:
        log(f"{table.name}: { ({name: value for name, value in run.items() if name != 'parts'}) }")
    return runs


def other_models(table: Table, fold: str) -> list[dict[str, dict[str, float]]]:
    """Return the figures of the other models by split, measured now or earlier."""
    sources = code(Path(__file__).with_name(name) for name in ("quality_models.py", "quality_tables.py"))
    path = FOLDER / "others" / f"{table.name}-{fold}-{digest(sources, table.path.read_bytes(), LIGHTGBM.encode())}.json"
    if not path.exists():
        command = [find_uv(), "run", "-q", "--no-project", "--python", sys.executable, "--with", LIGHTGBM]
        for name in ("scikit-learn", "pandas", "pyarrow"):
            command += ["--with", name]
        command += ["python", "-m", "tests.bench.quality_models", table.name, fold]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(output)
        log(f"{table.name}: {output.strip()[:300]}")
    return list(json.loads(path.read_text()))


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if there are no values."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def summarize(table: Table, runs: list[Run], others: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return means over splits and seeds, the deviation over seeds, and the distance to the better of the others.

    A positive distance is better: a difference of AUC, or the share by which the RMSE is lower. With several splits,
    its standard error is that of the splits' differences.
    """
    main, sign = MAIN[table.task], SIGN[table.task]
    means = {name: mean(split[name][main] for split in others) or 0.0 for name in OTHERS}
    better = max(means, key=lambda name: sign * means[name])
    by_seed = [
        statistics.fmean(run["figures"][main] for run in runs if run["seed"] == seed)
        for seed in {run["seed"] for run in runs}
    ]
    differences = []
    for split, other in enumerate(others, 1):
        ours = statistics.fmean(run["figures"][main] for run in runs if run["split"] == split)
        scale = other[better][main] if table.task == "regression" else 1
        differences.append(sign * (ours - other[better][main]) / scale)
    return {
        "nfm": statistics.fmean(by_seed),
        "sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "log_loss": mean(run["figures"].get("log_loss") for run in runs),
        **means,
        **{f"{name}_log_loss": mean(split[name].get("log_loss") for split in others) for name in OTHERS},
        "better": better,
        "distance": statistics.fmean(differences),
        "distance_error": statistics.stdev(differences) / len(others) ** 0.5 if len(others) > 1 else None,
        "best_epoch": statistics.fmean(run["best_epoch"] for run in runs),
        "seconds": statistics.fmean(run["seconds"] for run in runs),
    }


def line(table: Table, found: dict[str, Any]) -> str:
    """Return the row of a table in Markdown."""
    places = 1 if table.task == "regression" else 4

    def shown(value: float | None, digits: int = places) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    distance = f"{found['distance']:+.1%}" if table.task == "regression" else f"{found['distance']:+.4f}"
    if found["distance_error"] is not None:
        distance += f" (standard error {found['distance_error']:.4f})"
    cells = [table.name, MAIN[table.task].upper(), shown(found["nfm"]), shown(found["sd"]), shown(found["log_loss"], 4)]
    for name in OTHERS:
        cells += [shown(found[name]), shown(found[f"{name}_log_loss"], 4)]
    return row([*cells, distance, f"{found['best_epoch']:.1f}", f"{found['seconds']:.0f}"])


def row(cells: Iterable[str]) -> str:
    """Return a row in Markdown."""
    return f"| {' | '.join(cells)} |"


def measure(table: Table, arguments: argparse.Namespace) -> str:
    """Measure all models on a table, record the result and return its row."""
    fold = "test" if arguments.test else "valid"
    write(table)
    contents, configs = zip(
        *(configure(table, split, arguments.set) for split in range(1, table.splits + 1)), strict=True
    )
    for config in configs:
        make_features(config)
    runs = train(table, list(contents), arguments.seeds, fold)
    others = other_models(table, fold)
    found = summarize(table, runs, others)
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision.stdout.strip(),
        "table": table.name,
        "fold": fold,
        "settings": arguments.set,
        "seeds": arguments.seeds,
        **found,
        "configuration": configs[0].model_dump(mode="json", include={"columns", "model", "train"}),
        "runs": runs,
        "others": others,
    }
    with (FOLDER / "results.jsonl").open("a") as results:
        results.write(json.dumps(record) + "\n")
    return line(table, found)


def log(text: str) -> None:
    """Print progress to standard error, so that standard output is the table alone."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Print a row for each table that the command line chooses."""
    parser = argparse.ArgumentParser(description="Measure the defaults, compared with LightGBM and a linear model.")
    parser.add_argument("--tables", metavar="NAME,NAME", help=f"default: all of {', '.join(TABLES)} not held out")
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings of each split (default: 1)")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings of the configurations"
    )
    parser.add_argument("--test", action="store_true", help="measure on the test folds instead of the validation folds")
    parser.add_argument("--held-out", action="store_true", help="measure on the tables held out for the final trial")
    arguments = parser.parse_args()
    allowed = [name for name, table in TABLES.items() if table.held_out == arguments.held_out]
    names = arguments.tables.split(",") if arguments.tables else allowed
    if unknown := [name for name in names if name not in allowed]:
        sys.exit(f"error: --tables {','.join(unknown)}: allowed here: {', '.join(allowed)}")
    if arguments.seeds < 1:
        sys.exit(f"error: --seeds {arguments.seeds}: at least 1")
    print(f"{row(HEADER)}\n{row(['---'] * len(HEADER))}", flush=True)
    try:
        for name in names:
            print(measure(TABLES[name], arguments), flush=True)
    except NfmError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
