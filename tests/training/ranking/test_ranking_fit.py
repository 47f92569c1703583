"""Fits of a ranking to interactions with a known rule: what is learned, resumed, repeated and refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfm.config.settings import Config
from nfm.contract.artifact import Artifact
from nfm.training import train as job
from nfm.training.checkpoint import list_dependencies
from nfm.training.data.batches import Fold, join_folds
from nfm.training.fit import Places, fit
from nfm.training.ranking.evaluate import RankingTally
from nfm.training.ranking.step import make_sampler
from nfm.training.result import Fitted
from nfm.training.train import read, train
from nfm.training.warm_start import choose_start
from tests.training.interrupted import Interrupted
from tests.training.ranking.planted import chains, two_groups, write_ranking
from tests.training.trained import are_same, weights

# A step depends on all of this besides the weights: negatives, dropout, replaced ids, moments, averages.
EVERYTHING: dict[str, Any] = {
    "model": {"hidden_units": (6,), "batch_norm": True, "pooling_dropout": 0.3, "hidden_dropout": 0.3},
    "train": {"epochs": 3, "unknown_dropout": 0.1, "average": 0.9, "checkpoint_seconds": 0.0, "early_stopping": None},
}
PAIRS = [{"loss": "bpr", "negatives": 3, "sampler": "popularity"}, {"loss": "softmax", "sampler": "batch"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"early_stopping": None, "schedule": {"kind": "plateau"}}}, "kind: plateau watches the metric of"),
        ({"split": {"negative_rate": 0.5}}, "split.negative_rate is only for the binary task"),
        ({"train": {"class_weights": "balanced"}}, "train.class_weights: a ranking has no classes"),
        ({"train": {"refit": True, "early_stopping": None}}, "refit trains for the best epoch's number of epochs"),
    ],
    ids=str,
)
def test_settings_that_a_ranking_does_not_have(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_ranking(tmp_path, two_groups(), **changes)


def fitted_of(config: Config, folder: Path | None = None, **changed: Fold) -> Fitted:
    encoding, folds = read(config)
    return fit(encoding.spec, config.model, config.train, {**folds, **changed}, Places(folder))


def metrics_of(config: Config, fitted: Fitted, fold: str = "test") -> dict[str, Any]:
    return fitted.measure(read(config)[1][fold], RankingTally(with_baselines=True)).metrics()


@pytest.mark.parametrize(
    "ranking",
    [
        {"loss": "bpr", "sampler": "uniform", "negatives": 4},
        {"loss": "bpr", "hardest": True, "sampler": "batch", "negatives": 4},
        {"loss": "logistic", "sampler": "popularity", "negatives": 4},
        {"loss": "softmax", "sampler": "batch"},
    ],
    ids=str,
)
def test_the_items_of_the_user_s_group_are_first(ranking: dict[str, Any], tmp_path: Path) -> None:
    config = write_ranking(tmp_path, two_groups(), ranking=ranking)
    _, folds = read(config)
    fitted = fitted_of(config)
    tally: Any = fitted.measure(folds["test"], RankingTally(with_baselines=True))
    ranked, lists = folds["test"].ranked, tally.measured["model"]
    assert ranked is not None
    parity_U = np.array([int(ranked.users[int(user)].as_py()[1:]) % 2 for user in lists.queries.users_U])
    assert (lists.lists_UK % 2 == parity_U[:, np.newaxis]).mean() > 0.9
    metrics = tally.metrics()
    assert metrics["hr@10"] > 0.7  # of the 11 items left in a group, a list has 10
    assert metrics["ndcg@10"] > 1.8 * metrics["popularity"]["ndcg@10"]


def test_only_a_model_with_a_history_knows_the_next_item(tmp_path: Path) -> None:
    with_history = write_ranking(tmp_path / "with", chains(), history=3, ranking={"loss": "bpr", "sampler": "uniform"})
    without = write_ranking(tmp_path / "without", chains(), ranking={"loss": "bpr", "sampler": "uniform"})
    assert metrics_of(with_history, fitted_of(with_history))["mrr@5"] > 0.95
    assert metrics_of(without, fitted_of(without))["mrr@5"] < 0.7


@pytest.mark.parametrize("ranking", PAIRS, ids=str)
def test_a_training_that_failed_between_checkpoints_ends_with_the_same_weights(
    ranking: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_ranking(tmp_path / "w", two_groups(), history=2, ranking=ranking, **EVERYTHING)
    expected = fitted_of(config)
    seldom = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_seconds": 0.0})})
    for batches in (0, 7, 2):  # an epoch has five batches
        broken = read(config)[1]["train"]
        broken = Interrupted(**{name: getattr(broken, name) for name in broken.__dataclass_fields__})
        broken.__dict__["left"] = [batches]
        with pytest.raises(OSError, match="the disk failed"):
            fitted_of(seldom, tmp_path / "checkpoint", train=broken)
    with caplog.at_level("INFO"):
        found = fitted_of(seldom, tmp_path / "checkpoint")
    assert "resuming from the checkpoint after 9 steps, in epoch 2" in caplog.text
    assert are_same(weights(found), weights(expected))
    assert found.history == expected.history
    other = config.model_copy(update={"train": config.train.model_copy(update={"seed": 2})})
    assert not are_same(weights(fitted_of(other)), weights(expected))


@pytest.mark.parametrize(
    "change", [{"negatives": 5}, {"loss": "logistic"}, {"sampler": "uniform"}, {"hardest": True}], ids=str
)
def test_changed_pairs_start_the_training_again(
    change: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"loss": "bpr", "negatives": 3, "sampler": "batch"}
    quick = {"epochs": 1, "early_stopping": None}
    fitted_of(write_ranking(tmp_path / "a", two_groups(), ranking=settings, train=quick), tmp_path / "checkpoint")
    changed = write_ranking(tmp_path / "b", two_groups(), ranking={**settings, **change}, train=quick)
    fitted_of(changed, tmp_path / "checkpoint")
    (name,) = change
    assert f"this changed: ranking.{name} was " in caplog.text


def test_changed_items_start_the_training_again(tmp_path: Path) -> None:
    """The inputs of an item may change while the rows keep their size, and so does an item without interactions."""
    config = write_ranking(tmp_path, two_groups())
    encoding, folds = read(config)
    ranked = folds["train"].ranked
    assert ranked is not None
    inputs = ranked.catalogue.inputs
    changed = replace(ranked, catalogue=replace(ranked.catalogue, inputs=inputs._replace(ids_BF=inputs.ids_BF[::-1])))
    before, after = (
        list_dependencies(encoding.spec, config.model, config.train, {**folds, "train": fold}, None)
        for fold in (folds["train"], replace(folds["train"], ranked=changed))
    )
    assert [name for name in before if before[name] != after[name]] == ["catalogue"]


def test_items_of_the_valid_fold_are_drawn_before_the_refit_only(tmp_path: Path) -> None:
    config = write_ranking(tmp_path, two_groups(), ranking={"loss": "bpr", "sampler": "uniform"})
    folds = read(config)[1]
    for fold, known in ((folds["train"], ("train",)), (join_folds(folds["train"], folds["valid"]), ("train", "valid"))):
        ranked = fold.ranked
        assert ranked is not None
        users = np.arange(len(ranked.users))
        drawn_UN = make_sampler(ranked, 1).draw(users, 1, 0, 2000)
        for name, pairs in ranked.pairs.items():
            is_drawn = [
                item in set(drawn_UN[user].tolist()) for user, item in zip(pairs.users_N, pairs.items_N, strict=True)
            ]
            assert not any(is_drawn) if name in known else all(is_drawn)


def test_a_refit_learns_the_items_of_the_valid_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of the valid fold alone have a trained embedding, and the test fold's baselines know their items, too."""
    calls: list[tuple[str, ...]] = []

    class Spy(RankingTally):
        def metrics(self) -> dict[str, Any]:
            assert self.ranked is not None
            calls.append(self.ranked.trained)
            return super().metrics()

    monkeypatch.setattr(job, "RankingTally", Spy)
    config = write_ranking(tmp_path, two_groups(train=4), train={"refit": True, "epochs": 6})
    trained = train(config)
    assert calls == [("train",), ("train", "valid")]
    assert trained.metrics["valid"].keys() >= {"ndcg@10", "popularity", "neighbours"}
    facts = Artifact.load(Path(config.workdir, "model")).metadata["refit"]
    assert facts == {"folds": ["train", "valid"], "rows": 200, "epochs": trained.fitted.best_epoch}


@pytest.mark.parametrize("ranking", PAIRS, ids=str)
def test_starts_from_a_factorization_machine_and_from_an_older_model(ranking: dict[str, Any], tmp_path: Path) -> None:
    model = {"hidden_units": (6,), "batch_norm": False}
    quick = {"epochs": 4, "pretrain": "fm"}
    config = write_ranking(tmp_path / "a", two_groups(), ranking=ranking, model=model, train=quick)
    first = train(config)
    again = write_ranking(
        tmp_path / "b",
        two_groups(),
        ranking=ranking,
        model=model,
        train={"epochs": 1, "learning_rate": 1e-9, "init_from": f"{config.workdir}/model"},
    )
    encoding, folds = read(again)
    start = choose_start(again, encoding.spec, folds, Places())
    fitted = fit(encoding.spec, again.model, again.train, folds, Places(), start)
    for found, expected in zip(weights(fitted), weights(first.fitted), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
