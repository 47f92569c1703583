"""The configuration: what it may say, and how it is told what it may not."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from nfm.config import Config, Dataset, Score, Split
from nfm.config_columns import Categorical, Numeric
from nfm.config_file import load
from nfm.config_train import Ftrl, Model, Range, Schedule, Train, Tune
from nfm.contract.errors import ConfigError

MINIMAL = """
name: titanic
workdir: build/titanic
source: {path: titanic.csv}
columns:
  key: [PassengerId]
  label: Survived
  categorical: {Sex: , Cabin: {min_count: 2}}
  numeric: {Age: {}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(MINIMAL)
    return path


def message(file: Path, *changes: str) -> str:
    """What is told about a configuration that is refused."""
    with pytest.raises(ConfigError) as refused:
        load(file, changes)
    assert refused.value.exit_code == 2
    return str(refused.value)


def problems(file: Path, *changes: str) -> list[str]:
    """The same, a line a problem."""
    first, *told, last = message(file, *changes).splitlines()
    keys = ", ".join(change.split("=")[0] for change in changes)
    assert first == (f"{file} with --set of {keys} is refused:" if changes else f"{file} is refused:")
    assert last == "conf/reference.yaml explains every key."
    assert all(line.startswith("  ") for line in told)
    return [line[2:] for line in told]


DEFAULTS = """
name: titanic
workdir: build/titanic
source: {format: parquet, path: titanic.csv, table: null, options: {}, where: null,
  scan: auto, on_corrupt: refuse}
columns:
  key: [PassengerId]
  label: Survived
  weight: null
  categorical:
    Sex: &field
      {column: null, cross: null, min_count: 1, max_size: null, oov_buckets: 1, hash_buckets: null, share_with: null,
       bag: false, weights: null, delimiter: ",", max_length: null}
    Cabin: {<<: *field, min_count: 2}
  numeric:
    Age: {column: null, as: dense, impute: mean, missing_flag: false, scale: standard, clip: null, buckets: null}
split:
  {by: [], valid: 0.1, test: 0.2, seed: 1, time: null, valid_from: null, test_from: null, column: null,
   negative_rate: 1.0}
dataset: {partition_by: []}
model:
  {task: binary, embedding_dim: 64, hidden_units: [128, 128], activation: relu, batch_norm: true,
   pooling_dropout: 0.5, hidden_dropout: 0.2, l2: {embedding: 0.0, linear: 0.0, hidden: 0.0}, output: trained,
   embedding_dtype: float32}
train:
  {optimizer: adagrad, learning_rate: 0.05, initial_accumulator: 0.1, momentum: 0.0, linear_optimizer: null,
   clip_norm: null, schedule: {kind: constant, warmup_steps: 0, final_share: 0.0, factor: 0.5, patience: 2},
   loss_reduction: mean, batch_size: 1024, epochs: 50, seed: 1, shuffle_rows: 1000000, class_weights: null,
   unknown_dropout: 0.0, early_stopping: {monitor: val_loss, mode: auto, patience: 5, min_delta: 0.0},
   pretrain: null, init_from: null, checkpoint_seconds: 300, group: null}
tune: {metric: null, space: {}}
score: {source: null, model: null, output: null, columns: [], encoded: false, partition_by: [], format: parquet,
  file_mb: 128, explain: 0, rank: false, quantile: false,
  gates: {max_oov_rate: null, max_psi: null, max_field_psi: null, min_rows: null}}
"""


def test_defaults(file: Path) -> None:
    assert load(file).model_dump(mode="json", by_alias=True) == yaml.safe_load(DEFAULTS)


def test_folders_are_under_the_workdir_unless_set(file: Path) -> None:
    config = load(file)
    folders = [config.dataset_folder, config.encoding_folder, config.model_folder, config.scores_folder]
    assert folders == [Path("build/titanic", name) for name in ("dataset", "encoding", "model", "scores")]
    config = load(file, ["score.model=/models/7", "score.output=/out"])
    assert (config.model_folder, config.scores_folder) == (Path("/models/7"), Path("/out"))


def test_a_source_is_named_as_the_user_wrote_it(file: Path) -> None:
    assert str(load(file).source) == "titanic.csv"
    assert str(load(file, ["source={table: shop.orders}"]).source) == "table shop.orders"
    assert str(load(file, ["source.path=[a.csv, b.csv]"]).source) == "a.csv, b.csv"


def test_a_moment_is_read_as_it_was_written(file: Path) -> None:
    split = load(file, ["split={time: t, valid_from: 2026-01-01, test_from: 2026-02-01 12:30:00}"]).split
    assert (split.valid_from, split.test_from) == ("2026-01-01", "2026-02-01 12:30:00")


def test_settings_never_change(file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(load(file).train, "seed", 2)  # noqa: B010


@pytest.mark.parametrize(
    ("change", "where", "meant", "allowed"),
    [
        (
            "train.learningrate=1",
            "train.learningrate",
            "learning_rate",
            "optimizer, learning_rate, initial_accumulator, momentum",
        ),
        ("trian={}", "trian", "train", "name, workdir, source, columns, split, dataset, model, train, tune, score"),
        (
            "columns.categorical.Sex.mincount=2",
            "columns.categorical.Sex.mincount",
            "min_count",
            "column, cross, min_count",
        ),
        ("columns.numeric.Age.as_=field", "columns.numeric.Age.as_", "as", "column, as, impute, missing_flag, scale"),
        ("score.source={path: x, paths: y}", "score.source.paths", "path", "format, path, table, options, where"),
        ("model.l2.kernel=1", "model.l2.kernel", None, "embedding, linear, hidden"),
        ("train.schedule.warmup=1", "train.schedule.warmup", "warmup_steps", "kind, warmup_steps, final_share, factor"),
        ("train.linear_optimizer={l3: 1}", "train.linear_optimizer.l3", None, "learning_rate, l1, l2"),
        ("tune.metrics=auc", "tune.metrics", "metric", "metric, space"),
        ("train.early_stopping.zzz=1", "train.early_stopping.zzz", None, "monitor, mode, patience, min_delta"),
    ],
)
def test_an_unknown_key_is_told_what_is_allowed(
    file: Path, change: str, where: str, meant: str | None, allowed: str
) -> None:
    hint = f" Did you mean {meant!r}?" if meant else ""
    (problem,) = problems(file, change)
    assert problem.startswith(f"{where}: there is no such key.{hint} Allowed here: {allowed}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("train.seed=true", "train.seed: True given; input should be a valid integer"),
        ("train.seed='2'", "train.seed: '2' given; input should be a valid integer"),
        ("train.seed=2.0", "train.seed: 2.0 given; input should be a valid integer"),
        ("train.seed=", "train.seed: None given; input should be a valid integer"),
        ("train.epochs=0", "train.epochs: 0 given; input should be greater than or equal to 1"),
        ("train.learning_rate=0", "train.learning_rate: 0 given; input should be greater than 0"),
        ("train.learning_rate=.inf", "train.learning_rate: inf given; input should be a finite number"),
        ("model.batch_norm=1", "model.batch_norm: 1 given; input should be a valid boolean"),
        ("model.activation=gelu", "model.activation: 'gelu' given; allowed: 'relu', 'sigmoid', 'tanh' or 'linear'"),
        ("model.pooling_dropout=1", "model.pooling_dropout: 1 given; input should be less than 1"),
        ("model.hidden_units=[8, 0]", "model.hidden_units.1: 0 given; input should be greater than or equal to 1"),
        ("model.l2.hidden=-1", "model.l2.hidden: -1 given; input should be greater than or equal to 0"),
        ("model.task=ranking", "model.task: 'ranking' given; allowed: 'binary', 'regression' or 'multiclass'"),
        ("train.clip_norm=0", "train.clip_norm: 0 given; input should be greater than 0"),
        ("train.momentum=1", "train.momentum: 1 given; input should be less than 1"),
        ("train.unknown_dropout=1", "train.unknown_dropout: 1 given; input should be less than 1"),
        ("train.schedule.factor=1", "train.schedule.factor: 1 given; input should be less than 1"),
        (
            "train.schedule.warmup_steps=-1",
            "train.schedule.warmup_steps: -1 given; input should be greater than or equal to 0",
        ),
        (
            "train.linear_optimizer={l1: -1}",
            "train.linear_optimizer.l1: -1 given; input should be greater than or equal to 0",
        ),
        ("split.valid=-0.1", "split.valid: -0.1 given; input should be greater than or equal to 0"),
        ("split.valid=.nan", "split.valid: nan given; input should be less than 1"),
        ("name=1", "name: 1 given; input should be a valid string"),
        ("name=2026-11-20", "name: datetime.date(2026, 11, 20) given; input should be a valid string"),
        ("columns.numeric.Age.clip=[0.1]", "columns.numeric.Age.clip.1: this key is required"),
        ("score.columns=x", "score.columns: 'x' given; input should be a valid list"),
    ],
)
def test_a_wrong_value_is_told_what_was_given(file: Path, change: str, problem: str) -> None:
    assert problems(file, change) == [problem]


@pytest.mark.parametrize("key", ["name", "workdir", "source", "columns"])
def test_a_required_key_is_missing(file: Path, key: str) -> None:
    lines = MINIMAL.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    file.write_text("\n".join(lines[:start] + lines[stop:]))
    assert problems(file) == [f"{key}: this key is required"]


@pytest.mark.parametrize("section", ["train", "columns", "source"])
def test_a_section_that_holds_no_settings_is_refused(file: Path, section: str) -> None:
    (problem,) = problems(file, f"{section}=3")
    assert problem.startswith(f"{section}: 3 given; input should be a valid dictionary")


@pytest.mark.parametrize("key", ["[]", "PassengerId"])
def test_the_key_is_a_list_of_columns(file: Path, key: str) -> None:
    (problem,) = problems(file, f"columns.key={key}")
    assert problem.startswith(f"columns.key: {[] if key == '[]' else repr(key)} given; ")


TAKEN = (
    "columns: two columns of the dataset would be called {} (label, weight and fold are taken): "
    "give the field another name and say which column it reads with `column:`"
)
LEAK = "columns: the label {} is also an input: the model would only learn to repeat it"
ONE_PLACE = "source: give either path (with format and options) or table"
CLIP = "columns.numeric.Age: clip takes two quantiles, the lower one first"
NEGATIVES = "split.negative_rate is for the binary task, but model.task is {}: leave it out"
BUCKETS = "columns.numeric.Age: buckets makes a categorical field, to which as, scale cannot apply: leave it out"
POOLING = "columns: nothing enters the pooling: name a column under categorical, or a number with buckets or as: field"
MACHINE = "model: output: ones makes a factorization machine, which has no hidden layers: hidden_units: []"
MONITOR = "train.early_stopping.monitor: {} given; allowed of the task {}: "
OF_BINARY = "loss, auc, accuracy, val_loss, val_auc, val_accuracy"
OF_REGRESSION = "loss, rmse, mae, val_loss, val_rmse, val_mae"
ONES = "model: output: ones has one output, and multiclass needs one for each class: output: trained"
OPTIMIZER = "train: {} is of {}, but optimizer is {}: leave it out"
SCHEDULE = "train.schedule: {} is for kind: {}, but kind is {}: leave it out"
GROUP = "train.group: {} given; it is for the binary task, and one of columns.key (PassengerId)"
START = "train: pretrain and init_from both say what the embeddings start from: leave out one"
RANGE = "low {} and high {} given; low must be smaller, and > 0 with log"
NO_VALID = (
    "early stopping watches the validation fold, but split.valid is 0 (or, by time, valid_from is not there): "
    "give it a share of the rows"
)
CROSS = "columns.categorical.F: a cross is made of the columns it names, so cross and column cannot stand together: "
HASHED = (
    "columns.categorical.F: a hashed field has no vocabulary, so hash_buckets and max_size, min_count cannot stand "
)
SHARED = "columns: categorical.F.share_with: {} given, which is no other categorical field"
NO_VOCABULARY = (
    "columns: categorical.F.share_with: 'Sex' has no vocabulary of its own to share (it is hashed, a cross, "
)
ONE_WAY = "split: rows are split in one way, but this names several: "
FOLDER = "{} given; it must be a folder that every machine sees at the same path"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("source.table=x", ONE_PLACE),
        ("source.path=null", ONE_PLACE),
        ("columns.numeric.Age.clip=[0.9, 0.1]", CLIP),
        ("columns.numeric.Age.clip=[0.5, 0.5]", CLIP),
        ("columns.numeric.Age={buckets: 8, as: dense, scale: none}", BUCKETS),
        ("columns.categorical={}", POOLING),
        ("columns.categorical.Fold={}", TAKEN.format("'Fold'")),
        ("columns.numeric.label={}", TAKEN.format("'label'")),
        ("columns.numeric.sex={}", TAKEN.format("'sex'")),
        ("columns.numeric={Age: {missing_flag: true}, Age_missing: {}}", TAKEN.format("'Age_missing'")),
        ("columns.label=Sex", LEAK.format("'Sex'")),
        ("columns.numeric.leak={column: Survived}", LEAK.format("'Survived'")),
        ("split={valid: 0.5, test: 0.5}", "split: valid + test is 1, which leaves nothing to train on"),
        ("model.output=ones", MACHINE),
        ("model={output: ones, hidden_units: [], task: multiclass}", ONES),
        ("train.early_stopping.monitor=x", MONITOR.format("'x'", "binary") + OF_BINARY),
        ("tune.metric=val_rmse", f"tune.metric: 'val_rmse' given; allowed of the task binary: {OF_BINARY}"),
        ("train={optimizer: adam, initial_accumulator: 1}", OPTIMIZER.format("initial_accumulator", "adagrad", "adam")),
        ("train.momentum=0.9", OPTIMIZER.format("momentum", "sgd", "adagrad")),
        ("train={pretrain: fm, init_from: old}", START),
        ("train.schedule.final_share=0.1", SCHEDULE.format("final_share", "cosine", "constant")),
        ("train.schedule={kind: cosine, factor: 0.1}", SCHEDULE.format("factor", "plateau", "cosine")),
        ("train.schedule={kind: cosine, patience: 9}", SCHEDULE.format("patience", "plateau", "cosine")),
        ("train.group=Sex", GROUP.format("'Sex'")),
        ("split.valid=0", NO_VALID),
        ("split={time: t, test_from: 2026-11-01}", NO_VALID),
        ("split={time: t}", "split: a split by time needs valid_from, test_from or both"),
        ("split.valid_from=3", "split: valid_from and test_from need time, the column they speak of"),
        ("split={time: t, valid_from: 2026-01-01, by: [a]}", ONE_WAY + "by, valid, test; time, valid_from, test_from"),
        ("split={column: fold, test: 0.3}", ONE_WAY + "by, valid, test; column"),
        (
            "split={time: t, valid_from: 2026-02-01, test_from: 2026-01-01}",
            "split: test_from comes before valid_from: the folds follow each other train, valid, test",
        ),
        (
            "split={time: t, valid_from: 7, test_from: 2026-01-01}",
            "split: valid_from and test_from are of two kinds: write them alike",
        ),
        ("split.negative_rate=0", "split.negative_rate: 0 given; input should be greater than 0"),
        ("source.path=[]", "source.path: [] given; a path is a text, or a list of texts"),
        ("source.path=[a, 3]", "source.path: ['a', 3] given; a path is a text, or a list of texts"),
        ("source.scan=fast", "source.scan: 'fast' given; allowed: 'auto', 'parquet' or 'spark'"),
        ("columns.categorical.F={cross: [a, b], column: c}", CROSS + "leave out one side"),
        ("columns.categorical.F={hash_buckets: 9, min_count: 2, max_size: 3}", HASHED + "together: leave out one side"),
        (
            "columns.categorical.F={max_length: 3}",
            "columns.categorical.F: max_length is for bags: add bag: true, or leave it out",
        ),
        ("columns.categorical.F={share_with: F}", SHARED.format("'F'")),
        ("columns.categorical.F={share_with: nobody}", SHARED.format("'nobody'")),
        (
            "columns.categorical={Sex: {hash_buckets: 3}, F: {share_with: Sex}}",
            NO_VOCABULARY + "or shares another's)",
        ),
        ("columns.categorical={Tags: {bag: true}, tags_weights: {}}", TAKEN.format("'Tags_weights'")),
        ("workdir=hdfs://a/b", FOLDER.format("workdir: 'hdfs://a/b'")),
        ("score.model=s3://a", FOLDER.format("score.model: 's3://a'")),
        ("score.output=s3://a", FOLDER.format("score.output: 's3://a'")),
    ],
)
def test_impossible_combinations(file: Path, change: str, problem: str) -> None:
    assert problems(file, change) == [problem]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["model.task=regression", "split.negative_rate=0.5"], NEGATIVES.format("regression")),
        (["model.task=multiclass", "split.negative_rate=0.5"], NEGATIVES.format("multiclass")),
        (
            ["model.task=regression", "train.class_weights=balanced"],
            "train.class_weights: a regression has no classes; use columns.weight",
        ),
        (
            ["model.task=regression", "train.early_stopping.monitor=val_auc"],
            MONITOR.format("'val_auc'", "regression") + OF_REGRESSION,
        ),
        (
            ["model.task=multiclass", "train.early_stopping.monitor=val_auc"],
            MONITOR.format("'val_auc'", "multiclass") + "loss, accuracy, val_loss, val_accuracy",
        ),
        (["model.task=regression", "train.group=PassengerId"], GROUP.format("'PassengerId'")),
        (["model.task=multiclass", "train.group=PassengerId"], GROUP.format("'PassengerId'")),
    ],
    ids=str,
)
def test_what_a_task_does_not_take(file: Path, changes: list[str], problem: str) -> None:
    assert problems(file, *changes) == [problem]


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        ("{low: 2, high: 2}", "2", "2"),
        ("{low: 0.5, high: 0.1}", "0.5", "0.1"),
        ("{low: 0, high: 1, log: true}", "0", "1"),
    ],
)
def test_a_range_without_numbers_in_it_is_refused(file: Path, space: str, low: str, high: str) -> None:
    told = message(file, f"tune={{space: {{train.learning_rate: {space}}}}}")
    assert RANGE.format(low, high) in told


