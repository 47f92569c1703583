"""Reading a configuration file: defaults, changes, and the messages about mistakes."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import nfm
from nfm.config.file import load
from nfm.config.settings import Config
from nfm.config.train import Range
from nfm.contract.encoder import Encoding
from nfm.contract.errors import ConfigError
from nfm.contract.publishing.publish import locked, publish
from tests.settings import MINIMAL, message, problems

DEFAULTS = """
name: titanic
workdir: build/titanic
source: {format: parquet, path: titanic.csv, table: null, options: {}, where: null,
  scan: auto, on_corrupt: refuse, on_bad_row: refuse, types: {}}
columns:
  key: [PassengerId]
  label: Survived
  weight: null
  categorical:
    Sex: &field
      {column: null, cross: null, min_count: 1, max_size: null, oov_buckets: 1, hash_buckets: null, share_with: null,
       bag: false, weights: null, delimiter: ",", max_length: null, rates: true}
    Cabin: {<<: *field, min_count: 2}
  numeric:
    Age: {column: null, as: bins, bins: 32, impute: mean,
      missing_flag: false, scale: standard, clip: null, buckets: null}
  time: {}
  time_zone: null
split:
  {by: [], valid: 0.1, test: 0.2, seed: 1, last: null, time: null, format: null, valid_from: null, test_from: null,
   column: null, negative_rate: 1.0}
ranking: null
recommend:
  {users: null, candidates: null, segment: null, exclude: [], where: null, k: 20, max_per: {}, output: null,
   file_mb: 128, gates: {min_users: null, min_coverage: null, max_popular_share: null, min_overlap: null}}
dataset: {partition_by: []}
model:
  {task: binary, embedding_dim: 64, init_std: 0.01, hidden_units: [128, 128], activation: relu, batch_norm: true,
   batch_norm_momentum: 0.9, batch_norm_epsilon: 0.001,
   pooling_dropout: 0.5, hidden_dropout: 0.2, l2: {embedding: 0.0, linear: 0.0, hidden: 0.0},
   use: {bins: true, rates: true, counts: true}, output: trained,
   standardize_label: true, embedding_dtype: float32}
train:
  {optimizer: adam, learning_rate: 0.001, initial_accumulator: 0.1, momentum: 0.0, linear_optimizer: null,
   clip_norm: null, average: 0.99, refit: false,
   schedule: {kind: constant, warmup_steps: 0, final_share: 0.0, factor: 0.5, patience: 2},
   loss_reduction: mean, batch_size: 1024, epochs: 50, seed: 1, shuffle_rows: 1000000, class_weights: null,
   unknown_dropout: 0.05, early_stopping: {monitor: val_loss, mode: auto, patience: 5, min_delta: 0.0},
   pretrain: null, init_from: null, checkpoint_seconds: 300, group: null}
tune: {metric: null, space: {}}
score: {source: null, model: null, output: null, columns: [], encoded: false, partition_by: [], format: parquet,
  file_mb: 128, explain: 0, rank: false, quantile: false,
  count_duplicate_keys: true,
  gates: {max_oov_rate: null, max_psi: null, max_field_psi: null, min_rows: null, max_duplicate_keys: null}}
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
        (
            "trian={}",
            "trian",
            "train",
            "name, workdir, source, columns, split, ranking, dataset, model, train, tune, score",
        ),
        (
            "columns.categorical.Sex.mincount=2",
            "columns.categorical.Sex.mincount",
            "min_count",
            "column, cross, min_count",
        ),
        (
            "columns.numeric.Age.as_=field",
            "columns.numeric.Age.as_",
            "as",
            "column, as, bins, impute, missing_flag, scale",
        ),
        ("score.source={path: x, paths: y}", "score.source.paths", "path", "format, path, table, options, where"),
        ("model.l2.kernel=1", "model.l2.kernel", None, "embedding, linear, hidden"),
        ("train.schedule.warmup=1", "train.schedule.warmup", "warmup_steps", "kind, warmup_steps, final_share, factor"),
        ("train.linear_optimizer={l3: 1}", "train.linear_optimizer.l3", None, "learning_rate, l1, l2"),
        ("tune.metrics=auc", "tune.metrics", "metric", "metric, space"),
        ("train.early_stopping.zzz=1", "train.early_stopping.zzz", None, "monitor, mode, patience, min_delta"),
    ],
)
def test_the_message_about_an_unknown_key_lists_the_allowed_keys(
    file: Path, change: str, where: str, meant: str | None, allowed: str
) -> None:
    hint = f" Did you mean {meant!r}?" if meant else ""
    (problem,) = problems(file, change)
    assert problem.startswith(f"{where}: unknown key.{hint} Allowed here: {allowed}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "columns.label=no",
            "columns.label: False given; input should be a valid string. "
            "YAML reads yes, no, on and off as booleans: put strings in quotes",
        ),
        ("train.seed=true", "train.seed: True given; input should be a valid integer"),
        ("train.seed=1.5", "train.seed: 1.5 given; input should be a valid integer"),
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
        ("model.task=rank", "model.task: 'rank' given; allowed: 'binary', 'regression', 'multiclass' or 'ranking'"),
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
def test_the_message_about_a_wrong_value_shows_it(file: Path, change: str, problem: str) -> None:
    assert problems(file, change) == [problem]


