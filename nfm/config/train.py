"""Settings of the model, the training and the search for better settings."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nfm.config.columns import Fraction, Positive, Settings, changed

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class L2(Settings):
    """L2 penalties: factors of the squared weights in the loss."""

    embedding: NotNegative = 0.0
    """For the embeddings of the batch's features, averaged over its rows. Default: see `model.batch_norm`."""
    linear: NotNegative = 0.0
    """For the linear weights of the batch's features, averaged over its rows."""
    hidden: NotNegative = 0.0
    """For the kernels of the hidden layers."""


class Use(Settings):
    """Inputs of the dataset that the model uses. A training can leave some out; the dataset stays the same."""

    bins: bool = True
    """The interpolated bins of numbers (`as: bins`)."""
    rates: bool = True
    """For each field, the smoothed rate of the label among the train rows with the same value (target rate), as a dense
    number. Without effect for more than 10 classes."""
    counts: bool = True
    """With `rates`: also the logarithm of the number of these rows, as a second dense number of each field."""


class Model(Settings):
    """The Neural Factorization Machine, with the names of the paper (He & Chua, SIGIR 2017)."""

    task: Literal["binary", "regression", "multiclass", "ranking"] = "binary"
    """`binary`: log loss, the score is a probability. `regression`: squared loss, the score is the number.
    `multiclass`: softmax over the classes of the train fold, one score per class. `ranking`: the score orders the items
    of a user (see `ranking`)."""
    embedding_dim: Positive = 64
    """Size K of an embedding."""
    init_std: AboveZero = 0.01
    """Standard deviation of the initial embeddings, as in the paper."""
    hidden_units: tuple[Positive, ...] = (128, 128)
    """Width of each hidden layer; `[]` for no hidden layer. Default for ranking: `[]`, with `batch_norm: false`."""
    activation: Literal["relu", "sigmoid", "tanh", "linear"] = "relu"
    """Activation of the hidden layers."""
    batch_norm: bool = True
    """Batch normalization of the pooled vector and of each hidden layer, before its activation. Default for a
    classification of fewer than 100,000 train rows: `false`, with `l2.embedding` 0.01, unless one of
    these or another setting of batch norm is given. The values of a model are in its metadata.json."""
    batch_norm_momentum: Fraction = 0.9
    """Share of the moving mean and variance, which scoring uses, that a step keeps; the rest comes from its batch."""
    batch_norm_epsilon: AboveZero = 1e-3
    """Added to the variance that batch normalization divides by."""
    pooling_dropout: Fraction = 0.5
    """Share of the pooled vector that dropout sets to 0."""
    hidden_dropout: Fraction = 0.2
    """Share of a hidden layer that dropout sets to 0."""
    l2: L2 = L2()
    use: Use = Use()
    output: Literal["trained", "ones"] = "trained"
    """The output vector h. `ones` with `hidden_units: []` makes a factorization machine; not for multiclass."""
    standardize_label: bool = True
    """For regression: train on (label - mean) / standard deviation of the train fold, so that the same settings suit
    labels of any size. Scores, metrics and losses are in the label's own unit. The paper does not."""
    embedding_dtype: Literal["float32", "float16"] = "float32"
    """Type of the embeddings in the stored model; `float16` halves its size."""

    @model_validator(mode="after")
    def _machine(self) -> Self:
        if self.output == "ones" and self.hidden_units:
            raise ValueError("output: ones makes a factorization machine without hidden layers: set hidden_units: []")
        if self.output == "ones" and self.task == "multiclass":
            raise ValueError("output: ones gives one output, multiclass needs one for each class: set output: trained")
        if not self.standardize_label and self.task != "regression":
            raise ValueError(f"standardize_label is only for task: regression, but it is {self.task}: remove it")
        return self