@pytest.mark.parametrize(
    "changes",
    [
        ["model.task=regression", "train.early_stopping.monitor=val_rmse", "tune.metric=val_mae"],
        ["model.task=multiclass", "train.class_weights={a: 1, b: 2.5}", "train.early_stopping.monitor=val_accuracy"],
        ["train={optimizer: sgd, momentum: 0.9, loss_reduction: sum, pretrain: fm}"],
        ["train={optimizer: adagrad, initial_accumulator: 1e-8}", "train.linear_optimizer={l1: 0.01}"],
        ["train.schedule={kind: cosine, final_share: 0.1, warmup_steps: 100}", "train.class_weights=balanced"],
        ["train.schedule={kind: plateau, factor: 0.1, patience: 1}", "train.group=PassengerId"],
        ["split.valid=0", "train.early_stopping=null"],
        ["split.valid=0", "train.early_stopping.monitor=loss"],
        ["model={output: ones, hidden_units: []}"],
        ["columns.numeric.Age={buckets: 2, column: age}"],
        ["columns={key: [id], label: y, numeric: {x: {as: field}}}"],
        ["columns={key: [id], label: y, numeric: {x: {buckets: 2}}}"],
        ["columns.numeric.Age={clip: [0, 1], impute: -1.5}"],
        ["columns.numeric.years={column: Age}"],
        ["split={time: t, valid_from: 2026-01-01, test_from: 2026-02-01, negative_rate: 0.1}"],
        ["split={time: t, valid_from: 3, test_from: 9}"],
        ["split={column: fold}"],
        ["source.path=[a, b]", "source.scan=parquet", "source.on_corrupt=skip"],
        ["columns.categorical.Tags={bag: true, weights: w, delimiter: ';', max_length: 20, hash_buckets: 100}"],
        ["columns.categorical={Sex: {}, F: {share_with: Sex}, G: {cross: [a, b], hash_buckets: 10}}"],
        ["dataset.partition_by=[country]"],
        ["source.options={header: true, sep: ';', samplingRatio: 0.5, maxColumns: 9}"],
    ],
    ids=str,
)
def test_possible_combinations(file: Path, changes: list[str]) -> None:
    assert isinstance(load(file, changes), Config)


