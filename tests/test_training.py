"""`tradebot train` and `tradebot models` as a user meets them, and what the API says of models."""

import json
import re
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from test_cli import ROOT, tradebot

from tradebot.app import create_app
from tradebot.config import load_config


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A project with the bars of two stocks and a model of them."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copytree(ROOT / "nbs" / "pipelines", folder / "nbs" / "pipelines")
    assert tradebot(folder, "fetch", "AAPL", "IBM", "--end", "2009-12-31").returncode == 0
    return folder


LINE = ["train", "weekly", "AAPL", "IBM", "--every", "5", "--horizon", "10", "--refit", "500"]
LINE += ["--feature", "rsi(14)", "--feature", "roc(20)", "--minimum", "0.5"]


@pytest.fixture(scope="module")
def trained(home: Path) -> str:
    done = tradebot(home, *LINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_training_says_what_the_model_is_worth_and_whether_it_beats_its_rule(
    home: Path, trained: str
) -> None:
    assert re.search(
        r"^weekly: \d+ labels \(each 5 bars, 2000-\S+ to 2009-12-\d+\), \d+% of them gains; left out: ",
        trained,
    )
    for figure in ("auc", "brier_skill", "log_loss_saved", "precision"):
        assert re.search(
            rf"^{figure} +-?\d\.\d{{3}} \(-?\d\.\d{{3}} to -?\d\.\d{{3}}\) +-?\d\.\d{{3}} \(",
            trained,
            re.MULTILINE,
        )
    assert re.search(
        r"Labels that mean nothing reach an AUC of \d\.\d+ to \d\.\d+; at least as high as the own", trained
    )
    for account in ("the rule", "the rule with the model", "the model as signal", "buy and hold"):
        assert re.search(rf"^{account} +-?\d+\.\d% ", trained, re.MULTILINE)
    assert re.search(
        r"^The rule with the model (beats|does not beat) the rule alone: a Sharpe ratio of",
        trained,
        re.MULTILINE,
    )
    assert re.search(r"istinguishable from luck: with 3 trials", trained)
    assert "models/weekly.json and models/weekly.skops are written" in trained
    (page,) = home.glob("reports/*-train-*/notebook.html")
    assert page.read_text().count('src="data:image/png') == 1


def test_the_card_says_what_a_program_wants_to_know(home: Path, trained: str) -> None:
    card = json.loads((home / "models" / "weekly.json").read_text())
    assert [feature["call"] for feature in card["features"]] == ["rsi(14)", "roc(20)"]
    assert card["data"] == {"first": "2000-03-01", "last": "2009-12-31"}
    assert card["symbols"] == ["AAPL", "IBM"]
    assert re.fullmatch(r"[0-9a-f]{16}", card["fingerprint"])
    assert (home / "reports" / card["run"] / "notebook.html").is_file()
    low, value, high = card["scores"]["auc"]
    assert low < value < high
    assert set(card["versions"]) == {
        "scikit-learn",
        "numpy",
        "skops",
        "pandas-ta",
        "Python",
        "tradebot's features",
    }


def test_a_line_in_the_settings_swaps_the_model_in(home: Path, trained: str) -> None:
    veto = {"TRADEBOT_STRATEGY_FILTERS": 'classifier(model="weekly", minimum=0.5)'}
    done = tradebot(home, "signals", "AAPL", "IBM", **veto)
    assert re.search(r"crossover\(classifier\(model='weekly', minimum=0.5\)\): \d+ new", done.stdout), (
        done.stderr
    )
    signal = {"TRADEBOT_STRATEGY_NAME": "classifier", "TRADEBOT_STRATEGY_MODEL": "weekly"}
    told = tradebot(home, "signals", "AAPL", "IBM", **signal)
    assert re.search(r"classifier\(model=weekly\): \d+ new, 0 known", told.stdout), told.stderr


def test_models_are_listed_and_one_that_does_not_load_fails_the_command(home: Path, trained: str) -> None:
    listed = tradebot(home, "models")
    assert listed.returncode == 0, listed.stderr
    assert re.search(
        r"^ *weekly +\d{4}-\d\d-\d\d +\d+ +\d+ +rsi\(14\), roc\(20\) +\d\.\d+ \(\S+ to \S+\) +yes$",
        listed.stdout,
        re.MULTILINE,
    )
    folder = home / "models"
    shutil.copy(folder / "weekly.json", folder / "torn.json")
    (folder / "torn.skops").write_bytes((folder / "weekly.skops").read_bytes()[:-9])
    try:
        torn = tradebot(home, "models")
        assert torn.returncode == 1
        assert "torn: models/torn.skops is not the file that its card was written for" in torn.stdout
        here = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000)}
        with TestClient(create_app(load_config(home)), **here) as client:
            found = {one["name"]: one for one in client.get("/models").json()}
    finally:
        (folder / "torn.skops").unlink()
        (folder / "torn.json").unlink()
    assert found["torn"]["scores"] == {}
    assert found["torn"]["problem"].startswith("models/torn.skops is not the file")
    assert found["weekly"]["problem"] == ""
    assert found["weekly"]["scores"]["auc"]["low"] < found["weekly"]["scores"]["auc"]["high"]
    assert found["weekly"]["trained_until"] < "2010"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["train"], 2, "the following arguments are required: NAME"),
        (["train", "Weekly"], 2, "'Weekly' is no name for a model"),
        (["train", "x", "--start", "soon"], 2, "'soon' is not a date"),
        (["train", "x", "--set", "sma"], 2, "'sma' is not NAME=VALUE"),
        (["train", "x", "--strategy", "nothing"], 1, "there is no strategy 'nothing'"),
        (
            ["train", "x", "--feature", "sma(20)"],
            1,
            r"feature sma\(20\) changes when prices and volumes are rescaled",
        ),
        (["train", "x", "AAPL"], 1, "labels, .* of them gains, are too few to learn from"),
    ],
)
def test_a_training_that_cannot_be_is_a_line_and_leaves_no_model(home: Path, words, code, says) -> None:
    done = tradebot(home, *words)
    assert done.returncode == code, done.stderr
    assert re.search(says, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (home / "models" / "x.skops").exists()


def test_without_models_there_is_a_word_about_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "settings.ini", tmp_path)
    done = tradebot(tmp_path, "models")
    assert done.returncode == 0, done.stderr
    assert "there are no models yet; `tradebot train NAME` makes one" in done.stdout