@pytest.mark.parametrize("key", ["name", "workdir", "source", "columns"])
def test_a_required_key_is_missing(file: Path, key: str) -> None:
    lines = MINIMAL.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    stop = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    file.write_text("\n".join(lines[:start] + lines[stop:]))
    assert problems(file) == [f"{key}: this key is required"]


@pytest.mark.parametrize("section", ["train", "columns", "source"])
def test_a_section_without_settings_is_refused(file: Path, section: str) -> None:
    (problem,) = problems(file, f"{section}=3")
    assert problem.startswith(f"{section}: 3 given; input should be a valid dictionary")


@pytest.mark.parametrize("key", ["[]", "PassengerId"])
def test_the_key_is_a_list_of_columns(file: Path, key: str) -> None:
    (problem,) = problems(file, f"columns.key={key}")
    assert problem.startswith(f"columns.key: {[] if key == '[]' else repr(key)} given; ")


def test_one_message_lists_all_problems(file: Path) -> None:
    found = problems(file, "train.seed=x", "model.embedding_dim=0", "score.colums=[a]", "columns.numeric.Age.impute=no")
    assert found == [
        "columns.numeric.Age.impute: False given; allowed: 'mean', 'median' or a number",
        "model.embedding_dim: 0 given; input should be greater than or equal to 1",
        "train.seed: 'x' given; input should be a valid integer",
        "score.colums: unknown key. Did you mean 'columns'? Allowed here: source, model, output, columns, "
        "encoded, partition_by, format, file_mb, explain, rank, quantile, count_duplicate_keys, gates",
    ]


DAILY = ["score.output=out/{day}/ds={ds}", "score.source={path: 'raw/{day}', where: \"ds = '{ds}'\"}"]


def test_names_in_braces_are_filled_in(file: Path) -> None:
    config = load(file, ["ds=2026-11-20", *DAILY, "day=7"])
    assert str(config.scores_folder) == "out/7/ds=2026-11-20"
    assert config.score.source is not None
    assert (config.score.source.path, config.score.source.where) == ("raw/7", "ds = '2026-11-20'")
    # As it is written, and not as the date or the number that YAML would read.
    assert str(load(file, ["score.output='{v}'", "v=007"]).scores_folder) == "007"


def test_a_name_in_braces_without_a_value_is_an_error_where_it_is_needed(file: Path) -> None:
    config = load(file, [*DAILY, "day=7"])  # the training needs none
    with pytest.raises(ConfigError) as refused:
        _ = config.scores_folder
    assert str(refused.value) == "score.output: 'out/7/ds={ds}' has no value for {ds}: set it with --set ds=…"
    assert config.score.source is not None
    with pytest.raises(ConfigError, match=r"^source\.where: .* has no value for \{ds\}"):
        config.score.source.check_filled()


def test_messages_show_the_keys_of_set_but_not_the_values(file: Path) -> None:
    text = message(file, "source.options.password=geheim", "train.seed=x")
    assert text.startswith(f"{file} with --set of source.options.password, train.seed is invalid:\n")
    assert "geheim" not in text


