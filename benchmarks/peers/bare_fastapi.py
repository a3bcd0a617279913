"""What one writes first: a FastAPI route with the newest signals, and a WebSocket that broadcasts what it is posted.

uvicorn peers.bare_fastapi:app; POST /tell with a JSON body sends it to every client of /ws.
"""

import asyncio
from contextlib import suppress

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

app = FastAPI()
clients: set[WebSocket] = set()
rows = [
    {"id": number, "symbol": "AAPL", "timestamp": "2013-02-28", "signal_type": "buy", "details": {"price": 1.0, "rule": "x"}}
    for number in range(50)
]  # fmt: skip


@app.get("/latest")
def latest() -> list[dict]:
    return rows


@app.post("/tell")
async def tell(request: Request) -> int:
    text = (await request.body()).decode()
    await asyncio.gather(*(client.send_text(text) for client in clients))
    return len(clients)


@app.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    await socket.accept()
    clients.add(socket)
    with suppress(WebSocketDisconnect):
        while True:
            await socket.receive_text()
    clients.discard(socket)