class EarlyStopping(Settings):
    """When to stop before the last epoch; the weights of the best epoch are kept. `null`: run all epochs and keep the
    last weights."""

    monitor: str = "val_loss"
    """Metric to monitor: `loss`, or a metric of the model task (binary: `auc`, `accuracy`; regression: `rmse`, `mae`;
    multiclass: `accuracy`), for the train fold; with `val_` in front, for the valid fold. For ranking: `loss`, or
    `val_` with `ndcg`, `hr`, `recall`, `map` or `mrr` at a length of `ranking.k`; default `val_ndcg@10`."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Direction of an improvement. `auto`: `max` for auc and accuracy, `min` for all others."""
    patience: Positive = 5
    """Epochs without improvement before stopping."""
    min_delta: NotNegative = 0.0
    """Smaller changes are not an improvement; in the unit of the metric as it is logged."""


MONITORS = {"binary": ("auc", "accuracy"), "regression": ("rmse", "mae"), "multiclass": ("accuracy",)}


class Schedule(Settings):
    """Change of the learning rate during a training."""

    kind: Literal["constant", "cosine", "plateau"] = "constant"
    """`cosine`: the rate falls until the end of the last epoch. `plateau`: it falls when the figure of
    early_stopping.monitor stops improving (`val_loss` without early stopping)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the rate rises linearly from 0; for every kind."""
    final_share: Fraction = 0.0
    """For cosine: the final rate as a fraction of the initial one."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """For plateau: multiplies the rate."""
    patience: Positive = 2
    """For plateau: epochs without improvement before the rate falls."""

    @model_validator(mode="after")
    def _of_the_kind(self) -> Self:
        for key, kind in (("final_share", "cosine"), ("factor", "plateau"), ("patience", "plateau")):
            if key in changed(self) and self.kind != kind:
                raise ValueError(f"{key} is only for kind: {kind}, but it is {self.kind}: remove it")
        return self


class Ftrl(Settings):
    """FTRL-proximal (McMahan et al. 2013) for the linear weights. It sets weights to exactly 0."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Learning rate of the linear weights."""
    l1: NotNegative = 0.0
    """Factor of the absolute weights; larger values set more weights to 0."""
    l2: NotNegative = 0.0
    """Factor of the squared weights."""


def _text_keys(value: Any) -> Any:
    """Convert the keys to texts, which name classes: YAML reads {0: 1, true: 2} with keys of several types."""
    if not isinstance(value, dict):
        return value
    return {str(key).lower() if isinstance(key, bool) else str(key): weight for key, weight in value.items()}


