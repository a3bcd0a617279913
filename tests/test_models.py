"""Model files: what is loaded is what was saved, whatever happens to the files, and it speaks of no bar that it learnt from."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from tradebot import indicators, models
from tradebot.config import Risk, UserError
from tradebot.indicators import compute, indicator, versions
from tradebot.models import Member, assembled, inputs, kept, load, probabilities, save, tried
from tradebot.parity import differences, engines
from tradebot.pipeline import update_features
from tradebot.prices import adjust
from tradebot.signal_engine import check_causality, generate, get_strategy, measure_warmup

CALLS = ["rsi(14)", "natr(14)", "roc(20)"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """A project of its own, in which nothing is registered for longer than a test."""
    monkeypatch.setenv("TRADEBOT_HOME", str(tmp_path))
    monkeypatch.setattr(indicators, "_OWN", dict(indicators._OWN))
    return tmp_path


@pytest.fixture(scope="module")
def grown(sample) -> list[Member]:
    """Three members on the sample that tell whether the next month gains, each from what was over."""
    bars, actions = sample
    adjusted = adjust(bars, actions)
    values = inputs(adjusted, CALLS).to_numpy()
    gains = adjusted["close"].groupby("symbol").shift(-20) > adjusted["close"]
    moments = adjusted.index.get_level_values("timestamp")
    made = []
    for until in ("2004-12-31", "2007-12-31", "2010-12-31"):
        rows = np.flatnonzero(
            np.isfinite(values).all(axis=1) & (moments <= pd.Timestamp(until) - pd.Timedelta("40d"))
        )
        learner = HistGradientBoostingClassifier(
            max_iter=8, max_leaf_nodes=6, early_stopping=False, random_state=0
        )
        learner.fit(values[rows], gains.to_numpy()[rows])
        made.append(Member(pd.Timestamp(until) + pd.Timedelta("7d"), pd.Timestamp(until), len(rows), learner))
    return made


def saved(grown, name="trend", told=None, calls=CALLS) -> Path:
    return save(assembled(name, calls, grown), told or {"scores": {}})


# What is loaded is what was saved


def test_a_saved_model_says_the_same_as_before_it_was_saved(grown, sample, home):
    saved(grown)
    adjusted = adjust(*sample)
    model = load("trend")
    np.testing.assert_array_equal(
        probabilities(model, adjusted), probabilities(assembled("trend", CALLS, grown), adjusted)
    )
    assert [member.since for member in model.members] == [member.since for member in grown]
    assert sorted(path.name for path in (home / "models").iterdir()) == ["trend.json", "trend.skops"]


def test_each_bar_is_judged_by_the_newest_member_whose_time_has_come(grown, sample):
    adjusted = adjust(*sample)
    said = pd.Series(probabilities(assembled("trend", CALLS, grown), adjusted), adjusted.index)
    moments = said.index.get_level_values("timestamp")
    assert said[moments < grown[0].since].isna().all()
    assert said[moments >= grown[0].since].notna().mean() > 0.95
    values = inputs(adjusted, CALLS).to_numpy()
    middle = (moments >= grown[1].since) & (moments < grown[2].since) & said.notna().to_numpy()
    np.testing.assert_array_equal(said[middle], grown[1].estimator.predict_proba(values[middle])[:, 1])


def test_a_model_is_read_once_and_a_changed_file_is_noticed(grown, monkeypatch):
    saved(grown)
    first = load("trend")
    assert load("trend") is first
    saved(grown[:1])
    assert len(load("trend").members) == 1


def test_a_model_on_trial_goes_by_its_name_and_leaves_the_file_alone(grown):
    saved(grown)
    with tried(assembled("trend", CALLS, grown[:1])):
        assert len(load("trend").members) == 1
    assert len(load("trend").members) == 3


# Whatever happens to the files


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty])
def test_a_damaged_model_is_refused_by_name(grown, damage):
    damage(saved(grown).with_suffix(".skops"))
    with pytest.raises(
        UserError,
        match=r"models/trend.skops is not the file that its card was written for.*: tradebot train trend",
    ):
        load("trend")


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
def test_a_damaged_card_is_refused_by_name(grown, damage):
    damage(saved(grown))
    with pytest.raises(
        UserError, match=r"models/trend.json is missing or is no card; train it again: tradebot train trend"
    ):
        load("trend")


@pytest.mark.parametrize(
    ("was", "becomes"),
    [('"auc": 0.51', '"auc": 0.91'), ("2005-01-07", "2001-01-07"), ('"labels": ', '"labels": 1')],
)
def test_an_edited_card_is_refused(grown, was, becomes):
    card = saved(grown, told={"scores": {"auc": 0.51}})
    assert was in card.read_text()
    card.write_text(card.read_text().replace(was, becomes))
    with pytest.raises(
        UserError, match=r"models/trend.json was changed after it was written; train it again"
    ):
        load("trend")


def test_swapped_models_and_a_renamed_pair_are_refused(grown, home):
    one, other = saved(grown, "one"), saved(grown[:1], "two")
    folder = home / "models"
    (folder / "one.skops").rename(folder / "kept")
    (folder / "two.skops").rename(folder / "one.skops")
    (folder / "kept").rename(folder / "two.skops")
    with pytest.raises(UserError, match=r"models/one.skops is not the file that its card was written for"):
        load("one")
    one.rename(folder / "kept")
    other.rename(one)
    with pytest.raises(UserError, match=r"models/one.skops is the model 'two' under another name"):
        load("one")


class Stranger:
    """A type that no model has."""


def forged(card: Path, held: dict) -> None:
    """A model's file with other contents, and a card whose digest agrees with it."""
    import hashlib

    from skops.io import dumps

    data = dumps(held)
    card.with_suffix(".skops").write_bytes(data)
    told = json.loads(card.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}
    card.write_text(json.dumps(told))


