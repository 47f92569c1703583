"""Plan and summary of the feature job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nfm.config.settings import Config
from nfm.contract.messages import listed
from nfm.contract.schema import FOLDS
from nfm.features.dataset import Prepared
from nfm.table.session import TIME_ZONE, read_settings

_COVERAGE = ("coverage_before", "coverage_after")
_NAMED = 10  # maximum number of new classes that are named


def plan(config: Config, prepared: Prepared) -> str:
    """Describe a run of the job without starting it."""
    scan, spec = prepared.scan, config.joined.columns
    forms = {
        "hashed": [name for name, s in spec.categorical.items() if s.hash_buckets],
        "bags": [name for name, s in spec.categorical.items() if s.bag],
        "crosses": [name for name, s in spec.categorical.items() if s.cross],
    }
    fields = [*spec.categorical, *(n for n, s in spec.numeric.items() if s.buckets)]
    numbers = [n for n, s in spec.numeric.items() if not s.buckets]
    read = "all rows were checked" if scan.reading.format else "only the table's columns were read"
    lines = [
        f"Plan of {config.name}: {read}, and nothing was written.",
        f"  source    {config.source} ({len(scan.schema)} columns: {', '.join(scan.schema.names)})",
        f"  where     {config.source.where or 'all rows'}",
        f"  scan      {scan.method}: {scan.reason}",
    ]
    lines += _time_zone(read_settings(scan.table.sparkSession))
    if scan.splits:
        pieces = [piece for split in scan.splits for piece in split]
        size = sum(piece.stop - piece.start for piece in pieces) / 2**20
        files = len({piece.file.path for piece in pieces})
        lines.append(f"  splits    {len(scan.splits)}, one per task, of {files} files with {size:,.1f} MiB; read twice")
    lines += [f"  skipped   {path}, which cannot be read" for path in scan.skipped]
    if scan.bad_rows:
        lines.append(f"  left out  {scan.bad_rows:,} rows that do not fit the columns (source.on_bad_row)")
    if config.source.on_corrupt == "skip" and not scan.reading.format:
        lines.append("  corrupt   the run first searches for unreadable files and leaves them out")
    if prepared.tables is None:
        lines.append(f"  label     {prepared.label.column}, {prepared.label.task}")
    else:
        lines += [f"  joined    {name}" for section, name in prepared.tables.names.items() if section != "source"]
    lines += [f"  fields    {', '.join(fields) or 'none'}", f"  numbers   {', '.join(numbers) or 'none'}"]
    lines += [f"  {form:<10}{', '.join(names)}" for form, names in forms.items() if names]
    lines += _derived([asdict(one) for one in prepared.derived])
    lines.append(f"  folds     {prepared.split}")
    if config.dataset.partition_by:
        lines.append(f"  folders   fold, then {', '.join(config.dataset.partition_by)}")
    if prepared.growth:
        kept = "learned again" if prepared.growth.refresh_numbers else "kept"
        lines.append(f"  grows     from {prepared.growth.folder}: its ids are kept, its numbers are {kept}")
    return "\n".join([*lines, *_outputs(config)])


def summary(config: Config, statistics: Mapping[str, Any]) -> str:
    """Describe the result of the job: rows and labels of each fold, fields, numbers, findings, and the output paths."""
    rows = statistics["rows"]
    lines = [f"Features of {config.name}: {sum(rows.values()):,} rows of {config.source}"]
    lines += [f"  skipped   {path}, which cannot be read" for path in statistics["skipped_files"]]
    if statistics["bad_rows"]:
        lines.append(f"  left out  {statistics['bad_rows']:,} rows that do not fit the columns (source.on_bad_row)")
    lines += _time_zone(statistics["read_settings"])
    if statistics["left_out"]:
        lines.append(f"  left out  {statistics['left_out']:,} negatives of the train fold (split.negative_rate)")
    for fold in FOLDS:
        described = f"{_labels(statistics, fold)}{_times(statistics, fold)}" if rows[fold] else ""
        lines.append(f"  {fold:<7}{rows[fold]:>12,} rows{described}")
    if statistics["label"]["task"] == "multiclass":
        lines.append(f"  classes{len(statistics['label']['classes']):>12,} of {config.columns.label}")
    if statistics["label"]["task"] == "ranking":
        lines += _catalogue(statistics["label"])
    lines += _derived(statistics["derived"])
    lines += [*_fields(statistics["fields"]), *_numbers(statistics["numbers"], rows["train"])]
    for name, settings in config.joined.columns.numeric.items():
        buckets = statistics["numbers"][name].get("buckets")
        if settings.buckets is not None and buckets < settings.buckets:
            lines.append(f"  note      {name} has {buckets} of {settings.buckets} buckets: many rows share a value")
    if statistics["grown"]:
        lines += _growth(statistics["grown"], config.columns.label)
    lines += [f"  finding   {finding['about']}: {finding['text']}" for finding in statistics["findings"]]
    report = config.encoding_folder / "report.html"
    return "\n".join([*lines, *_outputs(config), f"  report    {report}"])


def _catalogue(label: Mapping[str, Any]) -> Iterator[str]:
    yield f"  users  {label['users']:>12,} with interactions"
    yield f"  items  {label['items']:>12,} in the catalogue"
    if label["items_without_row"]:
        yield f"  note      items without a row in the table of ranking.items: {label['items_without_row']:,}"


def _time_zone(settings: Mapping[str, str]) -> list[str]:
    zone = settings[TIME_ZONE]
    return [] if zone == "UTC" else [f"  time zone {zone} ({TIME_ZONE}) for source.where and Spark's reader"]


def _derived(derived: Sequence[Mapping[str, Any]]) -> list[str]:
    zones = dict.fromkeys(one["zone"] for one in derived if one["zone"])
    read = "".join(f"; times with a zone are read in {zone}" for zone in zones)
    return [f"  times     {', '.join(one['name'] for one in derived)}{read}"] if derived else []


def _outputs(config: Config) -> list[str]:
    return [f"  dataset   {config.dataset_folder}", f"  encoding  {config.encoding_folder}"]


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    width = max([12, *map(len, fields)])
    if fields:
        yield f"  {'field':<{width}}  vocabulary  missing in train  out-of-vocabulary in valid+test"
    for name, facts in fields.items():
        lacking, values = (sum(facts[what][fold] for fold in FOLDS[1:]) for what in ("out_of_vocabulary", "values"))
        size = "hashed" if facts["form"] == "hashed" else f"{facts['vocabulary']:,}"
        missing = _share(facts["missing"]["train"], facts["values"]["train"])
        yield f"  {name:<{width}}{size:>12}{missing:>18}{_share(lacking, values):>29}"


def _numbers(numbers: Mapping[str, Any], rows: int) -> Iterator[str]:
    width = max([12, *map(len, numbers)])
    if numbers:
        yield f"  {'number':<{width}}        mean            median  missing in train"
    for name, facts in numbers.items():
        mean, median = (f"{facts[key]:.4g}" if key in facts else "none" for key in ("mean", "median"))
        yield f"  {name:<{width}}{mean:>12}{median:>18}{_share(facts['missing']['train'], rows):>18}"


def _growth(grown: Mapping[str, Any], label: str | None) -> Iterator[str]:
    yield f"  grown from {grown['from'][:12]}…: all ids are unchanged"
    unchanged = [name for name, facts in grown["fields"].items() if not facts["added"]]
    if unchanged:
        yield f"    no new values in {', '.join(unchanged)}"
    added, before = grown["classes"]["added"], grown["classes"]["before"]
    if added:
        yield f"    {label}: {len(added):,} classes added to {before:,}: {listed(added, most=_NAMED)}"
    for name, facts in grown["fields"].items():
        if facts["added"]:
            covered = [f"{facts[when]:.1%}" if facts[when] is not None else "–" for when in _COVERAGE]
            yield (
                f"    {name}: {facts['added']:,} values added to {facts['before']:,}; the vocabulary now covers "
                f"{covered[1]} of the new rows' values instead of {covered[0]}"
            )


def _labels(statistics: Mapping[str, Any], fold: str) -> str:
    """Describe the labels of a fold that has rows."""
    label = statistics["label"]
    if label["task"] == "ranking":
        return ""
    if label["task"] == "binary":
        return f"   {label['column']} = 1 in {label['rate'][fold]:.1%}"
    if label["task"] == "regression":
        facts = label["by_fold"][fold]
        return f"   {label['column']} {facts['mean']:.4g} ± {facts['std']:.4g} (mean ± std)"
    largest = max(label["classes"], key=lambda facts: int(facts[fold]))
    share = _share(largest[fold], statistics["rows"][fold])
    return f"   {label['column']} is most often {largest['class']}, in {share}"


def _times(statistics: Mapping[str, Any], fold: str) -> str:
    """Describe the times of a fold that has rows; empty unless the rows are split by time."""
    times = statistics["times"]
    return "   {} {} … {}".format(times["column"], *times["folds"][fold]) if times else ""


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"