def test_all_problems_are_told_at_once(file: Path) -> None:
    told = problems(file, "train.seed=x", "model.embedding_dim=0", "score.colums=[a]", "columns.numeric.Age.impute=no")
    assert told == [
        "columns.numeric.Age.impute: False given; allowed: 'mean', 'median' or a number",
        "model.embedding_dim: 0 given; input should be greater than or equal to 1",
        "train.seed: 'x' given; input should be a valid integer",
        "score.colums: there is no such key. Did you mean 'columns'? Allowed here: source, model, output, columns, "
        "encoded, partition_by, format, file_mb, explain, rank, quantile, gates",
    ]


DAILY = ["score.output=out/{day}/ds={ds}", "score.source={path: 'raw/{day}', where: \"ds = '{ds}'\"}"]


def test_names_in_braces_are_filled_in(file: Path) -> None:
    config = load(file, ["ds=2026-11-20", *DAILY, "day=7"])
    assert str(config.scores_folder) == "out/7/ds=2026-11-20"
    assert config.score.source is not None
    assert (config.score.source.path, config.score.source.where) == ("raw/7", "ds = '2026-11-20'")
    # As it is written, and not as the date or the number that YAML would read.
    assert str(load(file, ["score.output='{v}'", "v=007"]).scores_folder) == "007"


