"""An HTTP server on loopback that answers as it is told: well, badly, late or not at all."""

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

Fault = Callable[["Handler"], None]


class Request(NamedTuple):
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        stand_in = self.server.stand_in
        parts = urlsplit(self.path)
        request = Request(parts.path, dict(parse_qsl(parts.query)), dict(self.headers))
        with stand_in.lock:
            stand_in.requests.append(request)
            planned = stand_in.is_data(parts.path) and stand_in.faults
            fault = stand_in.faults.popleft() if planned else None
        if fault:
            fault(self)
        else:
            status, body = stand_in.answer(request)
            respond(status, body)(self)

    def reply(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {
            **headers,
            "Content-Length": str(len(body) if length is None else length),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        "What the header Date says."
        return super().date_time_string(timestamp or self.server.stand_in.now)

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: "StandIn"

    def handle_error(self, request: Any, client_address: Any) -> None:
        "A client that hangs up in the middle is part of the plan."


class StandIn:
    """Answers GET requests until closed. `faults` are used up, one a request for data; None is a good answer.

    `now` is its clock, in seconds since 1970; the machine's if it is None.
    """

    now: float | None = None

    def __init__(self, certificate: ssl.SSLContext | None = None):
        self.requests: list[Request] = []
        self.faults: deque[Fault | None] = deque()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.stand_in = self
        self.port = self._server.server_address[1]
        if certificate:
            # The handshake is left to the thread that serves the connection.
            options = {"server_side": True, "do_handshake_on_connect": False}
            self._server.socket = certificate.wrap_socket(self._server.socket, **options)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def is_data(self, path: str) -> bool:
        "Whether a request for `path` counts, and may be met with a fault."
        return True

    def answer(self, request: Request) -> tuple[int, Any]:
        "Status and body of a good answer; dictionaries are sent as JSON."
        raise NotImplementedError

    def reset(self) -> None:
        self.requests.clear()
        self.faults.clear()
        self.now = None

    @property
    def data_requests(self) -> list[Request]:
        return [request for request in self.requests if self.is_data(request.path)]


def respond(status: int, body: Any = b"", **headers: str) -> Fault:
    "Any answer: a dictionary as JSON, text as HTML. Header names are written with underscores."
    as_json = isinstance(body, dict | list)
    content = json.dumps(body).encode() if as_json else body.encode() if isinstance(body, str) else body
    named = {"Content-Type": "application/json" if as_json else "text/html"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.reply(status, content, named)


def hang(handler: Handler) -> None:
    "Never answers."
    handler.server.stand_in.closing.wait(30)
    handler.close_connection = True


def drop(handler: Handler) -> None:
    "Closes the connection without a word."
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    "Closes the connection in the middle of a word. (A client may try again unasked when there was no word at all.)"
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    handler.close_connection = True


def truncate(handler: Handler) -> None:
    "Promises more than it sends."
    handler.reply(200, b'{"chart": {"result": [', {"Content-Type": "application/json"}, length=5_000)
    handler.close_connection = True


def drip(handler: Handler) -> None:
    "Sends a byte now and then, for ever: no single read takes long."
    handler.reply(200, b"", {"Content-Type": "application/json"}, length=1_000_000)
    while not handler.server.stand_in.closing.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()
