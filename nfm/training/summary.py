"""What the train job tells people."""

from collections.abc import Mapping

from nfm.config import Config
from nfm.contract.encoder import Encoding
from nfm.contract.schema import FOLDS
from nfm.training.data import Fold
from nfm.training.model import build
from nfm.training.train import Trained


def plan(config: Config, encoding: Encoding, folds: Mapping[str, Fold]) -> str:
    """What the job would do."""
    settings = config.train
    parameters = build(encoding.spec, config.model).count_params()
    rows = ", ".join(f"{fold} {folds[fold].rows:,}" for fold in FOLDS)
    return "\n".join(
        [
            f"Plan of {config.name}: the dataset was read, nothing was trained or written.",
            f"  dataset   {config.dataset_folder} ({rows} rows)",
            f"  model     {parameters:,} parameters, {encoding.spec.rows:,} rows in the embedding table",
            f"  training  {settings.optimizer}, learning rate {settings.learning_rate:g}, batches of "
            f"{settings.batch_size:,}, at most {settings.epochs} epochs",
            f"  output    {config.workdir}/model",
        ]
    )


def summary(config: Config, trained: Trained) -> str:
    """What the job did, how good the model is, and where it lies."""
    fitted = trained.fitted
    epochs = len(fitted.history["loss"])
    kept = "the last weights" if config.train.early_stopping is None else f"the weights of epoch {fitted.best_epoch}"
    lines = [
        f"Model of {config.name}: {fitted.model.count_params():,} parameters, {kept} after {epochs} epochs",
        "  fold           rows     AUC   log loss   accuracy",
    ]
    for fold, values in trained.metrics.items():
        auc = "–" if values["auc"] is None else f"{values['auc']:.4f}"
        lines.append(f"  {fold:<7}{values['rows']:>12,}{auc:>8}{values['log_loss']:>11.4f}{values['accuracy']:>11.4f}")
    model = f"{config.workdir}/model"
    return "\n".join([*lines, f"  model     {model}", f"  report    {model}/report.html"])
