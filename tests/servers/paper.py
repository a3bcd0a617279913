"""The local paper broker in a process of its own, and its owner's side."""

import multiprocessing
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import requests


def serve(file: str | None, ports: tuple[int, int] | None, told: Connection, now: str) -> None:
    """In a child: a broker without bars, its clock driven, until the pipe closes."""
    from datetime import datetime
    from decimal import Decimal

    from tradebot.exchange import Exchange, Market
    from tradebot.paper_broker import Desk, Journal, served

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exchange = Exchange(Market(), datetime.fromisoformat(now), Decimal(100_000))
    journal = Journal(Path(file) if file else None)
    journal.load(exchange)
    with served(Desk(exchange, journal, driven=True), port=ports[0] if ports else 0) as addresses:
        told.send(tuple(addresses))
        with suppress(EOFError):
            told.recv()


class PaperBroker:
    """A broker that can be killed and started again on its file, at the same addresses."""

    def __init__(self, processes: Any, file: Path, now: str = "2013-02-28 15:00:00"):
        self._processes, self._file, self._now = processes, file, now
        self._session = requests.Session()
        self._session.trust_env = False
        self.ports: tuple[int, int] | None = None
        self.start()

    def start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        words = (str(self._file), self.ports, theirs, self._now)
        self._process = self._processes.Process(target=serve, args=words, daemon=True)
        self._process.start()
        theirs.close()
        assert ours.poll(60), "the paper broker did not start"
        self.url, self.owner = ours.recv()
        self.ports = tuple(int(address.rpartition(":")[2]) for address in (self.url, self.owner))
        self._pipe = ours

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def stop(self) -> None:
        self.kill()
        self._session.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the owner."""
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = self._session.request(method, f"{self.owner}{path}", json=body, timeout=30)
                break
            except requests.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trade(self, method: str, path: str, body: Any = None) -> Any:
        """A request of some other client of the account."""
        keys = {"APCA-API-KEY-ID": "other", "APCA-API-SECRET-KEY": "other"}
        answer = self._session.request(method, f"{self.url}/v2{path}", json=body, headers=keys, timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def reset(self, **settings: Any) -> None:
        self.ask("POST", "/reset", settings)

    def faults(self, *rules: dict[str, Any]) -> None:
        self.ask("POST", "/faults", list(rules))

    def clear(self) -> None:
        self.ask("DELETE", "/faults")

    @property
    def state(self) -> dict[str, Any]:
        return self.ask("GET", "/state")

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self.ask("GET", "/requests")

    @property
    def posts(self) -> list[dict[str, Any]]:
        """Orders that somebody tried to place."""
        return [one for one in self.requests if (one["method"], one["path"]) == ("POST", "/v2/orders")]
