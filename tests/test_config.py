"""Configuration: three layers, errors that name the key, secrets that never show."""

import io
import json
import logging
import random
from pathlib import Path

import pytest

from tradebot.config import UserError, find_home, load_config, setup_logging

SECRETS = {
    "ALPACA_API_KEY": "PK-very-secret",
    "ALPACA_API_SECRET": "sk-even-more",
    "DATABASE_URL": "postgresql://quant:pa55word@db/tradebot",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "settings.ini").write_text(
        "[data]\nprovider = csv\nuniverse = ibm, msft\n[risk]\nbuffer = 0.01\n"
    )
    (tmp_path / ".env").write_text("TRADEBOT_DATA_PROVIDER=sample\nTRADEBOT_RISK_BUFFER=0.02\n")
    return tmp_path


def test_the_environment_wins_over_env_over_settings(home: Path) -> None:
    config = load_config(home, {"TRADEBOT_RISK_BUFFER": "0.03"})
    assert config.data.universe == ("IBM", "MSFT")
    assert config.data.provider == "sample"
    assert config.risk.buffer == 0.03


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_config(tmp_path, {}).data.provider == "sample"


def test_home_is_found_from_any_folder_below(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADEBOT_HOME", raising=False)
    deep = home / "nbs" / "research"
    deep.mkdir(parents=True)
    assert find_home(deep) == home


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"TRADEBOT_DATA_PROVIDER": "reuters"}, r"\[data\] provider = reuters: .*'sample'"),
        ({"TRADEBOT_RISK_CAPITAL": "lots"}, r"\[risk\] capital = lots: .*number"),
        ({"TRADEBOT_DATA_START": "yesterday"}, r"\[data\] start = yesterday: .*date"),
        ({"TRADEBOT_DATA_UNIVERSE": ""}, r"\[data\] universe"),
        ({"TRADEBOT_DATA_COLOUR": "red"}, r"\[data\] colour is not a setting; \[data\] may have provider"),
        ({"YFINANCE_BACKFILL_CHUNK": "7y"}, r"YFINANCE_BACKFILL_CHUNK: .*'1mo'"),
        ({"POLLING_INTERVAL": "-1"}, r"POLLING_INTERVAL: .*greater than 0"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_it_may_be(tmp_path: Path, environ: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_config(tmp_path, environ)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[dta]\nprovider = sample\n", r"section \[dta\]; it may have data"),
        ("provider = sample\n", "cannot be read"),
        ("[data]\nprovider = csv\nprovider = sample\n", "cannot be read"),
    ],
)
def test_a_broken_settings_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "settings.ini").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_config(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_lists_may_hold_calls_with_commas(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[indicators]\nfeatures = sma(20), macd(12, 26, 9)\n    rsi(14)\n")
    assert load_config(tmp_path, {}).indicators.features == ("sma(20)", "macd(12, 26, 9)", "rsi(14)")


def test_a_comment_may_stand_behind_a_value(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[data]\nprovider = csv  ; a folder\nuniverse = IBM  # one\n")
    config = load_config(tmp_path, {})
    assert (config.data.provider, config.data.universe) == ("csv", ("IBM",))


def test_further_keys_of_the_strategy_are_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[strategy]\nname = crossover\nsma = 10\noversold = 25.5\n")
    assert load_config(tmp_path, {}).strategy.parameters == {"sma": 10, "oversold": 25.5}


def test_no_way_of_printing_a_configuration_shows_a_secret(tmp_path: Path) -> None:
    config = load_config(tmp_path, SECRETS)
    shown = f"{config} {config!r} {config.model_dump()} {config.model_dump_json()} {vars(config)}"
    for secret in ("PK-very-secret", "sk-even-more", "pa55word"):
        assert secret not in shown
    assert config.database_url == SECRETS["DATABASE_URL"]


def test_a_wrong_secret_is_not_quoted_in_its_error(tmp_path: Path) -> None:
    environ = SECRETS | {"YFINANCE_BACKFILL_CHUNK": "sk-even-more"}
    with pytest.raises(UserError) as caught:
        load_config(tmp_path, environ)
    assert "sk-even-more" not in str(caught.value)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_no_log_line_shows_a_secret_wherever_it_came_from(tmp_path: Path, stream_type: type) -> None:
    root, stream = logging.getLogger(), stream_type()
    before = (root.handlers[:], root.level)
    try:
        setup_logging(load_config(tmp_path, SECRETS), "DEBUG", stream)
        log = logging.getLogger(f"test-{random.random()}")
        log.info("key %s", "PK-very-secret")
        log.info("to postgresql://quant:pa55word@db")
        try:
            raise ConnectionError("refused: sk-even-more")
        except ConnectionError:
            log.exception("no connection")
    finally:
        root.handlers[:], root.level = before
    text = stream.getvalue()
    assert "no connection" in text
    assert "ConnectionError" in text
    for secret in ("PK-very-secret", "sk-even-more", "pa55word"):
        assert secret not in text
    if stream_type is io.StringIO:
        assert [json.loads(line)["level"] for line in text.splitlines()] == ["INFO", "INFO", "ERROR"]


def test_the_kill_file_may_lie_in_a_folder_that_machines_share_but_below_the_project(tmp_path: Path) -> None:
    assert load_config(tmp_path, {}).kill_file == tmp_path / "KILL"
    shared = load_config(tmp_path, {"TRADEBOT_EXECUTION_KILL_FILE": "reports/KILL"})
    assert shared.kill_file == tmp_path / "reports" / "KILL"
    with pytest.raises(UserError, match=r"\[execution\] kill_file = /tmp/KILL"):
        load_config(tmp_path, {"TRADEBOT_EXECUTION_KILL_FILE": "/tmp/KILL"})