def test_a_name_in_braces_without_a_value_is_told_where_it_is_needed(file: Path) -> None:
    config = load(file, [*DAILY, "day=7"])  # the training needs none
    with pytest.raises(ConfigError) as refused:
        _ = config.scores_folder
    assert str(refused.value) == "score.output: 'out/7/ds={ds}' has no value for {ds}: give it with --set ds=…"
    assert config.score.source is not None
    with pytest.raises(ConfigError, match=r"^source\.where: .* has no value for \{ds\}"):
        config.score.source.check_filled()


def test_of_what_was_set_the_keys_are_told_and_no_value(file: Path) -> None:
    told = message(file, "source.options.password=geheim", "train.seed=x")
    assert told.startswith(f"{file} with --set of source.options.password, train.seed is refused:\n")
    assert "geheim" not in told


@pytest.mark.parametrize("value", ["a/b", "..", "", "a..b", "'; drop", "a{b}"])
def test_a_value_that_would_leave_its_place_is_refused(file: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set ds=.*: what stands in for \{ds\} may hold letters"):
        load(file, [*DAILY, f"ds={value}"])


def test_braces_of_other_kinds_are_left_alone(file: Path) -> None:
    config = load(file, ["source.path='raw/{2025,2026}/*'"])
    config.source.check_filled()
    assert config.source.path == "raw/{2025,2026}/*"
    assert problems(file, "ds=1")[0].startswith("ds: there is no such key.")


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("1.e-3", 1e-3), ("1.5e+2", 150.0), (".5e1", 5.0), ("2", 2.0)]
)
def test_numbers_are_those_of_yaml_1_2(file: Path, text: str, number: float) -> None:
    assert load(file, [f"train.learning_rate={text}"]).train.learning_rate == number
    file.write_text(f"{MINIMAL}\ntrain: {{learning_rate: {text}}}")
    assert load(file).train.learning_rate == number


