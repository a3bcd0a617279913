"""An HTTP server on loopback that takes what is posted, and may be told to answer badly."""

from typing import Any

from servers.stand_in import Handler, Request, StandIn


class Posted(Handler):
    def do_POST(self) -> None:
        hook = self.server.stand_in
        hook.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()


class Webhook(StandIn):
    """Answers every POST with 200 and "ok", as Slack does; `bodies` are what came."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        self._server.RequestHandlerClass = Posted

    def answer(self, request: Request) -> tuple[int, Any]:
        return 200, "ok"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/SECRET"