class Train(Settings):
    """How the model is trained."""

    optimizer: Literal["adagrad", "adam", "sgd"] = "adam"
    """Only the table rows of a batch are updated, also with `adam` (lazy Adam)."""
    learning_rate: AboveZero = 0.001
    """Learning rate, before the schedule. Default for adam: 0.001 · √(batch_size / 1024), so that another batch size
    costs little quality; for adagrad and sgd: 0.05."""
    initial_accumulator: NotNegative = 0.1
    """For adagrad: initial sum of squared gradients. The paper uses 1e-8."""
    momentum: Fraction = 0.0
    """For sgd: momentum."""
    linear_optimizer: Ftrl | None = Field(default=None, examples=[Ftrl()])
    """Separate optimizer of the linear weights: FTRL-proximal, which sets weights to exactly 0. `null`: the same
    optimizer for all weights."""
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(default=None, examples=[1.0])
    """Maximum gradient norm of a step; larger gradients are scaled down to it."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = 0.99
    """Measure and publish an exponential moving average of the weights of all steps, instead of the weights after the
    last one: the factor by which a step's share falls within 1,024 rows. `null`: no average."""
    schedule: Schedule = Schedule()
    loss_reduction: Literal["mean", "sum"] = "mean"
    """Loss of a batch: mean or sum of the losses of its rows. The paper sums. The sum of B rows is B times the mean.
    For sgd, `sum` needs a B times smaller learning rate. Adagrad divides the factor out after some steps; with `mean`
    its first steps are small unless `initial_accumulator` is small."""
    batch_size: Positive = 1024
    """Rows of a batch, at most: an epoch is divided into batches of about equal size. It has at least five, unless they
    would have fewer than 32 rows."""
    epochs: Positive = 50
    """Maximum number of passes over the train fold."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the initial weights, the shuffling and the dropout. The same seed on the same machine gives the same
    weights."""
    shuffle_rows: Positive = 1_000_000
    """Rows that are shuffled together, in memory; row groups are shuffled first."""
    class_weights: Annotated[Literal["balanced"] | dict[str, NotNegative] | None, BeforeValidator(_text_keys)] = Field(
        default=None, examples=["balanced", {"0": 1, "1": 10}]
    )
    """Weight of each class, by label. `balanced`: all classes of the train fold have the same total weight. Not for
    regression."""
    unknown_dropout: Fraction = 0.05
    """Share of ids that training replaces with an out-of-vocabulary id, so that values which the vocabulary lacks get a
    trained embedding. A value with c rows in the train fold is replaced in at least 3 / (3 + c) of them, so that the
    embeddings of rare values do not overfit. 0: no id is replaced."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    refit: bool = False
    """Train again on the rows of the train and the valid fold, for as many epochs as the best epoch's number, and
    publish that model. The metrics of the valid fold remain those of the first training. Needs early_stopping."""
    pretrain: Literal["fm"] | None = None
    """`fm`: train a factorization machine first and start from its embeddings."""
    init_from: str | None = None
    """Folder of an older model to start from. The encoding must be grown from its encoding (`--grow-from`)."""
    checkpoint_seconds: NotNegative = 300
    """Seconds between checkpoints inside an epoch; there is always one after each epoch."""
    group: str | None = None
    """A key column; adds the metric gAUC, the AUC within its groups. Only for binary."""

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "learning_rate" in data:
            return data
        rate, batch_size = 0.05, data.get("batch_size", 1024)
        if data.get("optimizer", "adam") == "adam":
            # A batch_size of another type or range is refused afterwards.
            is_size = isinstance(batch_size, int) and batch_size > 0
            rate = 0.001 * math.sqrt(batch_size / 1024) if is_size else 0.001
        return {**data, "learning_rate": rate}

    @model_validator(mode="after")
    def _of_the_optimizer(self) -> Self:
        given = changed(self)
        for key, optimizer in (("initial_accumulator", "adagrad"), ("momentum", "sgd")):
            if key in given and self.optimizer != optimizer:
                raise ValueError(f"{key} is only for optimizer: {optimizer}, but it is {self.optimizer}: remove it")
        if self.pretrain is not None and self.init_from is not None:
            raise ValueError("pretrain and init_from both set the initial embeddings: remove one")
        return self

    @model_validator(mode="after")
    def _of_the_refit(self) -> Self:
        if self.refit and self.early_stopping is None:
            raise ValueError(
                "refit trains for the best epoch's number of epochs, which early_stopping finds, but it is null: set "
                "early_stopping, or remove refit"
            )
        if self.refit and self.schedule.kind == "plateau":
            raise ValueError(
                "refit cannot be combined with schedule kind: plateau, because the second training has no valid fold: "
                "set kind: constant or cosine, or remove refit"
            )
        return self


Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Settings):
    """Range of numbers for a search."""

    low: int | Number
    """Smallest value."""
    high: int | Number
    """Largest value."""
    log: bool = False
    """Draw evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} and high {self.high:g} given; low must be smaller, and > 0 with log")
        return self


class Tune(Settings):
    """The search for better settings."""

    metric: str | None = Field(default=None, examples=["val_auc"])
    """Metric to optimize, as in early_stopping.monitor. Default: early_stopping.monitor."""
    space: dict[str, Range | tuple[Any, ...]] = Field(
        default={},
        examples=[
            {"model.embedding_dim": [16, 32, 64], "train.learning_rate": {"low": 0.001, "high": 0.1, "log": True}}
        ],
    )
    """Settings of `model` and `train` to search, each with a list of values or a range."""
