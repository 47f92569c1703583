"""The train job's plan, network table and summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.schema import FOLDS, Spec
from nfm.training import checkpoint
from nfm.training.data.batches import Fold
from nfm.training.fit import list_dependencies
from nfm.training.metrics.names import METRICS, choose_judged_fold
from nfm.training.model import build
from nfm.training.report.page import format_metric
from nfm.training.report.parameters import count_parameters, layers
from nfm.training.result import Trained
from nfm.training.train import checkpoint_folder
from nfm.training.warm_start import FM, start_from_model


def plan(config: Config, encoding: Encoding, folds: Mapping[str, Fold]) -> str:
    """Describe what the job would do; DataError if the model to start from cannot be used."""
    settings, spec = config.train, encoding.spec
    parameters = sum(count_parameters(build(spec, config.model)).values())
    rows = ", ".join(f"{fold} {folds[fold].rows:,}" for fold in FOLDS)
    lines = [
        f"Plan of {config.name}: no row of the dataset was read, nothing was trained or written.",
        f"  dataset   {config.dataset_folder} ({rows} rows)",
        f"  model     {parameters:,} parameters, {spec.rows:,} rows in the embedding table",
        f"  training  {settings.optimizer}, learning rate {settings.learning_rate:g}, batches of "
        f"{settings.batch_size:,}, at most {settings.epochs} epochs",
    ]
    started_from, checkpoints = None, checkpoint_folder(config)
    if settings.init_from is not None:
        started_from = start_from_model(Path(settings.init_from), spec, config.model).name
        lines.append(f"  starts    from the model in {settings.init_from} ({started_from[:12]}…)")
    elif settings.pretrain is not None:
        started_from = FM
        lines.append("  starts    from a factorization machine, which is trained first")
    found = checkpoint.preview(checkpoints, list_dependencies(spec, config.model, settings, folds, started_from))
    if found is None and (checkpoints / FM / checkpoint.FILE).exists():
        found = (
            f"a factorization machine's checkpoint is in {checkpoints / FM}, and is gone on from if it is of this one"
        )
    if found is not None:
        lines.append(f"  resumes   {found}")
    return "\n".join([*lines, f"  output    {config.workdir}/model"])


def network(config: Config, spec: Spec) -> str:
    """The layers of the network: kind, shape of the output, parameters."""
    found = layers(build(spec, config.model))
    rows = [("layer", "kind", "output", "parameters")]
    rows += [(layer.name, layer.kind, layer.shape, f"{layer.parameters:,}") for layer in found]
    rows.append(("sum", "", "", f"{sum(layer.parameters for layer in found):,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:<{widths[2]}}  {parameters:>{widths[3]}}"
        for name, kind, shape, parameters in rows
    ]
    rule = "  " + "─" * (sum(widths) + 6)
    fixed = sum(layer.parameters - layer.trainable for layer in found)
    return "\n".join(
        [
            f"Network of {config.name}: task {config.model.task}, {len(spec.fields)} fields, {len(spec.field_numbers)} "
            f"numbers in the pooling, {len(spec.dense)} dense columns; B is the size of a batch",
            *lines[:1],
            rule,
            *lines[1:-1],
            rule,
            *lines[-1:],
            f"  {fixed:,} of them are not trained by gradients: of batch norm, or an h of ones.",
            f"  The embedding table has {spec.rows:,} rows; each has a weight w_i in the linear part, too.",
            "  Two rows of a field are reserved: for a missing value, and for values out of the vocabulary (more with",
            "  oov_buckets, none for a bucketed number). Where the literature counts parameters, it is one a field.",
        ]
    )


def summary(config: Config, trained: Trained) -> str:
    """Describe what the job did, how good the model is, and where it is."""
    fitted = trained.fitted
    epochs = len(fitted.history["loss"])
    kept = "the last weights" if config.train.early_stopping is None else f"the weights of epoch {fitted.best_epoch}"
    judged, parameters = choose_judged_fold(trained.metrics), sum(count_parameters(trained.model).values())
    shown = [metric for metric in METRICS[config.model.task] if metric.key in trained.metrics[judged]]

    def line(name: str, rows: str, values: Mapping[str, Any]) -> str:
        cells = (f"{format_metric(values.get(metric.key), metric.key):>11}" for metric in shown)
        return f"  {name:<14}{rows:>12}{''.join(cells)}"

    lines = [
        f"Model of {config.name}: {parameters:,} parameters, {kept} after {epochs} epochs",
        f"  {'fold':<14}{'rows':>12}" + "".join(f"{metric.name:>11}" for metric in shown),
    ]
    for fold, values in trained.metrics.items():
        lines.append(line(fold, f"{values['rows']:,}", values))
        if fold == judged:
            lines += [line("  linear part", "", values["linear"]), line("  constant", "", values["constant"])]
    model = f"{config.workdir}/model"
    return "\n".join([*lines, f"  model     {model}", f"  report    {model}/report.html"])
