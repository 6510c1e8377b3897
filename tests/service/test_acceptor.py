"""Connections are shared out evenly among the workers, and nobody waits for a dead one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.acceptor import Acceptor, Board
from tests.service.processes import peers
from tests.service.test_operations import wait_for_workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def shares(server: Running, processes: list[int], count: int) -> list[int]:
    """How many of ``count`` connections, opened at once, each process takes."""
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for each in connections:
        each.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert each.recv(1000).startswith(b"HTTP/1.1 200 ")
    found = [len(peers(pid)) for pid in processes]
    for each in connections:
        each.close()
    while any(peers(pid) for pid in processes):
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("count", [8, 32])
def test_connections_that_come_at_once_are_shared_out_evenly(models_dir: Path, count: int) -> None:
    with started(models_dir, WEB_CONCURRENCY="2") as server:
        wait_until_alive(server)
        processes = wait_for_workers(server, 2)
        end = time.monotonic() + DEADLINE
        while not all(shares(server, processes, 4)):  # the second one is still on its way
            assert time.monotonic() < end
        found = shares(server, processes, count)
    assert sum(found) == count
    assert max(found) - min(found) <= 2


def test_whoever_has_more_takes_what_the_other_leaves_for_too_long(
    listener: socket.socket,
) -> None:
    async def main() -> int:
        board = Board(2)
        acceptor = Acceptor(listener, asyncio.Protocol, board, 1)
        board[0] = 0  # of a worker that hangs
        clients = [(await asyncio.open_connection(*listener.getsockname()))[1] for _ in range(5)]
        async with asyncio.timeout(10):
            while board[1] < 5:
                await asyncio.sleep(0.001)
        acceptor.ended()
        acceptor.close()
        taken = board.least()
        for client in clients:
            client.close()
        return taken

    assert asyncio.run(main()) == 0


def test_who_has_left_does_not_count() -> None:
    board = Board(3)
    board[0], board[1] = 3, 5
    assert board.least() == 3
    board.leave(0)
    assert board.least() == 5
