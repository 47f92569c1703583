"""Measure how the score job's pace depends on rows, fields, values, K and workers, and draw the curves."""

import json
import resource
import shutil
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from pyspark.sql import SparkSession

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.features.dataset import build
from nfm.scoring.score import score_table
from tests.bench.features import FOLDER, timed
from tests.bench.score_model import DIM, HOME, SMALL, config, link_twice, quiet_session, save_random, table
from tests.bench.table import FIELDS, write, write_all_values

LARGE = 16_000_000
LARGEST = (2_200, 2_000_000)  # cardinalities of the largest field: 10,000 and 5 million values in total
POINTS = HOME / "points"
PICTURE = Path("docs/score-throughput.png")
COLOR, INK, MUTED, LINE = "#2b6cb0", "#1f2a37", "#5f6b7a", "#9aa7b6"

Curve = list[tuple[float, float]]  # (varied quantity, rows per second)


def _store(name: str, curve: Curve) -> None:
    POINTS.mkdir(exist_ok=True)
    (POINTS / f"{name}.json").write_text(json.dumps(sorted(curve)))
    for x, pace in sorted(curve):
        print(f"{name:<12} {x:12,.0f} {pace / 1000:8.0f} k rows/s", flush=True)


def _measure_paces(
    spark: SparkSession, jobs: Mapping[float | str, tuple[Config, int]], rounds: int
) -> dict[Any, float]:
    """Return rows per second of whole jobs, measured in turn, after each job has warmed up the workers."""
    warm = config(write(FOLDER / "raw-warm", 50_000)).source
    for settings, _ in jobs.values():
        score_table(spark, settings.model_copy(update={"source": warm}))
    seconds: dict[Any, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, (settings, _) in jobs.items():
            seconds[name].append(timed(partial(score_table, spark, settings)))
    return {name: jobs[name][1] / statistics.median(times) for name, times in seconds.items()}


def rows() -> None:
    """Score tables of several sizes; compare time and driver memory of the largest with two million rows."""
    spark, small, medium = quiet_session(), table(SMALL / 1e6), table(8)
    warm, large = write(FOLDER / "raw-warm", 50_000), link_twice(medium, f"raw-{LARGE / 1e6:g}m")
    for _ in range(2):
        score_table(spark, config(small))
    fixed = statistics.median(timed(lambda: score_table(spark, config(warm))) for _ in range(5))
    print(f"a table of 50,000 rows                           {fixed:7.1f} s, mostly the fixed cost of a job")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    jobs = {500_000: table(0.5), SMALL: small, 8_000_000: medium, LARGE: large}
    paces = _measure_paces(spark, {n: (config(source), n) for n, source in jobs.items()}, rounds=2)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ratio = LARGE / paces[LARGE] / (SMALL / paces[SMALL])
    print(f"time of 16 M rows / 2 M rows                     {ratio:7.2f} × (target: at most 8.5)")
    print(
        f"  the driver's Python process                    {after:7.0f} MB, {after - before:+.0f} MB by larger tables"
    )
    _store("rows", list(paces.items()))
    spark.stop()


def curves() -> None:
    """Vary fields, K, values and workers, with two million rows each; then draw the curves."""
    spark, source = quiet_session(), table(SMALL / 1e6)
    jobs: dict[float | str, tuple[Config, int]] = {"base": (config(source), SMALL)}
    jobs |= {f"fields {n}": (_configure_fields(spark, source, n), SMALL) for n in (6, 13)}
    jobs |= {f"K {dim}": (_configure_dim(source, dim), SMALL) for dim in (16, 128)}
    jobs |= {f"values {n}": (_configure_values(spark, n), SMALL) for n in LARGEST}
    paces = _measure_paces(spark, jobs, rounds=3)
    base = paces["base"]
    _store("fields", [(len(FIELDS), base), *((n, paces[f"fields {n}"]) for n in (6, 13))])
    _store("K", [(DIM, base), *((dim, paces[f"K {dim}"]) for dim in (16, 128))])
    values = [_count_values(settings) for settings, _ in (jobs[f"values {n}"] for n in LARGEST)]
    _store(
        "values",
        [(_count_values(config(source)), base), *zip(values, (paces[f"values {n}"] for n in LARGEST), strict=True)],
    )
    spark.stop()
    spark = quiet_session(cores=1)
    one_worker = _measure_paces(spark, {"one": (config(source), SMALL)}, rounds=3)
    _store("workers", [(2, base), (1, one_worker["one"])])
    spark.stop()
    for settings, _ in jobs.values():
        if settings.workdir != str(HOME):
            shutil.rmtree(settings.workdir)
    draw()


def _count_values(settings: Config) -> int:
    return sum(field.values for field in Encoding.load(settings.encoding_folder).spec.fields)


def _configure_fields(spark: SparkSession, source: Path, count: int) -> Config:
    chosen = [FIELDS[i] for i in np.linspace(0, len(FIELDS) - 1, count).round().astype(int)]
    settings = config(source, workdir=HOME / f"fields-{count}", fields=chosen)
    build(spark, settings)
    save_random(settings)
    return settings


def _configure_dim(source: Path, dim: int) -> Config:
    settings = config(source, dim=dim, model=str(HOME / f"k-{dim}"), output=str(HOME / f"k-{dim}-scores"))
    save_random(settings)
    return settings


def _configure_values(spark: SparkSession, largest: int) -> Config:
    """Return a configuration whose encoding has every value; its table follows the usual frequencies."""
    workdir = HOME / f"values-{largest}"
    build(spark, config(write_all_values(FOLDER / f"raw-all-{largest}", largest), workdir=workdir, all_train=True))
    settings = config(write(FOLDER / f"raw-values-{largest}", SMALL, largest), workdir=workdir, all_train=True)
    save_random(settings)
    return settings


def draw() -> None:
    """Draw the stored curves."""
    style: Any = {
        "font.size": 10.5,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.grid": True,
        "grid.color": "#e6eaef",
        **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    }
    panels: Mapping[str, tuple[str, bool]] = {
        "rows": ("rows of the table", True),
        "fields": ("text fields (and 13 numbers)", False),
        "workers": ("workers, a core each", False),
        "K": ("embedding size K", True),
        "values": ("values in the vocabularies", True),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 5.8), dpi=100, layout="constrained")
        axes = figure.subplots(2, 3, sharey=True)
        curves = {name: json.loads((POINTS / f"{name}.json").read_text()) for name in panels}
        for place, (name, (label, logarithmic)) in zip(axes.flat, panels.items(), strict=False):
            _draw_panel(place, curves[name], label, logarithmic)
        axes.flat[0].set_ylim(0, 1.15 * max(pace for curve in curves.values() for _, pace in curve) / 1000)
        for place in axes[:, 0]:
            place.set_ylabel("thousand rows/s")
        text = axes.flat[-1]
        text.set_axis_off()
        note = "Unless stated otherwise:\n2 million rows of Parquet,\n26 text fields, 13 numbers,\n230,000 values,\n"
        note += f"K {DIM}, hidden layers 128-128,\n2 workers.\n\nThe whole job is timed, without\nthe start of the JVM."
        text.text(0.08, 0.95, note, transform=text.transAxes, va="top", linespacing=1.5)
        figure.savefig(PICTURE)
    print(f"wrote {PICTURE}")


def _draw_panel(axes: Axes, curve: Sequence[tuple[float, float]], label: str, logarithmic: bool) -> None:
    x, pace = zip(*curve, strict=True)
    heights = [y / 1000 for y in pace]
    axes.plot(x, heights, color=COLOR, marker="o", markersize=5, linewidth=1.8)
    for position, height in zip(x, heights, strict=True):
        axes.annotate(
            f"{height:.0f}", (position, height), (0, 9), textcoords="offset points", ha="center", fontsize=9.5
        )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.margins(x=0.15)
    axes.set_xlabel(label)


def _short(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
