"""The command `nfm init TABLE`: write a commented configuration for a table."""

import re
from pathlib import Path

from nfm.contract.errors import ConfigError, DataError
from nfm.contract.paths import without_loop
from nfm.contract.publishing.table_formats import find_table, look_on_disk
from nfm.init.csv_file import read_csv
from nfm.init.facts import inspect_column
from nfm.init.label import Label, find_label
from nfm.init.page import format_configuration
from nfm.init.roles import Role, choose_roles
from nfm.init.sample import CSV_ENDINGS, check_table, is_parquet, list_files, read_parquet


def write_configuration(table: Path, label_name: str | None, output: str | None) -> str:
    """Write a configuration for a table; return the text to print.

    Args:
        table: a CSV, TSV or Parquet file, or a folder of them.
        label_name: the column to predict; guessed from the names if None.
        output: the file to write, by default the table's name with .yaml; `-` returns the configuration instead.

    Raises NfmError if the table cannot be used or the file exists already.
    """
    output = output or f"{table_name(table)}.yaml"
    if output != "-" and Path(output).exists():
        raise ConfigError(
            f"{output} exists already and is not replaced. Name another file with --output, or delete it."
        )
    text, label, roles = configure(table, label_name)
    if output == "-":
        return text.rstrip("\n")
    try:
        with Path(output).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}. Name another file with --output.") from error
    counts = {
        section: sum(role.section == section for role in roles)
        for section in ("categorical", "numeric", "time", "left out")
    }
    summary = ", ".join(f"{count} {section}" for section, count in counts.items() if count or section != "time")
    if label is None:
        return (
            f"Wrote {output} without a label ({summary}): no column is clearly the label. Delete the file and "
            "run the command again with --label COLUMN."
        )
    source = "score.source.path" if label.where else "source.path"
    return (
        f"Wrote {output}: label {label.column.name} ({label.task}), {summary}. Check its columns, then run:\n"
        f"  nfm features --config {output}\n  nfm train --config {output}\n"
        f"  nfm score --config {output} --set {source}=NEW_TABLE"
    )


def configure(path: Path, label_name: str | None) -> tuple[str, Label | None, list[Role]]:
    """Return the configuration's text for a table, the label (None if unclear), and the columns' roles."""
    files = list_files(without_loop(path))
    if found := find_table({str(file.parent.resolve()) for file in files}, look_on_disk):
        raise DataError(
            f"{path} belongs to {found}, and nfm init reads plain files. Write the table's current rows into another "
            f"folder as Parquet files, and give nfm init that folder. Then set source.format: {found.format} in the "
            "configuration."
        )
    sample = read_parquet(path, files) if is_parquet(files[0]) else read_csv(path, files)
    check_table(sample)
    columns = {n: inspect_column(n, sample.table[n], sample.is_csv) for n in sample.table.column_names}
    label = find_label(columns, label_name)
    key, roles = choose_roles(columns, label)
    return format_configuration(table_name(path), sample, columns, label, key, roles), label, roles


def table_name(path: Path) -> str:
    """Return the table's name: its file name without the ending, in characters that need no quotes in YAML."""
    name = path.resolve().name
    ending = next((e for e in (*CSV_ENDINGS, ".parquet", ".pq") if name.lower().endswith(e)), "")
    return re.sub(r"[^\w.-]+", "_", name[: len(name) - len(ending)]).strip("_.-") or "table"
