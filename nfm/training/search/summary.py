"""The plan and summary of a search for better settings."""

from collections.abc import Iterable

from nfm.config.space import Numbers, Space, as_text
from nfm.training.search.tune import BEST, Search


def plan(space: Space, search: Search, trials: int) -> str:
    """Describe what the job would do."""
    left = 0 if search.exhausted else max(0, trials - len(search.trials))
    width = max(map(len, space.settings))
    lines = [
        f"Plan of {space.base.name}: the dataset was read, nothing was trained or written.",
        f"  trials    {left} to come, {len(search.trials)} done of an earlier call",
        f"  judged by {search.metric}, {_better(search)}",
        f"  each      at most {space.base.train.epochs} epochs; the first is the configuration as it is",
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
    """Describe what was found, how the configuration did as it is, and what to run next."""
    best, count = search.best, len(search.trials)
    assert best is not None
    ended = sum(trial.value is not None for trial in search.trials)
    others = f", {count - ended} of them stopped early or refused" if count > ended else ""
    lines = [f"Search of {space.base.name}: {count} trials{others}; judged by {search.metric}, {_better(search)}"]
    first = next((trial for trial in search.trials if trial.as_it_is), None)
    if first is not None:
        lines.append(f"  as it is  {f'{first.value:.4f}' if first.value is not None else f'no value: {first.reason}'}")
    lines += _best_line(search)
    width = max(map(len, space.settings))
    if not best.as_it_is:
        lines += [f"            {key:<{width}}  {as_text(value)}" for key, value in best.settings.items()]
    if search.importance:
        shares = sorted(search.importance.items(), key=lambda one: -one[1])
        lines.append("  matters   " + ", ".join(f"{key} {share:.0%}" for key, share in shares))
    if search.exhausted:
        lines.append("  the end   every combination of the space was tried")
    elif count > trials:
        lines.append(f"  note      {trials} trials were asked for, and there are more: a larger --trials continues")
    path = search.folder / BEST
    lines.append(f"  file      {path} ({space.origin} with these settings and those of --set; without its comments)")
    return "\n".join([*lines, f"  next      nfm train --config {path}"])


def _best_line(search: Search) -> Iterable[str]:
    best = search.best
    if best is not None:
        which = "the configuration as it is" if best.as_it_is else f"trial {best.number}"
        yield f"  best      {best.value:.4f}, {which}"


def _better(search: Search) -> str:
    return "higher is better" if search.sign > 0 else "lower is better"
