"""Settings of the model, the training and the search. The others are in `settings`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nfm.config.columns import Fraction, Positive, Settings, changed

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class L2(Settings):
    """Factors of the squared weights that are added to the loss."""

    embedding: NotNegative = 0.0  # over the rows of the batch, averaged over its samples
    linear: NotNegative = 0.0  # the same, of the first-order weights
    hidden: NotNegative = 0.0  # kernels of the hidden layers


class Model(Settings):
    """The Neural Factorization Machine (He & Chua 2017)."""

    # binary: log loss, the score is a probability. regression: squared loss, the score is the number. multiclass:
    # softmax over the classes of the train fold, a score for each
    task: Literal["binary", "regression", "multiclass"] = "binary"
    embedding_dim: Positive = 64  # K
    hidden_units: tuple[Positive, ...] = (128, 128)  # [] for none
    activation: Literal["relu", "sigmoid", "tanh", "linear"] = "relu"  # of the hidden layers
    batch_norm: bool = True  # on the pooled vector and on each hidden layer, before its activation
    pooling_dropout: Fraction = 0.5
    hidden_dropout: Fraction = 0.2
    l2: L2 = L2()
    output: Literal["trained", "ones"] = "trained"  # h; ones without hidden layers is a factorization machine
    embedding_dtype: Literal["float32", "float16"] = "float32"  # of the artifact's table; float16 halves its size

    @model_validator(mode="after")
    def _machine(self) -> Self:
        if self.output == "ones" and self.hidden_units:
            raise ValueError("output: ones makes a factorization machine, which has no hidden layers: hidden_units: []")
        if self.output == "ones" and self.task == "multiclass":
            raise ValueError("output: ones has one output, and multiclass needs one for each class: output: trained")
        return self


class EarlyStopping(Settings):
    """When to stop; the weights of the best epoch are kept."""

    monitor: str = "val_loss"  # loss, or a metric of the task, of the validation fold with val_ before it
    mode: Literal["auto", "min", "max"] = "auto"  # auto: auc and accuracy up, all others down
    patience: Positive = 5  # epochs without improvement
    min_delta: NotNegative = 0.0  # smaller changes are no improvement


MONITORS = {"binary": ("auc", "accuracy"), "regression": ("rmse", "mae"), "multiclass": ("accuracy",)}


class Schedule(Settings):
    """Schedule of the learning rate; constant unless a kind is set."""

    kind: Literal["constant", "cosine", "plateau"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # of any kind: the rate rises from 0 in a line
    # cosine: falls to final_share of the rate at the end of the last epoch. plateau: is multiplied by `factor` after
    # `patience` epochs in which early_stopping.monitor (val_loss without early stopping) did not improve
    final_share: Fraction = 0.0
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Positive = 2

    @model_validator(mode="after")
    def _of_the_kind(self) -> Self:
        for key, kind in (("final_share", "cosine"), ("factor", "plateau"), ("patience", "plateau")):
            if key in changed(self) and self.kind != kind:
                raise ValueError(f"{key} is for kind: {kind}, but kind is {self.kind}: leave it out")
        return self


class Ftrl(Settings):
    """FTRL-proximal (McMahan et al. 2013) for the first-order weights; those at exactly 0 are sparse."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0


def _text_keys(value: Any) -> Any:
    """YAML reads {0: 1, true: 2} with keys of several types; a class is named by its text."""
    if not isinstance(value, dict):
        return value
    return {str(key).lower() if isinstance(key, bool) else str(key): weight for key, weight in value.items()}


class Train(Settings):
    """How the model is fitted."""

    optimizer: Literal["adagrad", "adam", "sgd"] = "adagrad"  # adam is lazy: of the table, only the batch's rows move
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    initial_accumulator: NotNegative = 0.1  # of adagrad; the paper has 1e-8
    momentum: Fraction = 0.0  # of sgd
    linear_optimizer: Ftrl | None = None  # of the first-order weights; null: the same as all others
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # gradients of a step that are longer are shortened to it
    schedule: Schedule = Schedule()
    # The loss of a batch is the mean of its samples' losses; the paper sums. A sum of B samples is the mean times B
    loss_reduction: Literal["mean", "sum"] = "mean"
    batch_size: Positive = 1024
    epochs: Positive = 50  # at most
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1  # of the initial weights, the shuffling and the dropout
    shuffle_rows: Positive = 1_000_000  # that are shuffled together; row groups are shuffled before
    # Each class's weight, by label: balanced gives all classes of the train fold the same sum
    class_weights: Annotated[Literal["balanced"] | dict[str, NotNegative] | None, BeforeValidator(_text_keys)] = None
    unknown_dropout: Fraction = 0.0  # ids become out-of-vocabulary so often in training: unseen values get an embedding
    early_stopping: EarlyStopping | None = EarlyStopping()  # null: all epochs, the last weights
    pretrain: Literal["fm"] | None = None  # fit a factorization machine first, and start from its embeddings
    init_from: str | None = None  # a model/ to start from, whose encoding this one grew from
    checkpoint_seconds: NotNegative = 300  # between checkpoints inside an epoch; there is one after each epoch
    group: str | None = None  # a key column: AUC within its groups (gAUC) is measured, too

    @model_validator(mode="after")
    def _of_the_optimizer(self) -> Self:
        given = changed(self)
        for key, optimizer in (("initial_accumulator", "adagrad"), ("momentum", "sgd")):
            if key in given and self.optimizer != optimizer:
                raise ValueError(f"{key} is of {optimizer}, but optimizer is {self.optimizer}: leave it out")
        if self.pretrain is not None and self.init_from is not None:
            raise ValueError("pretrain and init_from both say what the embeddings start from: leave out one")
        return self


Number = Annotated[float, Field(allow_inf_nan=False)]


class Range(Settings):
    """Range of numbers for a search."""

    low: int | Number
    high: int | Number
    log: bool = False  # even on a logarithmic scale

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low {self.low:g} and high {self.high:g} given; low must be smaller, and > 0 with log")
        return self


class Tune(Settings):
    """The search for better settings: nfm tune."""

    metric: str | None = None  # of the validation fold, as in early_stopping.monitor; its monitor unless set
    # Setting → a range, or a list of values
    space: dict[str, Range | tuple[Any, ...]] = Field(default={})