def test_a_file_with_a_type_that_is_not_ours_is_not_loaded(grown):
    card = saved(grown)
    forged(card, {"card": "", "estimators": [Stranger()]})
    with pytest.raises(
        UserError,
        match=r"trend.skops holds the type .*Stranger, which no model of ours has; it is not loaded",
    ):
        load("trend")


def test_a_file_with_another_estimator_is_not_loaded(grown):
    from sklearn.dummy import DummyClassifier

    card = saved(grown)
    forged(card, {"card": "", "estimators": [DummyClassifier()]})
    with pytest.raises(UserError, match="holds something else than a model's estimators; it is not loaded"):
        load("trend")


def test_a_pickle_in_a_model_s_place_is_not_run(grown, home):
    import hashlib
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (home / "ran",))

    card = saved(grown)
    data = pickle.dumps(Bomb())
    card.with_suffix(".skops").write_bytes(data)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(UserError, match=r"models/trend.skops is no model"):
        load("trend")
    assert not (home / "ran").exists()


def test_an_archive_with_a_changed_schema_is_refused_before_anything_is_made_of_it(grown):
    card = saved(grown)
    with zipfile.ZipFile(card.with_suffix(".skops")) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    schema["__class__"], schema["__module__"] = "system", "os"
    parts["schema.json"] = json.dumps(schema).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"x\.skops"):
        models._unpacked(written.getvalue(), "x.skops")


@pytest.mark.parametrize(
    "name", ["scikit-learn", "numpy", "skops", "pandas-ta", "Python", "tradebot's features"]
)
def test_another_version_is_refused_with_both_named(grown, name, monkeypatch):
    saved(grown)
    here = models.libraries()
    monkeypatch.setattr(models, "libraries", lambda: here | {name: "99.0"})
    models._read.cache_clear()
    with pytest.raises(
        UserError,
        match=f"models/trend.skops was trained with {name} {here[name]}, and this is 99.0; train it again",
    ):
        load("trend")


