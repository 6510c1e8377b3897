"""The least that a Python service must do: parse HTTP, decode, run the net, write JSON.

A worker for every CPU as the service has them, forked after the model is loaded: uvloop, httptools,
balanced connections, greedy batches that the loop runs. No Flask, no routes, limits, queue, logs,
metrics or headers, and no handling of unusual clients. The distance from it to the ceiling is what
any Python service costs on this machine; the distance from it to the service is what the service's
own features cost.
"""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import uvloop

from service.capacity import CPU_BATCH
from service.cpus import usable_cpus
from service.http.acceptor import Acceptor, Board
from service.models.model import Model
from service.models.repository import load_repository
from service.pictures import decode

WORKERS = usable_cpus()
LINE = '{"index":%d,"probability":%r}'


class Runner:
    """Computes what waits, in the loop, as soon as everything that has come in waits."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: list[tuple[Any, asyncio.Transport]] = []

    def add(self, body: bytes, transport: asyncio.Transport) -> None:
        """Answer one picture."""
        if not self._waiting:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._run)
        self._waiting.append((decode(body, max_pixels=1 << 20), transport))

    def _run(self) -> None:
        batch, self._waiting = self._waiting[:CPU_BATCH], self._waiting[CPU_BATCH:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        rows = self._model.run(np.stack([image for image, _ in batch]))
        for row, (_, transport) in zip(rows, batch, strict=True):
            best = (-row).argsort()[:5].tolist()
            top = ",".join(LINE % (index, float(row[index])) for index in best)
            body = f'{{"top":[{top}]}}'
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            transport.write((head + body).encode())


class Connection(asyncio.Protocol):
    """Reads requests, whatever they ask for."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""

    # A stream's transport, where asyncio declares any.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio's."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio's."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """The parser's."""
        self._body += body

    def on_message_complete(self) -> None:
        """The parser's."""
        body, self._body = self._body, b""
        self._runner.add(body, self._transport)


async def work(listener: socket.socket, model: Model, board: Board, place: int) -> None:
    """Serve until the process is ended."""
    runner = Runner(model)
    Acceptor(listener, lambda: Connection(runner), board, place)
    await asyncio.Event().wait()


def main() -> None:
    """Serve the default model of ``MODELS_DIR`` on ``PORT`` until SIGTERM."""
    model = load_repository(Path(os.environ["MODELS_DIR"])).get()
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=1024)
    listener.setblocking(False)
    board = Board(WORKERS)
    children = []
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for place in range(WORKERS):
        child = os.fork()
        if child == 0:
            uvloop.run(work(listener, model, board, place))
        children.append(child)
    signal.sigwait([signal.SIGTERM])
    for each in children:
        os.kill(each, signal.SIGKILL)


if __name__ == "__main__":
    main()
