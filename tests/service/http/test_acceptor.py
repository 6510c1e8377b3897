"""Connections are shared out evenly among the workers, and nobody waits for a dead one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import service.http.acceptor
from service.http.acceptor import RESERVED, TOLERANCE, Acceptor, Board
from service.http.serving import SHED
from tests.service.clients import connect, head_of
from tests.service.processes import peers
from tests.service.test_operations import wait_for_workers
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.trouble import still_open


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
    # A busy machine may be late for its turn, and many need not be quite even.
    assert max(found) - min(found) <= 2 + count // TOLERANCE


def test_whoever_has_more_takes_what_the_other_leaves_for_too_long(
    listener: socket.socket,
) -> None:
    opened: list[asyncio.BaseTransport] = []

    class Kept(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            opened.append(transport)

    async def main() -> int:
        board = Board(2)
        acceptor = Acceptor(listener, Kept, board, 1)
        board[0] = 0  # of a worker that hangs
        clients = [(await asyncio.open_connection(*listener.getsockname()))[1] for _ in range(5)]
        async with asyncio.timeout(10):
            while board[1] < 5 or len(opened) < 5:
                await asyncio.sleep(0.001)
        acceptor.ended()
        acceptor.close()
        least = board.least()
        for client in clients:
            client.close()
            await client.wait_closed()
        while opened:
            opened.pop().close()
        await asyncio.sleep(0.01)
        return least

    assert asyncio.run(main()) == 0


class Quiet(asyncio.Protocol):
    """Says nothing, and goes when the other side does."""


async def accepted(
    listener: socket.socket,
    board: Board,
    count: int,
    protocol: Callable[[], asyncio.BaseProtocol] = Quiet,
    *,
    own: int = 0,
    **limits: Any,
) -> int:
    """How many a worker that has ``own`` counts a moment after ``count`` have come at once."""
    acceptor = Acceptor(listener, protocol, board, 1, **limits)
    board[1] = own
    address = listener.getsockname()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(address))
        await asyncio.sleep(0.2)
        found = board[1]
        acceptor.close()
    await asyncio.sleep(0.05)
    return found


def test_of_many_a_few_more_or_less_make_no_difference(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.http.acceptor, "PATIENCE", 60)
    board = Board(2)
    board[0] = 64
    assert asyncio.run(accepted(listener, board, 3, own=70)) == 73


def test_but_not_a_whole_share(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.http.acceptor, "PATIENCE", 60)
    board = Board(2)
    board[0] = 64
    assert asyncio.run(accepted(listener, board, 3, own=80)) == 80


@pytest.mark.parametrize(("count", "sheds"), [(2, False), (3, True)])
def test_nobody_is_sent_away_for_whom_there_is_room(
    count: int, sheds: bool, listener: socket.socket
) -> None:
    shed: list[int] = []
    found = asyncio.run(accepted(listener, Board(2), count, most=2, shed=lambda: shed.append(1)))
    assert (found, bool(shed)) == (2, sheds)


def test_a_connection_that_cannot_begin_does_not_count(listener: socket.socket) -> None:
    def fails() -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    assert asyncio.run(accepted(listener, Board(2), 3, fails)) == 0


def test_who_closes_leaves_the_board(listener: socket.socket) -> None:
    board = Board(2)
    board[0] = 7
    asyncio.run(accepted(listener, board, 1))
    assert board.least() == 7


def test_who_has_left_does_not_count() -> None:
    board = Board(3)
    board[0], board[1] = 3, 5
    assert board.least() == 3
    board.leave(0)
    assert board.least() == 5


FILES = 300
"""That a worker may have open; 172 of them may be connections."""


@pytest.fixture(scope="module")
def small(models_dir: Path) -> Iterator[Running]:
    command = ("bash", "-c", f"ulimit -n {FILES}; exec {sys.executable} -m service")
    with started(models_dir, command=command, WEB_CONCURRENCY="1") as server:
        wait_until_alive(server)
        yield server


def asked(connection: socket.socket) -> bool:
    """Whether the connection is there, and answers."""
    try:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.recv(1 << 20)
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


def test_where_there_are_too_many_those_idle_for_longest_end(small: Running) -> None:
    with contextlib.ExitStack() as stack:
        idle = []
        for _ in range(FILES):
            idle.append(stack.enter_context(connect(small)))
            assert asked(idle[-1])
            time.sleep(0.01)  # so that there are some that have been idle for long enough
        held = [number for number, each in enumerate(idle) if asked(each)]
    assert FILES - RESERVED - SHED <= len(held) <= FILES - RESERVED
    assert held == list(range(FILES - len(held), FILES))


def test_who_has_something_to_say_is_not_sent_away_for_who_comes_later(small: Running) -> None:
    busy, late = FILES - RESERVED, 20
    with contextlib.ExitStack() as stack:
        time.sleep(0.3)  # whoever was there before is gone
        before = []
        for _ in range(busy):
            before.append(stack.enter_context(connect(small)))
            before[-1].sendall(head_of(1000))
        time.sleep(0.3)
        after = [stack.enter_context(connect(small)) for _ in range(late)]
        for each in after:
            each.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        assert all(map(still_open, [*before, *after]))
        for each in before[:late]:
            each.close()
        for each in after:
            each.settimeout(DEADLINE)
            assert each.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert all(map(still_open, before[late:]))


def test_who_does_not_read_his_answer_keeps_nobody_out(small: Running) -> None:
    """Of the connections that there may be, some hold answers that nobody takes."""
    model = b"GET /static/examples/skyscraper.webp HTTP/1.1\r\nHost: localhost\r\n\r\n"
    time.sleep(0.3)  # whoever was there before is gone
    with contextlib.ExitStack() as stack:
        for number in range(FILES - RESERVED):
            connection = stack.enter_context(socket.socket())
            if number < 2 * SHED:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", small.port))
            if number < 2 * SHED:
                connection.sendall(200 * model)
            else:
                assert asked(connection)
        time.sleep(1.5)
        for _ in range(3 * SHED):
            start = time.monotonic()
            assert asked(stack.enter_context(connect(small)))
            assert time.monotonic() - start < 1.5