@pytest.mark.parametrize("name", ["e3", "1e", "1e-3x", "'1e3'"])
def test_what_only_looks_like_a_number_is_a_text(file: Path, name: str) -> None:
    assert load(file, [f"name={name}"]).name == name.strip("'")


def test_changes_from_the_command_line(file: Path) -> None:
    changes = ["train.seed=7", "train.seed=8", "model.hidden_units=[16]", "columns.categorical.Sex.max_size=9"]
    config = load(file, [*changes, "name=a=b", "train.early_stopping=null", "columns.numeric.Fare={as: field}"])
    assert (config.train.seed, config.model.hidden_units, config.name) == (8, (16,), "a=b")
    assert config.columns.categorical["Sex"].max_size == 9
    assert config.train.early_stopping is None
    assert load(file, ["split.by=[b, a]"]).split.by == ("b", "a")
    assert config.columns.numeric["Fare"].as_ == "field"
    assert load(file).train.seed == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.seed", "--set train.seed: write it as section.key=value, for example --set train.seed=2"),
        ("=3", "--set =3: write it as section.key=value, for example --set train.seed=2"),
        ("train..seed=3", "--set train..seed=3: write it as section.key=value, for example --set train.seed=2"),
        ("", "--set : write it as section.key=value, for example --set train.seed=2"),
        ("name.first=x", "--set name.first=x: name is not a section"),
        ("columns.key.first=x", "--set columns.key.first=x: key is not a section"),
    ],
)
def test_a_change_that_cannot_be_made(file: Path, change: str, told: str) -> None:
    assert message(file, change) == told


