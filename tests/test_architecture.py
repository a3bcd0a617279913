"""The shape of the house: imports run downward, pure modules stay pure, and starting up costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tradebot"
LAYERS = [
    {"config"},
    {
        "db_models",
        "chain",
        "prices",
        "sessions",
        "kernels",
        "kernel_pool",
        "risk",
        "splits",
        "broker",
        "notify",
    },
    {
        "decisions",
        "alpaca",
        "exchange",
        "engine",
        "columns",
        "timescale",
        "indicators",
        "trailing",
        "change",
        "providers",
        "quality",
        "universe",
        "accounting",
        "zipline_data",
        "labels",
    },
    {"duckdb_engine", "postgres_engine", "versions"},
    {
        "store",
        "signal_engine",
        "filters",
        "programs",
        "scan",
        "zipline_engine",
        "statistics",
        "evidence",
        "results",
        "charts",
        "page",
        "plates",
        "models",
    },
    {
        "data_fetch",
        "pipeline",
        "identity",
        "backtest",
        "simulate",
        "runs",
        "provenance",
        "transfer",
        "backup",
        "frozen",
        "kill_switch",
        "book",
        "paper_broker",
        "classifier",
        "veto",
    },
    {
        "doctor",
        "why",
        "promotion",
        "schedules",
        "sending",
        "reconcile",
        "parity",
        "sweep",
        "ledger",
        "revisions",
        "learning",
        "learning_plots",
    },
    {"executor", "dues", "scheduler", "sweep_plots", "control", "walk", "cross_validation", "trials"},
    {"replay", "recheck", "checks", "service", "workers", "components", "keys"},
    {
        "trading",
        "training",
        "scheduling",
        "records",
        "data",
        "evening",
        "day",
        "walk_plots",
        "luck",
        "feed",
        "metrics",
        "push",
        "pages",
        "model_pages",
        "guard",
    },
    {"report", "data_pages", "trust_page", "signin"},
    {"dashboard"},
    {"app"},
    {"serving"},
    {"cli"},
]
PURE = {
    "prices",
    "risk",
    "decisions",
    "exchange",
    "broker",
    "quality",
    "kernels",
    "indicators",
    "trailing",
    "change",
    "signal_engine",
    "filters",
    "statistics",
    "universe",
    "accounting",
    "programs",
    "scan",
    "simulate",
    "results",
    "splits",
    "evidence",
    "control",
    "cross_validation",
    "trials",
    "luck",
    "chain",
    "labels",
    "learning",
    "classifier",
    "veto",
}
WORLD = {"duckdb", "psycopg2", "requests", "httpx", "yfinance", "alpaca", "time", "socket", "tradebot.store"}
MADE_OF_HEAVY = {
    "zipline_engine",
    "components",
    "pages",
    "data_pages",
    "model_pages",
    "trust_page",
    "dashboard",
    "workers",
}  # loaded when a backtest or a server starts
HEAVY = ("zipline", "panel", "pyfolio", "papermill", "yfinance", "pandas_ta", "celery", "sklearn", "skops")


def imports(module: Path, *, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, tradebot's own as tradebot.NAME."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"tradebot.{node.module or ''}".rstrip(".") if node.level else (node.module or "")
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "tradebot" else {base}
    return found


def modules() -> dict[str, Path]:
    return {path.stem: path for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set().union(*LAYERS)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_downward(name: str) -> None:
    floor = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    own = {module.split(".")[1] for module in imports(modules()[name]) if module.startswith("tradebot.")}
    upward = {module for module in own & set(modules()) if floor.get(module, 99) > floor[name]}
    assert not upward


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_pure_core_touches_no_clock_network_or_database(name: str) -> None:
    assert not imports(modules()[name]) & WORLD


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}}, file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stderr.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import tradebot",
        "import tradebot.cli\ntry:\n    tradebot.cli.main(['--help'])\nexcept SystemExit:\n    pass",
        *(f"import tradebot.{name}" for name in sorted(modules()) if name not in MADE_OF_HEAVY),
    ],
)
def test_starting_up_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_by(statement) & set(HEAVY)


def test_help_does_not_even_load_pandas() -> None:
    assert "pandas" not in loaded_by(
        "import tradebot.cli\ntry:\n    tradebot.cli.main(['--help'])\nexcept SystemExit:\n    pass"
    )
