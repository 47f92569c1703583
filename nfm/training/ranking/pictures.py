"""Pictures and lists of a ranking for the training report."""

from typing import Any

import numpy as np

from nfm.reports.charts import SQUARE, Axis, Chart, Line, chart, extent
from nfm.training.metrics.names import BASELINES
from nfm.training.ranking.evaluate import RankingTally
from nfm.training.ranking.metrics import by_activity

_STYLES = {"model": "test", "popularity": "faint dashed", "neighbours": "linear dashed"}
_USERS, _SHOWN = 5, 10  # users whose lists are shown, and items of a list
_SEED = 3


def draw_ranking(tally: RankingTally) -> dict[str, Chart | None]:
    """Draw NDCG and recall by the length of lists, and NDCG by the number of interactions of the user."""
    if not tally.users:
        return {"ndcg": None, "recall": None, "activity": None}
    return {
        "ndcg": _draw_by_length(tally, "ndcg", "NDCG"),
        "recall": _draw_by_length(tally, "recall", "recall"),
        "activity": _draw_by_activity(tally),
    }


def _draw_by_length(tally: RankingTally, figure: str, name: str) -> Chart:
    lengths = sorted(int(key.partition("@")[2]) for key in tally.measured["model"].figures if key.startswith(figure))
    lines = []
    for source, measured in tally.measured.items():
        means = [float(measured.figures[f"{figure}@{k}"].mean()) for k in lengths]
        style = _STYLES[source]
        lines.append(Line(lengths, means, style, BASELINES.get(source, "model")))
        lines.append(Line(lengths, means, f"{style.split()[0]} points"))
    _, high = extent(y for line in lines for y in line.y)
    return chart(
        lines, Axis(0, max(lengths) * 1.05, "length K of the list", whole=True), Axis(0, high, f"{name} at K"), SQUARE
    )


def _draw_by_activity(tally: RankingTally) -> Chart | None:
    assert tally.ranked is not None
    queries = tally.measured["model"].queries
    activity_U = np.diff(tally.ranked.seen.starts)[queries.users_U]
    names = [name for name in tally.measured["model"].figures if name.startswith("ndcg@")]
    key = "ndcg@10" if "ndcg@10" in names else names[0]
    lines = []
    for source, measured in tally.measured.items():
        bins = by_activity(measured.figures[key], activity_U, 8)
        middles = [(one.first + one.last) / 2 for one in bins]
        style = _STYLES[source]
        means = [one.figure.mean for one in bins]
        lines.append(Line(middles, means, style, BASELINES.get(source, "model")))
        lines.append(Line(middles, means, f"{style.split()[0]} points"))  # a single bin has no line
        if source == "model":
            for middle, one in zip(middles, bins, strict=True):
                lines.append(Line((middle, middle), (one.figure.low, one.figure.high), "test thin"))
    _, high = extent(y for line in lines for y in line.y)
    most = max(x for line in lines for x in line.x)
    return chart(
        lines,
        Axis(0, most * 1.05, "interactions of the user in the train fold", whole=True),
        Axis(0, high, f"NDCG@{key.partition('@')[2]}"),
        SQUARE,
    )


def show_lists(tally: RankingTally) -> list[dict[str, Any]]:
    """Return the lists of a few users: the user, the items that the user chose, and the list with its hits."""
    if not tally.users or tally.ranked is None:
        return []
    queries, ranked = tally.measured["model"].queries, tally.ranked
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(queries.users_U))[:_USERS])
    shown = []
    for u in chosen.tolist():
        targets = queries.targets.items[queries.targets.starts[u] : queries.targets.starts[u + 1]]
        items = [i for i in tally.measured["model"].lists_UK[u, :_SHOWN].tolist() if i >= 0]
        shown.append(
            {
                "user": ranked.users[int(queries.users_U[u])].as_py(),
                "chosen": [ranked.catalogue.items[i].as_py() for i in targets.tolist()[:_SHOWN]],
                "list": [(ranked.catalogue.items[i].as_py(), i in set(targets.tolist())) for i in items],
            }
        )
    return shown
