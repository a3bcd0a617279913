"""The command line as a user meets it: real processes, honest exit codes, one line for every mistake."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRADEBOT = Path(sys.executable).parent / "tradebot"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project folder of its own: settings, notebooks, no data."""
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs" / "pipelines", tmp_path / "nbs" / "pipelines")
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRADEBOT_", "ALPACA_"))
    }
    compiled = os.environ.get("NUMBA_CACHE_DIR", str(ROOT / ".cache" / "numba"))  # once for all homes
    return (
        kept
        | {"TRADEBOT_HOME": str(home), "DATABASE_URL": "duckdb:///data", "NUMBA_CACHE_DIR": compiled}
        | more
    )


def tradebot(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [TRADEBOT, *words],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment(home, **more),
        timeout=240,
    )


def test_a_newcomer_s_walk_step_by_step(home: Path) -> None:
    fetched = tradebot(home, "fetch")
    assert fetched.returncode == 0, fetched.stderr
    assert re.search(r"AAPL\s+updated\s+3270", fetched.stdout)
    assert "12154 new, 0 changed" in tradebot(home, "indicators").stdout
    assert re.search(r"crossover: \d+ new, 0 known", tradebot(home, "signals").stdout)
    assert re.search(r"crossover: 0 new, \d+ known", tradebot(home, "signals").stdout)
    status = tradebot(home, "db", "status").stdout
    assert re.search(r"raw_prices\s+12154\s+2000-03-01\s+2013-03-01", status)
    assert "jump" in tradebot(home, "fetch", "--issues").stdout
    doctor = tradebot(home, "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "MISSING" not in doctor.stdout


def test_pipeline_then_backtest_leave_their_reports(home: Path) -> None:
    pipeline = tradebot(home, "run", "nbs/pipelines/pipeline.ipynb")
    assert pipeline.returncode == 0, pipeline.stderr
    assert "12,154 bars of 5 symbols" in pipeline.stdout
    backtest = tradebot(
        home, "backtest", "--range", "2005-01-01:2007-12-31", "--range", "2008-01-01:2010-12-31"
    )
    assert backtest.returncode == 0, backtest.stderr + backtest.stdout
    assert "equal to the stored ones" in backtest.stdout
    assert "lowest cash" in backtest.stdout.lower()
    assert re.search(r"istinguishable from luck: a single trial .*\nIts timing is .*\n", backtest.stdout)
    pages = re.findall(r"/\S+\.html", backtest.stdout)
    assert {Path(page).name for page in pages} == {"notebook.html", "tearsheet.html", "tearsheet-2.html"}
    assert all(Path(page).stat().st_size > 10_000 for page in pages)


def test_parity_compares_and_says_what_it_compared(home: Path) -> None:
    tradebot(home, "fetch")
    done = tradebot(home, "parity", "--range", "2004-01-01:2006-12-31", "--set", "sma=10")
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"2004-01-01 to 2006-12-31: [\d,]+ rows of the compiled engine and of zipline compared", done.stdout
    )
    assert "no difference" in done.stdout
    assert list(home.glob("reports/*-parity-*/notebook.html"))
    beyond = tradebot(home, "parity", "--range", "2020-01-01:2020-12-31")
    assert beyond.returncode == 1
    assert "there are no bars from 2020-01-01 to 2020-12-31; they run from 2000-03-01" in beyond.stderr


def test_a_replay_is_held_against_both_engines_and_a_wrong_range_is_one_line(home: Path) -> None:
    tradebot(home, "fetch")
    done = tradebot(home, "replay", "2005-01-03", "2005-02-15")
    assert done.returncode == 0, done.stderr
    assert "31 sessions through the real stack" in done.stdout
    assert "no difference" in done.stdout
    beyond = tradebot(home, "replay", "2020-01-01", "2020-12-31")
    assert beyond.returncode == 1
    assert "there are no bars from 2020-01-01 to 2020-12-31" in beyond.stderr
    assert "is not a date" in tradebot(home, "replay", "soon", "2020-12-31").stderr