def test_a_model_that_fails_to_be_written_replaces_none(grown, home, monkeypatch):
    saved(grown)
    before = {path.name: path.read_bytes() for path in (home / "models").iterdir()}
    with pytest.raises(ValueError, match="Out of range float"):
        saved(grown[:1], told={"scores": float("nan")})
    monkeypatch.setattr(
        models, "_write", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(
        UserError, match="cannot be written: No space left on device; the model before, if any, is unchanged"
    ):
        saved(grown[:1])
    assert {path.name: path.read_bytes() for path in (home / "models").iterdir()} == before
    assert len(load("trend").members) == 3


def test_a_power_cut_between_the_two_renames_leaves_the_new_model(grown, home, monkeypatch):
    saved(grown)
    renamed, rename = [], Path.rename

    def cut(self, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        saved(grown[:1])
    monkeypatch.undo()
    assert len(load("trend", home).members) == 1


@pytest.mark.parametrize("name", ["", "Trend", "../trend", "trend.v2", "1st"])
def test_a_name_that_is_no_file_s_is_a_line(name, grown):
    with pytest.raises(UserError, match="is no name for a model"):
        load(name)
    with pytest.raises(UserError, match="is no name for a model"):
        assembled(name, CALLS, grown)


def test_a_model_that_is_not_there_is_told_beside_those_that_are(grown):
    saved(grown)
    with pytest.raises(
        UserError, match=r"there is no model 'tren' in .*; there is trend; `tradebot train tren` makes it"
    ):
        load("tren")


def test_all_models_are_listed_whether_or_not_they_load(grown):
    saved(grown, "good")
    flip(saved(grown, "torn").with_suffix(".skops"))
    found = {one.name: one for one in kept()}
    assert found["good"].problem == ""
    assert found["torn"].card["name"] == "torn"
    assert "models/torn.skops is not the file" in found["torn"].problem


# Its features are what they were


def own(scale: float):
    @indicator
    def steepness(bars: pd.DataFrame, length: int = 5) -> pd.Series:
        return scale * (bars["close"] / bars["close"].shift(length) - 1)

    return steepness


def test_a_model_whose_own_indicator_has_gone_or_changed_is_refused_and_the_call_named(grown, monkeypatch):
    own(1.0)
    saved(grown, calls=["rsi(14)", "steepness(5)", "roc(20)"])
    load("trend")
    told = models.versions
    monkeypatch.setattr(models, "versions", lambda calls: dict.fromkeys(told(calls), "other code"))
    own(2.0)  # registered again
    with pytest.raises(
        UserError,
        match=r"models/trend.skops was trained on steepness\(5\) before its code changed; train it again",
    ):
        load("trend")
    indicators._OWN.pop("steepness")
    with pytest.raises(UserError, match=r"reads steepness\(5\), which is not to be had: .*steepness"):
        load("trend")


def test_a_model_whose_feature_has_other_columns_now_is_refused(grown, monkeypatch):
    saved(grown)
    monkeypatch.setattr(models, "columns", lambda calls: ["another"])
    models._agree.cache_clear()
    with pytest.raises(
        UserError, match=r"was trained on rsi\(14\) with columns \['rsi_14'\], which are now \['another'\]"
    ):
        load("trend")
    models._agree.cache_clear()


def test_versions_change_with_the_file_of_an_own_function_and_with_what_it_reads(tmp_path, monkeypatch):
    file = tmp_path / "own_for_a_test.py"
    text = "from tradebot.indicators import indicator\n\n\n@indicator\ndef mine(bars):\n    return bars['close']\n"
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text(text)
    mine = __import__("own_for_a_test").mine
    first = versions(["mine()", "sma(20)", "roc(5)"])
    assert list(first) == ["mine()"]
    file.write_text(text + "# a helper of it may have changed\n")
    second = versions(["mine()"])
    assert second != first
    mine.version = lambda: "table 2"
    assert versions(["mine()"]) != second


def test_stored_probabilities_are_computed_again_when_the_model_changes_though_its_name_does_not(
    grown, sample, store
):
    bars, _ = sample
    store.write_bars(bars)
    saved(grown)
    calls = ['probability("trend")', "rsi(14)"]
    assert update_features(store, calls).inserted == len(bars)
    assert update_features(store, calls).unchanged == len(bars)
    saved(grown[:1])
    assert update_features(store, calls).updated > 1000
    stored = store.features(["probability_trend"])["probability_trend"]
    fresh = compute(store.bars(adjusted=True), calls)["probability_trend"]
    np.testing.assert_allclose(stored.to_numpy(), fresh.to_numpy())


# It is a strategy like any other


def rules_on(name: str) -> list:
    crossover = get_strategy("crossover", filters=[f"classifier(model={name!r}, minimum=0.5)"])
    return [crossover, get_strategy("classifier", {"model": name, "buy": 0.55, "sell": 0.5})]


def test_it_does_not_look_ahead_on_real_bars_with_their_splits(grown, sample):
    saved(grown)
    for strategy in rules_on("trend"):
        assert len(generate(*sample, strategy).signals) > 20
        assert check_causality(strategy, *sample, cuts=25).empty


def test_its_memory_is_that_of_its_features(grown, sample):
    saved(grown)
    bars, actions = sample
    flips = measure_warmup(rules_on("trend")[1], bars.loc[["IBM"]], actions, lengths=(60, 400), cuts=30)
    assert flips[400] == 0


def test_both_engines_trade_it_to_the_cent(grown, sample):
    saved(grown)
    for strategy in rules_on("trend"):
        ((fast, slow),) = engines(
            *sample,
            strategy,
            [(pd.Timestamp("2008-01-02"), pd.Timestamp("2009-12-31"))],
            capital=100_000.0,
            rules=Risk(),
        )
        assert len(slow.fills) > 5
        assert differences(fast, slow).empty


def test_a_rule_with_the_model_buys_only_what_the_rule_would_and_the_model_allows(grown, sample):
    saved(grown)
    bars, actions = sample
    keys = ["symbol", "timestamp"]
    plain = generate(bars, actions, get_strategy("crossover")).signals
    vetoed = generate(bars, actions, rules_on("trend")[0]).signals
    said = compute(adjust(bars, actions), ['probability("trend")'])["probability_trend"]
    bought = vetoed.loc[vetoed["signal_type"] == "buy", keys]
    assert 0 < len(bought) < (plain["signal_type"] == "buy").sum()
    assert len(bought.merge(plain[plain["signal_type"] == "buy"], on=keys)) == len(bought)
    assert (said.loc[pd.MultiIndex.from_frame(bought)] >= 0.5).all()


def test_a_sweep_over_a_model_is_made_anew_when_the_model_is_another(grown, sample):
    from tradebot.sweep import _key
    from tradebot.universe import universe

    market, asked = universe(*sample), ((0, 100), 100_000.0, Risk())
    saved(grown)
    first = _key(market, rules_on("trend"), *asked)
    assert _key(market, rules_on("trend"), *asked) == first
    saved(grown[:1])
    assert _key(market, rules_on("trend"), *asked) != first