@pytest.mark.parametrize("value", ["a/b", "..", "", "a..b", "'; drop", "a{b}"])
def test_a_value_that_is_not_one_folder_name_is_refused(file: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set ds=.*: the value of \{ds\} may contain only letters"):
        load(file, [*DAILY, f"ds={value}"])


def test_braces_of_other_kinds_are_left_alone(file: Path) -> None:
    config = load(file, ["source.path='raw/{2025,2026}/*'"])
    config.source.check_filled()
    assert config.source.path == "raw/{2025,2026}/*"
    assert problems(file, "ds=1")[0].startswith("ds: unknown key.")


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
    ("change", "expected"),
    [
        ("train.seed", "--set train.seed: write it as section.key=value, for example --set train.seed=2"),
        ("=3", "--set =3: write it as section.key=value, for example --set train.seed=2"),
        ("train..seed=3", "--set train..seed=3: write it as section.key=value, for example --set train.seed=2"),
        ("", "--set : write it as section.key=value, for example --set train.seed=2"),
        ("name.first=x", "--set name.first=x: name is not a section"),
        ("columns.key.first=x", "--set columns.key.first=x: key is not a section"),
    ],
)
def test_a_change_that_cannot_be_made(file: Path, change: str, expected: str) -> None:
    assert message(file, change) == expected


def test_a_change_that_is_not_yaml(file: Path) -> None:
    assert message(file, "train.seed=[") == (
        "--set train.seed=[: not valid YAML (while parsing a flow node, expected the node content, but found "
        "'<stream end>')"
    )


def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.yaml"
    assert message(nowhere) == f"{nowhere} cannot be read: No such file or directory. Give a YAML file with --config."
    for content, expected in (
        (b"a:\n  {", ", line 2: not valid YAML (while parsing a flow node, "),
        (b"\xff\xfe", " is not YAML: "),
        (b"a: b: c", ", line 1: not valid YAML (mapping values are not allowed here)"),
        (b"a: \x01", ": not valid YAML (unacceptable character #x0001: "),
        (b"!!python/object/apply:os.getcwd []", ", line 1: not valid YAML (could not determine a constructor for "),
    ):
        file.write_bytes(content)
        assert message(file).startswith(f"{file}{expected}")
        assert "\n" not in message(file)


@pytest.mark.parametrize("content", ["", "- 1", "text", "3"])
def test_a_file_without_settings(file: Path, content: str) -> None:
    file.write_text(content)
    assert message(file) == f"{file} contains no settings. `python -m nfm.config.reference` prints all of them."


def test_the_configurations_in_conf_are_valid() -> None:
    paths = sorted((Path(__file__).parents[2] / "conf").glob("*.yaml"))
    assert paths
    assert all(isinstance(load(path), Config) for path in paths)


def test_a_repeated_key_is_refused(file: Path) -> None:
    file.write_text(f"{MINIMAL}\ntrain: {{seed: 1, epochs: 2, seed: 3}}")
    line = len(MINIMAL.split("\n")) + 1
    with pytest.raises(ConfigError, match=rf"^{file}, line {line}: the key 'seed' is already on line {line}$"):
        load(file)


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


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "new").symlink_to(tmp_path / "later/there")  # a run creates this folder
    (tmp_path / "config.yaml").write_text(MINIMAL)
    for key, name in (("workdir", "dataset"), ("score.model", "model"), ("score.output", "scores")):
        for path in ("loop", "loop/ds=1"):
            config = load(tmp_path / "config.yaml", [f"{key}={tmp_path}/{path}"])
            with pytest.raises(ConfigError, match=rf"^{key}: '{tmp_path}/{path}.*' given, but a symbolic link in this"):
                getattr(config, f"{name}_folder")
        assert load(tmp_path / "config.yaml", [f"{key}={tmp_path}/new"]).scores_folder
    for read in (nfm.load_model, Encoding.load):
        with pytest.raises(ConfigError, match=rf"^{tmp_path}/loop: a symbolic link in this path leads back to itself"):
            read(tmp_path / "loop")
    with pytest.raises(ConfigError, match="leads back to itself"), locked(tmp_path / "loop"):
        pass
    with publish(tmp_path / "new", "marker") as staging:
        (staging / "marker").touch()
    assert (tmp_path / "later/there/marker").exists()
    assert (tmp_path / "new").is_symlink()
