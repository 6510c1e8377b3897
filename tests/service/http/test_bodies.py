"""Bodies cost what they are worth: those that nobody would read nothing, all together a limit."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import requests

from service.http.bodies import SMALL, Bodies, HungUpError, NoRoomError
from service.http.wsgi import OnLoop
from service.journal import DELAY
from tests.service.clients import PICTURE, connect, connections, head_of
from tests.service.engines import make_bodies
from tests.service.exposition import samples, total
from tests.service.processes import memory
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode

KEY = "a-key-of-this-very-service"
HUGE = 8 << 20
"""Of a body that is not worth to be read."""


class in_parts:  # noqa: N801 - reads as what it stands for
    """What brings a body part by part, and between them has ``meanwhile`` called."""

    def __init__(
        self, *parts: bytes, gone: bool = False, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self.rest = list(parts)
        self.gone = gone
        self.meanwhile = meanwhile
        self.unwanted = False

    def __call__(self) -> tuple[bytes, bool]:
        if len(self.rest) == 1:
            self.meanwhile()
        if self.unwanted:
            raise NoRoomError
        if not self.rest:
            raise HungUpError
        part = self.rest.pop(0)
        return part, bool(self.rest) or self.gone

    def give_way(self) -> None:
        self.unwanted = True


def test_a_body_counts_from_its_first_part_until_it_is_let_go() -> None:
    bodies = make_bodies(100)
    first, second = bodies.take(in_parts(b"whole")), bodies.take(in_parts(b"in ", b"two"))
    assert (first, second, bodies.held) == (b"whole", b"in two", 11)
    bodies.let_go(first)
    bodies.let_go(second)
    assert bodies.held == 0


def test_of_a_body_that_is_too_large_one_byte_too_many_is_kept() -> None:
    bodies = make_bodies(10)
    body = bodies.take(in_parts(b"123456", b"123456", b"never"))
    assert body == b"12345612345"
    assert bodies.held == 11


def test_one_that_is_cut_off_leaves_nothing_held() -> None:
    bodies = make_bodies(100)
    with pytest.raises(HungUpError) as caught:
        bodies.take(in_parts(b"12", b"34", gone=True))
    assert (caught.value.taken, bodies.held) == (4, 0)


def test_one_whose_reading_fails_leaves_nothing_held() -> None:
    def fail() -> None:
        raise KeyError

    bodies = make_bodies(100)
    with pytest.raises(KeyError):
        bodies.take(in_parts(b"12", b"34", meanwhile=fail))
    assert bodies.held == 0


def test_of_two_that_stand_still_the_one_that_does_so_for_longer_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bodies, taken = make_bodies(100, queue_bytes=10), list[bytes]()
    clock = [100.0]
    monkeypatch.setattr("service.http.bodies.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def second_comes() -> None:
        clock[0] += 2
        taken.append(bodies.take(in_parts(b"1234", b"5", meanwhile=third_comes)))

    def third_comes() -> None:
        clock[0] += 2
        taken.append(bodies.take(in_parts(b"123", b"4")))

    with pytest.raises(NoRoomError):
        bodies.take(in_parts(b"12345", b"6", meanwhile=second_comes))
    assert taken == [b"1234", b"12345"]
    assert bodies.held == 9


def test_what_is_still_to_come_finds_room_or_is_refused() -> None:
    bodies = make_bodies(100, queue_bytes=10)
    alone = bodies.take(in_parts(b"123456", b"789012", b"345"))  # larger than all that may wait
    with pytest.raises(NoRoomError) as caught:
        bodies.take(in_parts(b"12", b"34"))
    assert caught.value.taken == 2
    assert bodies.take(in_parts(b"whole")) == b"whole"  # what has come already is no use to refuse
    bodies.let_go(b"whole")
    assert bodies.held == len(alone)
    bodies.let_go(alone)
    assert bodies.take(in_parts(b"12", b"34")) == b"1234"


@pytest.mark.parametrize(("seconds", "gives_way"), [(0.5, False), (1.5, True)])
def test_a_body_that_has_stood_still_for_a_second_gives_way_to_another(
    monkeypatch: pytest.MonkeyPatch, seconds: float, gives_way: bool
) -> None:
    """While the first waits for its second part, the other one comes."""
    bodies, taken = make_bodies(100, queue_bytes=10), list[bytes]()
    clock = [100.0]
    monkeypatch.setattr("service.http.bodies.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def come() -> None:
        clock[0] += seconds
        with contextlib.nullcontext() if gives_way else pytest.raises(NoRoomError):
            taken.append(bodies.take(in_parts(b"12345", b"678")))

    still = in_parts(b"1234567", b"89", meanwhile=come)
    if gives_way:
        with pytest.raises(NoRoomError):
            bodies.take(still)
        assert taken == [b"12345678"]
    else:
        taken.append(bodies.take(still))
        assert taken == [b"123456789"]
    assert bodies.held == sum(map(len, taken))


def test_a_refusal_for_want_of_room_makes_no_room() -> None:
    """Else every refused upload would leave the limit a little looser, for good."""
    bodies = make_bodies(100, queue_bytes=10)
    others = bodies.take(in_parts(b"123456", b"78"))
    gate: Any = SimpleNamespace(no_room=lambda *_: ([], b"an answer of its own length"))
    server = OnLoop(cast(Any, None), gate, bodies)
    for _ in range(3):
        answer = server({"CONTENT_LENGTH": "12"}, in_parts(b"123", b"456", b"789"))
        assert answer.head.startswith(b"HTTP/1.1 503 ")
        assert answer.body == b"an answer of its own length"
        assert bodies.held == len(others)


@pytest.mark.parametrize(
    ("head", "of_use", "wanted"),
    [
        ({}, True, False),
        ({"CONTENT_LENGTH": str(SMALL)}, False, True),  # cheaper to read than to ask about
        ({"CONTENT_LENGTH": str(SMALL + 1)}, False, False),
        ({"CONTENT_LENGTH": str(SMALL + 1)}, True, True),
        ({"CONTENT_LENGTH": "5", "HTTP_EXPECT": "100-continue"}, False, False),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, False, False),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, True, True),
        ({"CONTENT_LENGTH": "1000002"}, True, False),
        ({"CONTENT_LENGTH": "1000001"}, True, True),
    ],
)
def test_a_body_is_wanted_by_its_head(head: dict[str, str], of_use: bool, wanted: bool) -> None:
    bodies = Bodies(lambda environ: of_use, max_bytes=1_000_000, queue_bytes=1)
    assert bodies.wanted(head) is wanted


@pytest.fixture(scope="module")
def locked(models_dir: Path) -> Iterator[Running]:
    """A server that asks for a key, and would read bodies of ``HUGE`` bytes."""
    limit = str(2 * HUGE)
    with started(models_dir, WEB_CONCURRENCY="1", API_KEYS=KEY, MAX_BODY_BYTES=limit) as running:
        wait_until_alive(running)
        yield running


def answer_before_the_body(server: Running, path: str, *lines: str, method: str = "POST") -> bytes:
    """What comes back of a request whose body never does."""
    head = head_of(HUGE, path).replace(b"POST", method.encode(), 1)
    more = "".join(f"{line}\r\n" for line in lines).encode()
    with connect(server) as connection:
        connection.sendall(head[:-2] + more + b"\r\n")
        return connection.recv(100)


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
@pytest.mark.parametrize(
    ("path", "lines", "method", "status"),
    [
        ("/predict", (), "POST", 401),
        ("/v2/models/relu_with_bn/infer", (), "POST", 401),
        ("/predict", ("X-API-Key: another-key-than-the-right-one",), "POST", 401),
        ("/nowhere", (), "POST", 401),
        ("/nowhere", (f"X-API-Key: {KEY}",), "POST", 404),
        ("/models", (f"Authorization: Bearer {KEY}",), "POST", 405),
        ("/models", (f"Authorization: Bearer {KEY}",), "GET", 200),
        ("/predict", (f"X-API-Key: {KEY}", "Content-Encoding: gzip"), "POST", 415),
        (
            "/v2/models/relu_with_bn/infer",
            (f"X-API-Key: {KEY}", "Content-Encoding: br"),
            "POST",
            415,
        ),
    ],
)
def test_a_large_body_that_nobody_would_read_is_not_waited_for(
    locked: Running, path: str, lines: tuple[str, ...], method: str, status: int, expect: tuple[str]
) -> None:
    answer = answer_before_the_body(locked, path, *lines, *expect, method=method)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/predict", [f"X-API-Key: {KEY}"]),
        ("/predict", [f"Authorization: Bearer {KEY}", "Content-Encoding: identity"]),
        ("/v2/models/relu_with_bn/infer", [f"X-API-Key: {KEY}", "Content-Encoding: gzip"]),
    ],
)
def test_whoever_has_a_key_is_told_to_go_on(locked: Running, path: str, lines: list[str]) -> None:
    answer = answer_before_the_body(locked, path, *lines, "Expect: 100-continue")
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"


NEXT = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_connection_ends_with_the_answer_to_a_large_body_that_was_not_read(
    locked: Running,
) -> None:
    with connect(locked) as connection:
        for _ in range(4):  # slowly, and to its end, before it looks for an answer
            connection.sendall((head_of(HUGE) + bytes(HUGE))[_ * HUGE // 4 : (_ + 1) * HUGE // 4])
            time.sleep(1)
        connection.sendall(NEXT)
        with connection.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.count(b"\r\nConnection: close\r\n") == 1
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_connection_goes_on_behind_a_small_body_that_was_not_read(locked: Running) -> None:
    with connect(locked) as connection:
        connection.sendall(head_of(1000, "/nowhere") + bytes(1000) + NEXT)
        with connection.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.count(b"HTTP/1.1 200 ") == 1


def test_the_log_has_what_was_read_and_not_what_was_announced(locked: Running) -> None:
    key = f"X-API-Key: {KEY}"
    assert answer_before_the_body(locked, "/log-me", key).startswith(b"HTTP/1.1 404 ")
    time.sleep(5 * DELAY)
    (line,) = [line for line in locked.lines() if line.get("path") == "/log-me"]
    assert (line["status"], line["bytes_in"]) == (404, 0)


def refused(waiting: list[socket.socket]) -> list[str]:
    """The ids of those that have been answered 503, each of which says when to try again.

    They wait no longer: a moment later the server ends their connections.
    """
    found = []
    for each in list(waiting):
        each.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            answer = each.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in answer
            assert b"too many large uploads" in answer
            (identity,) = re.findall(rb"\r\nX-Request-ID: (\w+)\r\n", answer)
            found.append(identity.decode())
            waiting.remove(each)
    return found


def test_unfinished_uploads_fill_no_more_memory_than_they_may(models_dir: Path) -> None:
    size, count, room = 2 << 20, 60, 10 << 20
    large = encode(np.random.default_rng(1).integers(0, 256, (500, 500, 3), np.uint8))
    assert SMALL < len(large) < size
    limits = {"MAX_BODY_BYTES": str(2 * size), "QUEUE_BYTES": str(room)}
    with started(models_dir, WEB_CONCURRENCY="1", **limits) as server:
        wait_until_alive(server)

        def ask(data: bytes) -> requests.Response:
            return requests.post(f"{server.url}/predict", data=data, timeout=DEADLINE)

        assert ask(large).status_code == 200
        before = memory(server)
        with connections(server, count) as senders:
            for each in senders:
                each.sendall(head_of(2 * size) + bytes(size))
            waiting, without_room, most, end = list(senders), [], 0, time.monotonic() + DEADLINE
            while len(without_room) < count - 2 * room // size:
                assert time.monotonic() < end, f"{len(without_room)} have been refused"
                time.sleep(0.1)
                most = max(most, memory(server) - before)
                without_room += refused(waiting)
            assert most < 4 * room < count * size, most
            assert ask(PICTURE).status_code == 200  # whose body comes at once
            deadline = time.monotonic() + 5  # of those that stand still, not of BODY_SECONDS
            while (status := ask(large).status_code) == 503:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert status == 200
        deadline = time.monotonic() + DEADLINE
        while (status := ask(large).status_code) == 503:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert status == 200
        text = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
        told = samples(text)
        of = {"route": "/predict", "variant": ""}
        assert total(told, "batchnorm_requests_total", status="503", **of) >= count - 10
        assert total(told, "batchnorm_requests_total", status="499", **of) >= 1
        time.sleep(5 * DELAY)
        lines = server.lines()
        logged = {line["request_id"]: line for line in lines if "request_id" in line}
        for identity in without_room:
            line = logged[identity]
            assert (line["status"], line["route"]) == (503, "/predict")
            assert 0 < line["bytes_in"] <= size  # what one look at the socket brings, or more
        warnings = [line["message"] for line in lines if line["level"] == "warning"]
        assert warnings
        assert {each.partition(": ")[2] for each in warnings} == {
            "too many large uploads are on their way (QUEUE_BYTES)"
        }
        # One who was refused and came again has a line each, and a second later a count of them.
        counted = sum(int(each.split()[1]) for each in warnings)
        ended = [line for line in logged.values() if line.get("status") == 503]
        assert len(without_room) <= counted <= len(ended)
