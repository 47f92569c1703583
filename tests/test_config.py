"""The configuration: what it may say, and how it is told what it may not."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nfm.config import Config, load
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


def problems(file: Path, *changes: str) -> list[str]:
    """What is told about a configuration that is refused, a line a problem."""
    with pytest.raises(ConfigError) as refused:
        load(file, changes)
    assert refused.value.exit_code == 2
    first, *told, last = str(refused.value).splitlines()
    assert first == f"{file} is refused:"
    assert last == "conf/reference.yaml explains every key."
    assert all(line.startswith("  ") for line in told)
    return [line[2:] for line in told]


def message(file: Path, *changes: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(file, changes)
    assert refused.value.exit_code == 2
    return str(refused.value)


def test_defaults(file: Path) -> None:
    assert load(file).model_dump(by_alias=True) == {
        "name": "titanic",
        "workdir": "build/titanic",
        "source": {"format": "parquet", "path": "titanic.csv", "table": None, "options": {}, "where": None},
        "columns": {
            "key": ("PassengerId",),
            "label": "Survived",
            "weight": None,
            "categorical": {
                "Sex": {"column": None, "min_count": 1, "max_size": None, "oov_buckets": 1},
                "Cabin": {"column": None, "min_count": 2, "max_size": None, "oov_buckets": 1},
            },
            "numeric": {
                "Age": {
                    "column": None,
                    "as": "dense",
                    "impute": "mean",
                    "missing_flag": False,
                    "scale": "standard",
                    "clip": None,
                    "buckets": None,
                }
            },
        },
        "split": {"by": (), "valid": 0.1, "test": 0.2, "seed": 1},
        "model": {
            "task": "binary",
            "embedding_dim": 64,
            "hidden_units": (128, 128),
            "activation": "relu",
            "batch_norm": True,
            "pooling_dropout": 0.5,
            "hidden_dropout": 0.2,
            "l2": {"embedding": 0.0, "linear": 0.0, "hidden": 0.0},
            "output": "trained",
        },
        "train": {
            "optimizer": "adagrad",
            "learning_rate": 0.05,
            "batch_size": 1024,
            "epochs": 50,
            "seed": 1,
            "early_stopping": {"monitor": "val_loss", "mode": "auto", "patience": 5, "min_delta": 0.0},
        },
        "score": {"source": None, "model": None, "output": None, "columns": ()},
    }


def test_folders_are_under_the_workdir_unless_set(file: Path) -> None:
    config = load(file)
    folders = [config.dataset_folder, config.encoding_folder, config.model_folder, config.scores_folder]
    assert folders == [Path("build/titanic", name) for name in ("dataset", "encoding", "model", "scores")]
    config = load(file, ["score.model=/models/7", "score.output=/out"])
    assert (config.model_folder, config.scores_folder) == (Path("/models/7"), Path("/out"))


def test_a_source_is_named_as_the_user_wrote_it(file: Path) -> None:
    assert str(load(file).source) == "titanic.csv"
    assert str(load(file, ["source={table: shop.orders}"]).source) == "table shop.orders"


def test_settings_never_change(file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(file).train.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "train.learningrate=1",
            "train.learningrate: there is no such key. Did you mean 'learning_rate'? "
            "Allowed here: optimizer, learning_rate, batch_size, epochs, seed, early_stopping",
        ),
        (
            "trian={}",
            "trian: there is no such key. Did you mean 'train'? "
            "Allowed here: name, workdir, source, columns, split, model, train, score",
        ),
        (
            "columns.categorical.Sex.mincount=2",
            "columns.categorical.Sex.mincount: there is no such key. Did you mean 'min_count'? "
            "Allowed here: column, min_count, max_size, oov_buckets",
        ),
        (
            "columns.numeric.Age.as_=field",
            "columns.numeric.Age.as_: there is no such key. Did you mean 'as'? "
            "Allowed here: column, as, impute, missing_flag, scale, clip, buckets",
        ),
        (
            "score.source={path: x, paths: y}",
            "score.source.paths: there is no such key. Did you mean 'path'? "
            "Allowed here: format, path, table, options, where",
        ),
        (
            "model.l2.kernel=1",
            "model.l2.kernel: there is no such key. Allowed here: embedding, linear, hidden",
        ),
        (
            "train.early_stopping.zzz=1",
            "train.early_stopping.zzz: there is no such key. Allowed here: monitor, mode, patience, min_delta",
        ),
    ],
)
def test_an_unknown_key_is_told_what_is_allowed(file: Path, change: str, problem: str) -> None:
    assert problems(file, change) == [problem]


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
        ("split.valid=-0.1", "split.valid: -0.1 given; input should be greater than or equal to 0"),
        ("split.valid=.nan", "split.valid: nan given; input should be greater than or equal to 0"),
        ("name=1", "name: 1 given; input should be a valid string"),
        ("name=2026-11-20", "name: datetime.date(2026, 11, 20) given; input should be a valid string"),
        ("columns.numeric.Age.buckets=1", "columns.numeric.Age.buckets: 1 given; input should be greater than or equal to 2"),
        ("columns.numeric.Age.clip=[0.1]", "columns.numeric.Age.clip.1: this key is required"),
        ("columns.categorical.Sex.oov_buckets=0", "columns.categorical.Sex.oov_buckets: 0 given; input should be greater than or equal to 1"),
    ],
)  # fmt: skip
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


TAKEN = "(label, weight and fold are taken): give the field another name and say which column it reads with `column:`"
ELSEWHERE = "it must be a folder that every machine sees at the same path"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("source.table=x", "source: give either path (with format and options) or table"),
        ("source.path=null", "source: give either path (with format and options) or table"),
        ("columns.numeric.Age.clip=[0.9, 0.1]", "columns.numeric.Age: clip takes two quantiles, the lower one first"),
        ("columns.numeric.Age.clip=[0.5, 0.5]", "columns.numeric.Age: clip takes two quantiles, the lower one first"),
        (
            "columns.numeric.Age={buckets: 8, as: dense, scale: none}",
            "columns.numeric.Age: buckets makes a categorical field, to which as, scale cannot apply: leave it out",
        ),
        ("columns.categorical={}", "columns: nothing enters the pooling: name a column under categorical, or a numeric "
         "one with buckets or as: field"),
        ("columns.categorical.Fold={}", f"columns: two columns of the dataset would be called 'Fold' {TAKEN}"),
        ("columns.numeric.label={}", f"columns: two columns of the dataset would be called 'label' {TAKEN}"),
        ("columns.numeric.sex={}", f"columns: two columns of the dataset would be called 'sex' {TAKEN}"),
        (
            "columns.numeric={Age: {missing_flag: true}, Age_missing: {}}",
            f"columns: two columns of the dataset would be called 'Age_missing' {TAKEN}",
        ),
        (
            "columns.label=Sex",
            "columns: the label 'Sex' is also an input: the model would only learn to repeat it",
        ),
        (
            "columns.numeric.leak={column: Survived}",
            "columns: the label 'Survived' is also an input: the model would only learn to repeat it",
        ),
        ("split={valid: 0.5, test: 0.5}", "split: valid + test is 1, which leaves nothing to train on"),
        (
            "model.output=ones",
            "model: output: ones makes a factorization machine, which has no hidden layers: hidden_units: []",
        ),
        (
            "train.early_stopping.monitor=val_los",
            "train: early_stopping.monitor: 'val_los' given; allowed: loss, auc, accuracy, val_loss, val_auc, val_accuracy",
        ),
        (
            "split.valid=0",
            "early stopping watches the validation fold, but split.valid is 0: give it a share of the rows",
        ),
        ("workdir=hdfs://a/b", f"workdir: 'hdfs://a/b' given; {ELSEWHERE}"),
        ("score.model=s3://a", f"score.model: 's3://a' given; {ELSEWHERE}"),
        ("score.output=s3://a", f"score.output: 's3://a' given; {ELSEWHERE}"),
    ],
)  # fmt: skip
def test_impossible_combinations(file: Path, change: str, problem: str) -> None:
    assert problems(file, change) == [problem]


@pytest.mark.parametrize(
    "changes",
    [
        ["split.valid=0", "train.early_stopping=null"],
        ["split.valid=0", "train.early_stopping.monitor=loss"],
        ["model={output: ones, hidden_units: []}"],
        ["columns.numeric.Age={buckets: 2, column: age}"],
        ["columns={key: [id], label: y, numeric: {x: {as: field}}}"],
        ["columns={key: [id], label: y, numeric: {x: {buckets: 2}}}"],
        ["columns.numeric.Age={clip: [0, 1], impute: -1.5}"],
        ["columns.numeric.years={column: Age}"],
        ["source.options={header: true, sep: ';', samplingRatio: 0.5, maxColumns: 9}"],
    ],
    ids=str,
)
def test_possible_combinations(file: Path, changes: list[str]) -> None:
    assert isinstance(load(file, changes), Config)


def test_all_problems_are_told_at_once(file: Path) -> None:
    told = problems(file, "train.seed=x", "model.embedding_dim=0", "score.colums=[a]", "columns.numeric.Age.impute=no")
    assert told[0].startswith("columns.numeric.Age.impute")
    assert "allowed: 'mean' or 'median'" in told[0]
    assert told[-3:] == [
        "model.embedding_dim: 0 given; input should be greater than or equal to 1",
        "train.seed: 'x' given; input should be a valid integer",
        "score.colums: there is no such key. Did you mean 'columns'? Allowed here: source, model, output, columns",
    ]


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
    changes = [
        "train.seed=7",
        "train.seed=8",
        "model.hidden_units=[16]",
        "columns.categorical.Sex.max_size=9",
        "name=a=b",
    ]
    config = load(file, [*changes, "train.early_stopping=null", "columns.numeric.Fare={as: field}"])
    assert (config.train.seed, config.model.hidden_units, config.name) == (8, (16,), "a=b")
    assert config.columns.categorical["Sex"].max_size == 9
    assert config.train.early_stopping is None
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


def test_keys_are_texts(file: Path) -> None:
    file.write_text(f"{MINIMAL}\n1: 2")
    assert problems(file) == ["1: 1 given; keys should be strings"]


def test_the_configurations_that_come_along_are_taken() -> None:
    paths = sorted((Path(__file__).parents[1] / "conf").glob("*.yaml"))
    assert paths
    for path in paths:
        assert isinstance(load(path), Config)


def test_a_list_of_settings_is_kept_as_it_is_written(file: Path) -> None:
    config: Any = load(file, ["split.by=[b, a]", "score.columns=[x]"])
    assert (config.split.by, config.score.columns) == (("b", "a"), ("x",))
