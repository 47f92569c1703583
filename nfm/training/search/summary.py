"""Plan and summary of a search for better settings."""

from collections.abc import Iterable

from nfm.config.space import Numbers, Space, as_text
from nfm.training.search.tune import BEST, Search


def plan(space: Space, search: Search, trials: int) -> str:
    """Describe what the job would do."""
    left = 0 if search.exhausted else max(0, trials - len(search.trials))
    width = max(map(len, space.settings))
    lines = [
        f"Plan of {space.base.name}: the dataset was read, nothing was trained or written.",
        f"  trials    {left} to run, {len(search.trials)} done in earlier runs",
        f"  judged by {search.metric}, {_better(search)}",
        f"  each      at most {space.base.train.epochs} epochs; the first trial uses the unchanged configuration",
    ]
    for key, setting in space.settings.items():
        if isinstance(setting, Numbers):
            kind = ("whole numbers " if setting.whole else "") + ("on a logarithmic scale" if setting.log else "")
            text = f"{setting.low:g} … {setting.high:g} {kind}".strip()
        else:
            text = " | ".join(setting)
        lines.append(f"  {'space' if key == next(iter(space.settings)) else '':<9} {key:<{width}}  {text}")
    return "\n".join([*lines, *_best_line(search), f"  output    {search.folder}"])


def summary(space: Space, search: Search, trials: int) -> str:
    """Describe the best settings, the value of the unchanged configuration, and the command to run next."""
    best, count = search.best, len(search.trials)
    assert best is not None
    finished = sum(trial.value is not None for trial in search.trials)
    others = f", {count - finished} of them stopped early or refused" if count > finished else ""
    lines = [f"Search of {space.base.name}: {count} trials{others}; judged by {search.metric}, {_better(search)}"]
    first = next((trial for trial in search.trials if trial.is_unchanged), None)
    if first is not None:
        value = f"{first.value:.4f}" if first.value is not None else f"no value: {first.reason}"
        lines.append(f"  unchanged {value}")
    lines += _best_line(search)
    width = max(map(len, space.settings))
    if not best.is_unchanged:
        lines += [f"            {key:<{width}}  {as_text(value)}" for key, value in best.settings.items()]
    if search.importance:
        shares = sorted(search.importance.items(), key=lambda item: -item[1])
        lines.append("  important " + ", ".join(f"{key} {share:.0%}" for key, share in shares))
    if search.exhausted:
        lines.append("  complete  every combination of the space was tried")
    elif count > trials:
        lines.append(f"  note      there are already more than {trials} trials; a larger --trials continues the search")
    path = search.folder / BEST
    lines.append(f"  file      {path} ({space.origin} with these settings and those of --set; without comments)")
    return "\n".join([*lines, f"  next      nfm train --config {path}"])


def _best_line(search: Search) -> Iterable[str]:
    best = search.best
    if best is not None:
        which = "the unchanged configuration" if best.is_unchanged else f"trial {best.number}"
        yield f"  best      {best.value:.4f}, {which}"


def _better(search: Search) -> str:
    return "higher is better" if search.sign > 0 else "lower is better"
