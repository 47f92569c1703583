"""Combinations of settings that are valid, and those that are not."""

from pathlib import Path

import pytest

from nfm.config.file import load
from nfm.config.settings import Config
from tests.settings import message, problems

TAKEN = (
    "columns: two columns of the dataset would be named {} (label, weight, fold, rate_part are reserved): "
    "rename the field and set its raw column with `column:`"
)
BOTH = "columns: {} is in both categorical and numeric: remove one, or rename one and set its raw column with `column:`"
LEAK = "columns: the label {} is also an input, so the model would see the answer: remove it from the inputs"
ONE_PLACE = "source: give either path (with format and options) or table"
CLIP = "columns.numeric.Age: clip takes two quantiles, the lower one first"
NEGATIVES = "split.negative_rate is only for the binary task, but model.task is {}: remove it"
BUCKETS = (
    "columns.numeric.Age: buckets makes a categorical field, so as, scale cannot apply: remove as, scale or buckets"
)
POOLING = (
    "columns: no feature enters the pooling: add a column under categorical, or a number with buckets, as: field or "
    "as: bins"
)
MACHINE = "model: output: ones makes a factorization machine without hidden layers: set hidden_units: []"
MONITOR = "train.early_stopping.monitor: {} given; allowed for the task {}: "
OF_BINARY = "loss, auc, accuracy, val_loss, val_auc, val_accuracy"
OF_REGRESSION = "loss, rmse, mae, val_loss, val_rmse, val_mae"
ONES = "model: output: ones gives one output, multiclass needs one for each class: set output: trained"
OPTIMIZER = "train: {} is only for optimizer: {}, but it is {}: remove it"
SCHEDULE = "train.schedule: {} is only for kind: {}, but it is {}: remove it"
GROUP = "train.group: {} given; it must be one of columns.key (PassengerId), and model.task must be binary (it is {})"
START = "train: pretrain and init_from both set the initial embeddings: remove one"
REFIT_STOPPING = (
    "train: refit trains for the best epoch's number of epochs, which early_stopping finds, but it is null: set "
    "early_stopping, or remove refit"
)
REFIT_PLATEAU = (
    "train: refit cannot be combined with schedule kind: plateau, because the second training has no valid fold: set "
    "kind: constant or cosine, or remove refit"
)
REFIT_VALID = (
    "train.refit adds the rows of the valid fold to those of the train fold, but split.valid is 0 (for a split by "
    "time: valid_from is not set): set it, or remove train.refit"
)
REFIT_NEGATIVES = (
    "train.refit cannot be combined with split.negative_rate (0.5): the valid fold has all of its negatives, the train "
    "fold only some: remove one"
)
RANGE = "low {} and high {} given; low must be smaller, and > 0 with log"
NO_VALID = (
    "train.early_stopping needs a valid fold, but split.valid is 0 (for a split by time: valid_from is not set): "
    "set it, or set train.early_stopping: null"
)
MOMENT = (
    "split.valid_from: {} given; allowed: an ISO date or time such as 2026-10-31 or 2026-10-31 12:00, or an integer"
)
FORMAT = (
    "split.format: {} given, which does not determine a time: it needs a year, each smaller unit only with the larger "
    "ones, and %p with %I"
)
DIRECTIVES = (
    "split.format: {} given; allowed: a string such as '%m/%d/%Y' with Python's directives %Y %y %m %d %b %B %j %H %I "
    "%M %S %f %z %p %a %A %%"
)
CROSS = "columns.categorical.F: a cross is made of the columns it names, so cross and column cannot be combined: "
HASHED = "columns.categorical.F: a hashed field has no vocabulary, so hash_buckets and max_size, min_count cannot be "
SHARED = "columns: categorical.F.share_with: {} given, which is not another categorical field"
NO_VOCABULARY = (
    "columns: categorical.F.share_with: 'Sex' has no vocabulary of its own to share (it is hashed, a cross, "
)
ONE_WAY = "split: rows can be split in one way only, but several are set: "
FOLDER = "{} given; it must be a folder that every machine sees at the same path"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("source.table=x", ONE_PLACE),
        ("source.path=null", ONE_PLACE),
        ("columns.numeric.Age.clip=[0.9, 0.1]", CLIP),
        ("columns.numeric.Age.clip=[0.5, 0.5]", CLIP),
        ("columns.numeric.Age={buckets: 8, as: dense, scale: none}", BUCKETS),
        ("columns={key: [k], label: y, numeric: {Age: {as: dense}}}", POOLING),
        ("columns.categorical.Fold={}", TAKEN.format("'Fold'")),
        ("columns.numeric.label={}", TAKEN.format("'label'")),
        ("columns.numeric.Sex={}", BOTH.format("'Sex'")),
        ("columns.numeric.sex={}", TAKEN.format("'sex'")),
        ("columns.numeric={Age: {missing_flag: true}, Age_missing: {}}", TAKEN.format("'Age_missing'")),
        ("columns.label=Sex", LEAK.format("'Sex'")),
        ("columns.numeric.leak={column: Survived}", LEAK.format("'Survived'")),
        ("split={valid: 0.5, test: 0.5}", "split: valid + test is 1, which leaves no rows for training"),
        ("model.output=ones", MACHINE),
        ("model={output: ones, hidden_units: [], task: multiclass}", ONES),
        ("train.early_stopping.monitor=x", MONITOR.format("'x'", "binary") + OF_BINARY),
        ("tune.metric=val_rmse", f"tune.metric: 'val_rmse' given; allowed for the task binary: {OF_BINARY}"),
        ("train={optimizer: adam, initial_accumulator: 1}", OPTIMIZER.format("initial_accumulator", "adagrad", "adam")),
        ("train.momentum=0.9", OPTIMIZER.format("momentum", "sgd", "adam")),
        ("train={pretrain: fm, init_from: old}", START),
        ("train.schedule.final_share=0.1", SCHEDULE.format("final_share", "cosine", "constant")),
        ("train.schedule={kind: cosine, factor: 0.1}", SCHEDULE.format("factor", "plateau", "cosine")),
        ("train.schedule={kind: cosine, patience: 9}", SCHEDULE.format("patience", "plateau", "cosine")),
        ("train.group=Sex", GROUP.format("'Sex'", "binary")),
        ("train={refit: true, early_stopping: null}", REFIT_STOPPING),
        ("train={refit: true, schedule: {kind: plateau}}", REFIT_PLATEAU),
        ("train.average=1", "train.average: 1 given; input should be less than 1"),
        ("train.average=0", "train.average: 0 given; input should be greater than 0"),
        ("model.init_std=0", "model.init_std: 0 given; input should be greater than 0"),
        ("model.batch_norm_epsilon=0", "model.batch_norm_epsilon: 0 given; input should be greater than 0"),
        ("model.batch_norm_momentum=1", "model.batch_norm_momentum: 1 given; input should be less than 1"),
        ("split.valid=0", NO_VALID),
        ("split={time: t, test_from: 2026-11-01}", NO_VALID),
        ("split={time: t}", "split: a split by time needs valid_from, test_from or both (a ranking: or last)"),
        ("split.valid_from=3", "split: valid_from and test_from need time, the name of the time column"),
        ("split={time: t, valid_from: 2026-01-01, by: [a]}", ONE_WAY + "by, valid, test; time, valid_from, test_from"),
        ("split={column: fold, test: 0.3}", ONE_WAY + "by, valid, test; column"),
        (
            "split={time: t, valid_from: 2026-02-01, test_from: 2026-01-01}",
            "split: test_from is before valid_from: the order of the folds is train, valid, test",
        ),
        (
            "split={time: t, valid_from: 7, test_from: 2026-01-01}",
            "split: valid_from and test_from have different types: write both in the same form",
        ),
        (
            "split={time: t, valid_from: 2026-01-01T12, test_from: '2026-01-01 11:59'}",  # the T sorts after the space
            "split: test_from is before valid_from: the order of the folds is train, valid, test",
        ),
        ("split={time: t, valid_from: October}", MOMENT.format("'October'")),
        ("split={time: t, valid_from: '2026-02-30'}", MOMENT.format("'2026-02-30'")),
        ("split={time: t, valid_from: 1.5}", MOMENT.format("1.5")),
        ("split.format='%Y'", "split: format needs time, the name of the time column"),
        ("split={time: t, format: '%d/%m', valid_from: 2026-01-01}", FORMAT.format("'%d/%m'")),
        ("split={time: t, format: '%Y-%d', valid_from: 2026-01-01}", FORMAT.format("'%Y-%d'")),
        ("split={time: t, format: '%d.%m.%Y %I:%M', valid_from: 2026-01-01}", FORMAT.format("'%d.%m.%Y %I:%M'")),
        ("split={time: t, format: '%Y-%U', valid_from: 2026-01-01}", DIRECTIVES.format("'%Y-%U'")),
        ("split={time: t, format: dd/MM/yyyy, valid_from: 2026-01-01}", DIRECTIVES.format("'dd/MM/yyyy'")),
        (
            "split={time: t, format: '%Y%m%d', valid_from: 20260101}",
            "split: with format, valid_from and test_from are dates such as 2026-10-31, not integers",
        ),
        (
            "score={count_duplicate_keys: false, gates: {max_duplicate_keys: 0}}",
            "score: gates.max_duplicate_keys needs count_duplicate_keys: true",
        ),
        ("split.negative_rate=0", "split.negative_rate: 0 given; input should be greater than 0"),
        ("source.path=[]", "source.path: [] given; a path is a string or a list of strings"),
        ("source.path=[a, 3]", "source.path: ['a', 3] given; a path is a string or a list of strings"),
        ("source.scan=fast", "source.scan: 'fast' given; allowed: 'auto', 'parquet' or 'spark'"),
        ("columns.categorical.F={cross: [a, b], column: c}", CROSS + "remove one"),
        ("columns.categorical.F={hash_buckets: 9, min_count: 2, max_size: 3}", HASHED + "combined: remove one"),
        (
            "columns.categorical.F={max_length: 3}",
            "columns.categorical.F: max_length is only for bags: add bag: true or remove it",
        ),
        ("columns.categorical.F={share_with: F}", SHARED.format("'F'")),
        ("columns.categorical.F={share_with: absent}", SHARED.format("'absent'")),
        (
            "columns.categorical={Sex: {hash_buckets: 3}, F: {share_with: Sex}}",
            NO_VOCABULARY + "or shares another field's)",
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
        (["train.refit=true", "split.negative_rate=0.5"], REFIT_NEGATIVES),
        (["train={refit: true, early_stopping: {monitor: loss}}", "split.valid=0"], REFIT_VALID),
        (["train.refit=true", "split={time: t, test_from: 2026-11-01}"], REFIT_VALID),
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
        (["model.task=regression", "train.group=PassengerId"], GROUP.format("'PassengerId'", "regression")),
        (["model.task=multiclass", "train.group=PassengerId"], GROUP.format("'PassengerId'", "multiclass")),
    ],
    ids=str,
)
def test_settings_that_a_task_refuses(file: Path, changes: list[str], problem: str) -> None:
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
    assert RANGE.format(low, high) in message(file, f"tune={{space: {{train.learning_rate: {space}}}}}")


@pytest.mark.parametrize(
    "changes",
    [
        ["model.task=regression", "train.early_stopping.monitor=val_rmse", "tune.metric=val_mae"],
        ["model.task=multiclass", "train.class_weights={a: 1, b: 2.5}", "train.early_stopping.monitor=val_accuracy"],
        ["train={optimizer: sgd, momentum: 0.9, loss_reduction: sum, pretrain: fm}"],
        ["train={optimizer: adagrad, initial_accumulator: 1e-8}", "train.linear_optimizer={l1: 0.01}"],
        ["train.schedule={kind: cosine, final_share: 0.1, warmup_steps: 100}", "train.class_weights=balanced"],
        ["train.schedule={kind: plateau, factor: 0.1, patience: 1}", "train.group=PassengerId"],
        ["train={refit: true, average: 0.99, schedule: {kind: cosine}}"],
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
        ["split={time: t, format: '%d.%m.%y %I:%M %p', valid_from: 2026-01-01T00:00+02:00}"],
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
