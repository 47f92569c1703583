"""The plan and summary of a search for better settings."""

from collections.abc import Iterable

from nfm.config.space import Numbers, Space, as_text
from nfm.training.search.tune import BEST, Search, Trial


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
            told = f"{setting.low:g} … {setting.high:g} {kind}".strip()
        else:
            told = " | ".join(setting.texts)
        lines.append(f"  {'space' if key == next(iter(space.settings)) else '':<9} {key:<{width}}  {told}")
    return "\n".join([*lines, *_best_line(search), f"  output    {search.folder}"])


def summary(space: Space, search: Search, trials: int) -> str:
    """Describe what was found, how the configuration did as it is, and what to run next."""
    best, count = search.best, len(search.trials)
    assert best is not None
    ended = sum(trial.value is not None for trial in search.trials)
    all_told = f"{count} trials" + (f", {count - ended} of them stopped early or refused" if count > ended else "")
    lines = [f"Search of {space.base.name}: {all_told}; judged by {search.metric}, {_better(search)}"]
    first = next((trial for trial in search.trials if trial.as_it_is), None)
    if first is not None:
        told = f"{first.value:.4f}" if first.value is not None else f"no value: {first.reason}"
        lines.append(f"  as it is  {told}")
    lines += _best_line(search)
    lines += _settings(best, space)
    if search.importance:
        shares = sorted(search.importance.items(), key=lambda one: -one[1])
        lines.append("  matters   " + ", ".join(f"{key} {share:.0%}" for key, share in shares))
    lines += _ends(search, trials)
    path = search.folder / BEST
    return "\n".join(
        [
            *lines,
            f"  file      {path} ({space.path} with these settings and what --set said; without its comments)",
            f"  next      python jobs/train.py --config {path}",
        ]
    )


def _best_line(search: Search) -> Iterable[str]:
    best = search.best
    if best is not None:
        which = "the configuration as it is" if best.as_it_is else f"trial {best.number}"
        yield f"  best      {best.value:.4f}, {which}"


def _settings(best: Trial, space: Space) -> Iterable[str]:
    width = max(map(len, space.settings))
    if not best.as_it_is:
        yield from (f"            {key:<{width}}  {as_text(value)}" for key, value in best.settings.items())


def _ends(search: Search, trials: int) -> Iterable[str]:
    if search.exhausted:
        yield "  the end   every combination of the space was tried"
    elif len(search.trials) > trials:
        yield f"  note      {trials} trials were asked for, and there are more already: give a larger --trials to go on"


def _better(search: Search) -> str:
    return "higher is better" if search.sign > 0 else "lower is better"
