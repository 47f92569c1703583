"""What the feature job tells people."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfm.config import Config
from nfm.contract.schema import FOLDS


def plan(config: Config, columns: Sequence[str]) -> str:
    """What the job would do."""
    split = config.split
    by = ", ".join(split.by or config.columns.key)
    fields = [*config.columns.categorical, *(n for n, s in config.columns.numeric.items() if s.buckets)]
    numbers = [n for n, s in config.columns.numeric.items() if not s.buckets]
    return "\n".join(
        [
            f"Plan of {config.name}: nothing was read but the table's columns, nothing was written.",
            f"  source    {config.source} ({len(columns)} columns: {', '.join(columns)})",
            f"  where     {config.source.where or 'all rows'}",
            f"  fields    {', '.join(fields) or 'none'}",
            f"  numbers   {', '.join(numbers) or 'none'}",
            f"  folds     train {1 - split.valid - split.test:.0%}, valid {split.valid:.0%}, test {split.test:.0%}, "
            f"by hash of {by}",
            f"  dataset   {config.dataset_folder}",
            f"  encoding  {config.encoding_folder}",
        ]
    )


def summary(config: Config, statistics: Mapping[str, Any]) -> str:
    """What the job did: rows, labels and fields per fold, and where it lies."""
    rows, rate = statistics["rows"], statistics["label_rate"]
    lines = [f"Features of {config.name}: {sum(rows.values()):,} rows of {config.source}"]
    for fold in FOLDS:
        share = "" if rate[fold] is None else f"   {config.columns.label} = 1 in {rate[fold]:.1%}"
        lines.append(f"  {fold:<7}{rows[fold]:>12,} rows{share}")
    if statistics["fields"]:
        width = max(12, *(len(name) for name in statistics["fields"]))
        lines.append(f"  {'field':<{width}}  vocabulary  missing in train  unseen in valid+test")
        for name, facts in statistics["fields"].items():
            unseen = sum(facts["out_of_vocabulary"][fold] for fold in ("valid", "test"))
            lines.append(
                f"  {name:<{width}}{facts['vocabulary']:>12,}{_share(facts['missing']['train'], rows['train']):>18}"
                f"{_share(unseen, rows['valid'] + rows['test']):>22}"
            )
    if statistics["numbers"]:
        width = max(12, *(len(name) for name in statistics["numbers"]))
        lines.append(f"  {'number':<{width}}        mean            median  missing in train")
        for name, facts in statistics["numbers"].items():
            mean, median = (f"{facts[key]:.4g}" if key in facts else "none" for key in ("mean", "median"))
            missing = _share(facts["missing"]["train"], rows["train"])
            lines.append(f"  {name:<{width}}{mean:>12}{median:>18}{missing:>18}")
    for name, settings in config.columns.numeric.items():
        made = statistics["numbers"][name].get("buckets")
        if settings.buckets is not None and made < settings.buckets:
            lines.append(f"  note      {name} has {made} of {settings.buckets} buckets: many rows share a value")
    lines += [f"  dataset   {config.dataset_folder}", f"  encoding  {config.encoding_folder}"]
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