def test_a_change_that_is_no_yaml(file: Path) -> None:
    assert message(file, "train.seed=[").startswith("--set train.seed=[: the value is not YAML: ")


def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.yaml"
    assert message(nowhere) == f"{nowhere} cannot be read: No such file or directory. Give a YAML file with --config."
    for content in (b"{", b"\xff\xfe", b"a: b: c", b"!!python/object/apply:os.getcwd []"):
        file.write_bytes(content)
        assert message(file).startswith(f"{file} is not YAML: ")


@pytest.mark.parametrize("content", ["", "- 1", "text", "3"])
def test_a_file_that_holds_no_settings(file: Path, content: str) -> None:
    file.write_text(content)
    assert message(file) == f"{file} holds no settings. conf/reference.yaml shows them all."


def test_the_configurations_that_come_along_are_taken() -> None:
    paths = sorted((Path(__file__).parents[1] / "conf").glob("*.yaml"))
    assert paths
    assert all(isinstance(load(path), Config) for path in paths)


def test_a_key_that_stands_twice_is_refused(file: Path) -> None:
    file.write_text(f"{MINIMAL}\ntrain: {{seed: 1, epochs: 2, seed: 3}}")
    with pytest.raises(ConfigError, match="the key 'seed' stands twice"):
        load(file)


