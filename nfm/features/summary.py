"""What the feature job tells people."""

from collections.abc import Mapping
from typing import Any

from nfm.config.settings import Config
from nfm.contract.schema import FOLDS
from nfm.features.dataset import Prepared

_COVERAGE = ("coverage_before", "coverage_after")
_NAMED = 10  # of the classes that were added


def plan(config: Config, prepared: Prepared) -> str:
    """What the job would do."""
    scan, spec = prepared.scan, config.columns
    forms = {
        "hashed": [name for name, s in spec.categorical.items() if s.hash_buckets],
        "bags": [name for name, s in spec.categorical.items() if s.bag],
        "crosses": [name for name, s in spec.categorical.items() if s.cross],
    }
    fields = [*spec.categorical, *(n for n, s in spec.numeric.items() if s.buckets)]
    numbers = [n for n, s in spec.numeric.items() if not s.buckets]
    lines = [
        f"Plan of {config.name}: nothing was read but the table's columns, nothing was written.",
        f"  source    {config.source} ({len(scan.schema)} columns: {', '.join(scan.schema.names)})",
        f"  where     {config.source.where or 'all rows'}",
        f"  scan      {scan.method}: {scan.reason}",
    ]
    if scan.splits:
        pieces = [piece for split in scan.splits for piece in split]
        size = sum(piece.stop - piece.start for piece in pieces) / 2**20
        files = len({piece.file.path for piece in pieces})
        lines.append(f"  splits    {len(scan.splits)}, one a task, of {files} files with {size:,.1f} MiB; read twice")
    if config.source.on_corrupt == "skip":
        lines.append("  corrupt   files are looked for first, in one more pass, and left out")
    lines.append(f"  label     {prepared.label.column}, {prepared.label.task}")
    lines += [f"  fields    {', '.join(fields) or 'none'}", f"  numbers   {', '.join(numbers) or 'none'}"]
    lines += [f"  {form:<10}{', '.join(names)}" for form, names in forms.items() if names]
    lines.append(f"  folds     {prepared.split}")
    if config.dataset.partition_by:
        lines.append(f"  folders   fold, then {', '.join(config.dataset.partition_by)}")
    if prepared.growth:
        kept = "learned anew" if prepared.growth.refresh_numbers else "kept"
        lines.append(f"  grows     from {prepared.growth.folder}: its ids stay, its numbers are {kept}")
    return "\n".join([*lines, f"  dataset   {config.dataset_folder}", f"  encoding  {config.encoding_folder}"])


def summary(config: Config, statistics: Mapping[str, Any]) -> str:
    """What the job did: rows, labels and fields per fold, and where it lies."""
    rows = statistics["rows"]
    lines = [f"Features of {config.name}: {sum(rows.values()):,} rows of {config.source}"]
    lines += [f"  skipped   {path}, which cannot be read" for path in statistics["skipped_files"]]
    if statistics["left_out"]:
        lines.append(f"  left out  {statistics['left_out']:,} of train's negatives (split.negative_rate)")
    for fold in FOLDS:
        lines.append(f"  {fold:<7}{rows[fold]:>12,} rows{_labels(statistics, fold) if rows[fold] else ''}")
    if statistics["label"]["task"] == "multiclass":
        lines.append(f"  classes{len(statistics['label']['classes']):>12,} of {config.columns.label}")
    if statistics["fields"]:
        width = max(12, *(len(name) for name in statistics["fields"]))
        lines.append(f"  {'field':<{width}}  vocabulary  missing in train  unseen in valid+test")
        for name, facts in statistics["fields"].items():
            unseen, values = (
                sum(facts[what][fold] for fold in ("valid", "test")) for what in ("out_of_vocabulary", "values")
            )
            size = "hashed" if facts["form"] == "hashed" else f"{facts['vocabulary']:,}"
            missing = _share(facts["missing"]["train"], facts["values"]["train"])
            lines.append(f"  {name:<{width}}{size:>12}{missing:>18}{_share(unseen, values):>22}")
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
    if statistics["grown"]:
        lines.append(f"  grown from {statistics['grown']['from'][:12]}…: no id has moved")
        same = [name for name, facts in statistics["grown"]["fields"].items() if not facts["added"]]
        if same:
            lines.append(f"    nothing new in {', '.join(same)}")
        added = statistics["grown"]["classes"]["added"]
        if added:
            before = statistics["grown"]["classes"]["before"]
            named = ", ".join(added[:_NAMED]) + (", …" if len(added) > _NAMED else "")
            lines.append(f"    {config.columns.label}: {len(added):,} classes added to {before:,}: {named}")
        for name, facts in statistics["grown"]["fields"].items():
            if not facts["added"]:
                continue
            covered = [f"{facts[when]:.1%}" if facts[when] is not None else "–" for when in _COVERAGE]
            lines.append(
                f"    {name}: {facts['added']:,} values added to {facts['before']:,}, which covers {covered[1]} of the "
                f"new rows' values instead of {covered[0]}"
            )
    for finding in statistics["findings"]:
        lines.append(f"  look at   {finding['about']}: {finding['text']}")
    lines += [
        f"  dataset   {config.dataset_folder}",
        f"  encoding  {config.encoding_folder}",
        f"  report    {config.encoding_folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _labels(statistics: Mapping[str, Any], fold: str) -> str:
    """What a fold that has rows has of labels."""
    label = statistics["label"]
    if label["task"] == "binary":
        return f"   {label['column']} = 1 in {label['rate'][fold]:.1%}"
    if label["task"] == "regression":
        facts = label["by_fold"][fold]
        return f"   {label['column']} {facts['mean']:.4g} ± {facts['std']:.4g} (mean ± std)"
    most = max(label["classes"], key=lambda one: int(one[fold]))
    return f"   {label['column']} is most often {most['class']}, in {_share(most[fold], statistics['rows'][fold])}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
