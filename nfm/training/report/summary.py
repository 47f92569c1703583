"""Plan, network table and summary of the train job."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfm.config.recipe import complete
from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.schema import FOLDS, Spec
from nfm.training import checkpoint
from nfm.training.data.batches import Fold
from nfm.training.metrics.names import BASELINES, choose_judged_fold, list_metrics
from nfm.training.model import build, describe
from nfm.training.report.page import format_metric
from nfm.training.report.parameters import count_parameters, list_layers
from nfm.training.report.verdict import list_warnings
from nfm.training.result import Trained
from nfm.training.train import REFIT, checkpoint_folder
from nfm.training.warm_start import FM, start_from_model

_SHOWN = 6  # metrics of a row


def plan(config: Config, encoding: Encoding, folds: Mapping[str, Fold]) -> str:
    """Describe what the job would do; raises DataError if the model in `train.init_from` cannot be used."""
    config, spec = complete(config, folds["train"].rows), encoding.spec
    settings = config.train
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
    if settings.refit:
        lines.append("  refit     then again on the train and the valid fold, for the best epoch's number of epochs")
    resumes = checkpoint.preview(
        checkpoints, checkpoint.list_dependencies(spec, config.model, settings, folds, started_from)
    )
    if resumes is None and (checkpoints / FM / checkpoint.FILE).exists():
        resumes = f"the factorization machine from its checkpoint in {checkpoints / FM}, if its settings are the same"
    if (checkpoints / REFIT / checkpoint.FILE).exists():
        resumes = f"the second training from its checkpoint in {checkpoints / REFIT}, if its settings are the same"
    if resumes is not None:
        lines.append(f"  resumes   {resumes}")
    return "\n".join([*lines, f"  output    {config.workdir}/model"])


def network(config: Config, spec: Spec) -> str:
    """Describe the layers of the network: kind, output shape, parameters."""
    statistics = json.loads((config.encoding_folder / "statistics.json").read_text())
    config = complete(config, statistics["rows"]["train"])
    layers = list_layers(build(spec, config.model))
    rows = [("layer", "kind", "output", "parameters")]
    rows += [(layer.name, layer.kind, layer.shape, f"{layer.parameters:,}") for layer in layers]
    rows.append(("sum", "", "", f"{sum(layer.parameters for layer in layers):,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"  {name:<{widths[0]}}  {kind:<{widths[1]}}  {shape:<{widths[2]}}  {parameters:>{widths[3]}}"
        for name, kind, shape, parameters in rows
    ]
    rule = "  " + "─" * (sum(widths) + 6)
    fixed = sum(layer.parameters - layer.trainable for layer in layers)
    return "\n".join(
        [
            f"Network of {config.name}: task {config.model.task}, {len(spec.fields)} fields, "
            f"{len(spec.field_numbers) + len(spec.binned)} numbers in the pooling, "
            f"{describe(spec, config.model).dense_columns(spec)} dense columns; B is the batch size",
            *lines[:1],
            rule,
            *lines[1:-1],
            rule,
            *lines[-1:],
            f"  {fixed:,} parameters are not trained by gradients: those of batch norm, and h if it is fixed at ones.",
            f"  The embedding table has {spec.rows:,} rows; each also has a weight w_i in the linear part.",
            "  Each field reserves one row for missing and one for out-of-vocabulary values (more with oov_buckets;",
            "  a bucketed number has only the former). Publications usually count one reserved row per field.",
        ]
    )


def summary(trained: Trained) -> str:
    """Describe the trained model: its metrics and the place of its files."""
    config, fitted = trained.config, trained.fitted
    epochs = len(fitted.history["loss"])
    kept = "the last weights" if config.train.early_stopping is None else f"the weights of epoch {fitted.best_epoch}"
    if config.train.refit:
        kept = f"trained again for {fitted.best_epoch} epochs, the best"
    judged, parameters = choose_judged_fold(trained.metrics), sum(count_parameters(trained.model).values())
    metrics = list_metrics(config.model.task, config.ranking.k if config.ranking else ())
    shown = [metric for metric in metrics if metric.key in trained.metrics[judged]][:_SHOWN]

    def line(name: str, rows: str, values: Mapping[str, Any]) -> str:
        cells = (f"{format_metric(values.get(metric.key), metric.key):>13}" for metric in shown)
        return f"  {name:<14}{rows:>12}{''.join(cells)}"

    lines = [
        f"Model of {config.name}: {parameters:,} parameters, {kept} after {epochs} epochs",
        f"  {'fold':<14}{'rows':>12}" + "".join(f"{metric.name:>13}" for metric in shown),
    ]
    for fold, values in trained.metrics.items():
        lines.append(line(fold, f"{values['rows']:,}", values))
        if fold == judged:
            lines += [line(f"  {name}", "", values[key]) for key, name in BASELINES.items() if key in values]
    if config.train.refit:
        rows = trained.rows["train"] + trained.rows["valid"]
        lines.append(
            f"  refit     the model was trained again on the {rows:,} rows of the train and the valid fold; the valid "
            "fold's metrics are those of the first training"
        )
    model = f"{config.workdir}/model"
    lines += [f"  model     {model}", f"  report    {model}/report.html"]
    lines += [f"  WARNING   {warning}" for warning in list_warnings(config, trained.metrics, fitted)]
    return "\n".join(lines)