def keys(settings: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in settings.model_fields.items()}


def test_the_reference_shows_every_key_with_its_default() -> None:
    """Sections that name columns show all keys of one entry at least; what is left at its default says the default."""
    content = yaml.safe_load(Path("conf/reference.yaml").read_text())
    assert content.keys() == keys(Config)
    for name in ("source", "columns", "split", "dataset", "model", "train", "tune", "score"):
        section = Config.model_fields[name].annotation
        assert isinstance(section, type)
        assert content[name].keys() == keys(section)
    assert content["columns"]["categorical"]["Cabin"].keys() == keys(Categorical)
    assert content["columns"]["numeric"]["Age"].keys() | {"buckets"} == keys(Numeric)
    assert content["train"]["schedule"].keys() == keys(Schedule)
    stated, defaults = (
        load(Path("conf/reference.yaml")),
        {"split": Split(), "dataset": Dataset(), "model": Model(), "train": Train(), "tune": Tune(), "score": Score()},
    )
    assert {name: getattr(stated, name) for name in defaults} == defaults
    assert stated.columns.categorical["Cabin"] == Categorical()
    assert stated.columns.numeric["Age"] == Numeric.model_validate({})


def test_the_reference_shows_what_a_default_of_null_could_be() -> None:
    text = Path("conf/reference.yaml").read_text()
    for section, shown in ((Ftrl, "{learning_rate: 0.1, l1: 0, l2: 0}"), (Range, "{low: 0.001, high: 0.1, log: true}")):
        assert shown in text
        assert yaml.safe_load(shown).keys() == keys(section)
    assert Ftrl.model_validate(yaml.safe_load("{learning_rate: 0.1, l1: 0, l2: 0}")) == Ftrl()


def test_a_search_space(file: Path) -> None:
    change = "tune={space: {model.embedding_dim: [16, 32], train.learning_rate: {low: 1e-3, high: 0.1, log: true}}}"
    space = load(file, [change]).tune.space
    assert space == {
        "model.embedding_dim": (16, 32),
        "train.learning_rate": Range.model_validate({"low": 0.001, "high": 0.1, "log": True}),
    }


def test_passwords_are_not_written_into_the_model(file: Path) -> None:
    change = "source={format: jdbc, path: a, options: {dbtable: orders, password: hunter2, apiToken: x}}"
    written = load(file, [change]).model_dump(mode="json")["source"]["options"]
    assert written == {"dbtable": "orders", "password": "***", "apiToken": "***"}