def test_a_sweep_leaves_its_map_and_goes_on_from_what_is_done(home: Path) -> None:
    tradebot(home, "fetch")
    words = [
        "sweep",
        "AAPL",
        "IBM",
        "--over",
        "sma=10:30:10",
        "--over",
        "ema=40,60",
        "--range",
        "2004-01-01:2007-12-31",
    ]
    done = tradebot(home, *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"crossover: 6 points, 2004-01-02 to 2007-12-31", done.stdout)
    assert re.search(r"^best nearby +\d+ +\d+ ", done.stdout, re.MULTILINE)
    assert "with 6 trials" in done.stdout
    (page,) = home.glob("reports/*-sweep-*/notebook.html")
    assert page.read_text().count('src="data:image/png') == 3
    (kept,) = (home / ".cache" / "sweeps").iterdir()
    before = (kept / "figures.npy").stat().st_mtime_ns
    again = tradebot(home, *words)
    assert "with 6 trials" in again.stdout, "a point is one trial however often it is looked at"
    assert (kept / "figures.npy").stat().st_mtime_ns == before, "what was done is not done again"
    later = tradebot(home, "backtest", "AAPL", "IBM", "--set", "sma=15", "--range", "2004-01-01:2007-12-31")
    assert "with 7 trials" in later.stdout, later.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the following arguments are required: --over"),
        (["--over", "sma=5:x:1"], "is not first:last:step, such as 5:60:5"),
        (["--over", "sma=5:50:0"], "is not first:last:step"),
        (["--over", "sma="], "parameter sma has no values to try"),
        (["--over", "smaa=5"], "strategy crossover has no parameter 'smaa'"),
        (["--over", "sma=5", "--strategy", "nothing"], "there is no strategy 'nothing'"),
        (["--over", "sma=5"], "there are no bars to trade on; fetch some first"),
    ],
)
def test_a_sweep_that_cannot_be_is_told_in_a_line(home: Path, words, told) -> None:
    done = tradebot(home, "sweep", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_walk_forward_shows_its_folds_and_refuses_windows_that_do_not_fit(home: Path) -> None:
    tradebot(home, "fetch")
    words = ["walk-forward", "AAPL", "IBM", "--over", "sma=10:30:10", "--over", "ema=40,60"]
    words += ["--range", "2004-01-01:2008-12-31"]
    for mistake, told in (
        (["--train", "1200"], "1259 sessions are too few to train on 1200 and test on 126; shorten them"),
        (["--purge", "504"], "a purge of 504 leaves nothing of 504 sessions of training"),
        (["--held-out", "10"], "10 of 10 groups held out leave none to train on"),
    ):
        refused = tradebot(home, *words, *mistake)
        assert refused.returncode == 2
        assert told in refused.stderr.splitlines()[-1]
    assert not (home / "reports").exists()
    done = tradebot(home, *words, "--train", "378", "--groups", "6", "--anchored")
    assert done.returncode == 0, done.stderr
    assert "crossover: 6 points, 7 folds, tested from 2005-07-05 to 2008-12-31" in done.stdout
    for line in (r"in training", r"out of sample", r"median point", r"buy and hold"):
        assert re.search(rf"^{line} +-?\d+\.\d\d", done.stdout, re.MULTILINE)
    assert re.search(r"^(Not d|D)istinguishable from luck: a single trial", done.stdout, re.MULTILINE)
    assert re.search(r"Sharpe of 5 cross-validated paths: 5 % -?\d", done.stdout)
    (page,) = home.glob("reports/*-walk-forward-*/notebook.html")
    assert page.read_text().count('src="data:image/png') == 4


def test_a_backtest_whose_signals_are_not_the_stored_ones_fails_and_says_where(home: Path) -> None:
    tradebot(home, "fetch", "IBM")
    tradebot(home, "signals", "IBM")
    script = (
        "from tradebot.store import open_store\nstore = open_store('duckdb:///data')\n"
        "with store.engine.transaction('ledger', write=True) as t:\n"
        "    t.rows('DELETE FROM signals WHERE id = (SELECT min(id) + 3 FROM signals)')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=home, check=True)
    failed = tradebot(home, "backtest", "IBM")
    assert failed.returncode == 1
    assert (
        "1 signals differ from the stored ones: they are not stored yet; `tradebot signals`" in failed.stderr
    )
    (folder,) = (home / "reports").glob("*-failed")
    assert "nothing" in (folder / "notebook.html").read_text()


@pytest.mark.parametrize(
    ("words", "more", "code", "says"),
    [
        (["fetch", "XYZZY"], {}, 1, r"XYZZY: sample: XYZZY: not in the sample"),
        (["fetch", "FB", "--start", "2003-01-01", "--end", "2003-12-31"], {}, 1, "FB: sample has no bars of it in this"),
        (["fetch", "--start", "2012-06-01", "--end", "2012-01-01"], {}, 2, "before start"),
        (["fetch", "--end", "2199-01-01"], {}, 2, "not complete yet"),
        (["fetch", "--end", "soon"], {}, 2, "'soon' is not a date"),
        (["fetch"], {"TRADEBOT_DATA_PROVIDER": "reuters"}, 2, r"\[data\] provider = reuters"),
        (["fetch"], {"TRADEBOT_DATA_PROVIDER": "alpaca"}, 2, "ALPACA_API_KEY"),
        (["fetch"], {"TRADEBOT_DATA_CALENDAR": "XMARS"}, 2, "calendar = XMARS"),
        (["fetch"], {"DATABASE_URL": "mysql://x"}, 2, "DATABASE_URL begins with 'mysql'"),
        (["fetch"], {"DATABASE_URL": "duckdb:////proc/nowhere"}, 2, "cannot be created"),
        (["signals"], {"TRADEBOT_STRATEGY_NAME": "crosover"}, 2, "there is no strategy 'crosover'"),
        (["indicators"], {"TRADEBOT_INDICATORS_FEATURES": "smaa(20)"}, 2, "smaa"),
        (["run", "nowhere.ipynb"], {}, 2, "nowhere.ipynb: No such file"),
        (["run", "nbs/pipelines/pipeline.ipynb", "-p", "symbol=IBM"], {}, 2, "has no parameter 'symbol'"),
        (["run", "nbs/pipelines/pipeline.ipynb", "-p", "symbols"], {}, 2, "is not NAME=VALUE"),
        (["backtest", "--range", "2005"], {}, 2, "is not a range"),
        (["backtest"], {}, 1, "no bars are stored"),
        (["frobnicate"], {}, 2, "invalid choice"),
        ([], {}, 2, "required"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_a_number(
    home: Path, words: list[str], more: dict, code: int, says: str
) -> None:
    answer = tradebot(home, *words, **more)
    assert answer.returncode == code, answer.stderr
    assert re.search(says, answer.stderr)
    assert "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if re.search(says, line)]
    assert len(lines) >= 1


def test_a_strategy_that_looks_ahead_is_refused_with_the_bar(home: Path) -> None:
    tradebot(home, "fetch", "IBM")
    cheat = home / "cheat.ipynb"
    source = (home / "nbs" / "pipelines" / "backtest.ipynb").read_text()
    planted = (
        '"from tradebot.signal_engine import strategy as register, Rules\\n",\n'
        '    "@register(needs={})\\n",\n'
        '    "def peeks(bars):\\n",\n'
        '    "    up = bars.close.shift(-1) > bars.close\\n",\n'
        "    \"    return Rules(buy={'up': up}, sell={'down': ~up})\\n\",\n"
        '    "config = load_config()\\n",'
    )
    assert '"config = load_config()\\n",' in source
    cheat.write_text(source.replace('"config = load_config()\\n",', planted))
    answer = tradebot(home, "run", "cheat.ipynb", "-p", "strategy=peeks", "-p", "symbols=IBM")
    assert answer.returncode == 1
    assert re.search(r"peeks looks ahead: on \d{4}-\d{2}-\d{2} it says", answer.stderr)


def test_a_damaged_database_is_one_line_that_names_the_file(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "market.duckdb").write_bytes(b"garbage" * 5000)
    for words in (["fetch"], ["db", "status"], ["run", "nbs/pipelines/pipeline.ipynb"]):
        answer = tradebot(home, *words)
        assert answer.returncode == 2
        assert re.fullmatch(
            r"(.* is running ...\n)?tradebot \w+: \S+market.duckdb is damaged; .*\n", answer.stderr
        )


def test_the_doctor_says_how_to_mend_what_is_missing(home: Path) -> None:
    answer = tradebot(home, "doctor", TRADEBOT_DATA_PROVIDER="alpaca", ALPACA_API_KEY="PK-visible?")
    assert answer.returncode == 1
    assert "Alpaca keys are not set" in answer.stdout
    assert "`tradebot fetch` brings them" in answer.stdout
    assert "PK-visible?" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_keeps_what_it_has_and_says_so(home: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [TRADEBOT, "fetch"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=home,
        env=environment(home, YFINANCE_BACKFILL_CHUNK="1mo"),
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("FB: page"):
            break
    time.sleep(0.05)
    process.send_signal(how)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was committed is kept" in rest
    assert "Traceback" not in rest
    again = tradebot(home, "fetch")
    assert again.returncode == 0
    assert re.search(r"AAPL\s+up to date\s+0", again.stdout)
    assert re.search(r"raw_prices\s+12154", tradebot(home, "db", "status").stdout)


def test_help_is_there_at_once() -> None:
    """No figure decides here; benchmarks/ measures. It must load nothing but the standard library."""
    code = "import sys; sys.argv = ['tradebot', '--help']\nfrom tradebot.cli import main\ntry:\n    main()\nexcept SystemExit:\n    print([m for m in sys.modules if m in ('numpy', 'pydantic', 'duckdb')], file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stderr.strip() == "[]"
