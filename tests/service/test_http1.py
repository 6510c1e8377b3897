"""HTTP/1.1 on the wire: what the server makes of odd but legal requests, and of illegal ones."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from service.drain import Drain
from service.gate import Gate
from service.http1 import Connection, Serving
from service.incoming import MAX_HEAD_BYTES
from service.waiting import Turns
from service.wsgi import OnLoop
from tests.service.hostile import PHOTO
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import encode, make_card, make_model, write_repository

PNG = encode(PHOTO)


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, WEB_CONCURRENCY="1", CORS_ORIGINS="https://a.example") as running:
        wait_until_alive(running)
        yield running


@pytest.fixture
def connection(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE) as opened:
        yield opened


def response(connection: socket.socket, method: str = "GET") -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return answer


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    asked = b"".join(
        f"GET /health/{name} HTTP/1.1\r\nHost: a\r\n{end}\r\n".encode()
        for name, end in [("live", ""), ("nowhere", ""), ("ready", "Connection: close\r\n")]
    )
    answer = server.send(asked, hang_up=False)
    statuses = [line for line in answer.split(b"\r\n") if b"HTTP/1.1 " in line]
    assert [status[-30:].split(b"HTTP/1.1 ")[1][:3] for status in statuses] == [
        *(b"200", b"404", b"200"),
    ]


def test_a_body_is_asked_for_before_it_is_sent(connection: socket.socket) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PNG)}\r\n"
    connection.sendall((head + "Expect: 100-continue\r\n\r\n").encode())
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(PNG)
    assert response(connection, "POST").status == 200


def test_a_body_that_would_be_refused_is_not_asked_for(connection: socket.socket) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n"
    connection.sendall((head + "Expect: 100-continue\r\n\r\n").encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_head_that_is_too_large_is_answered_with_431(server: Running) -> None:
    line = b"X-Filler: " + b"a" * 1000 + b"\r\n"
    head = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
    answer = server.send(head + line * (2 * MAX_HEAD_BYTES // len(line)), hang_up=False)
    assert answer.startswith(b"HTTP/1.1 431 ")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert f"{MAX_HEAD_BYTES} bytes" in problem["detail"]
    counted = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
    assert 'batchnorm_requests_total{route="none",status="431",variant=""} 1.0' in counted


@pytest.mark.parametrize(
    "asked",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_400_and_the_connection_closed(
    server: Running, asked: bytes
) -> None:
    answer = server.send(asked, hang_up=False)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b"application/problem+json" in answer


def test_an_illegal_request_behind_a_legal_one_does_not_take_its_answer(server: Running) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
    answer = server.send(head + PNG + b"\x00nonsense\r\n\r\n", hang_up=False)
    assert not answer or answer.startswith(b"HTTP/1.1 200 ")


def test_a_variable_has_one_spelling(connection: socket.socket) -> None:
    asked = "GET /health/live HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nX_Request_ID: other\r\n"
    connection.sendall((asked + "\r\n").encode())
    assert response(connection).headers["X-Request-ID"] == "mine"


def test_head_has_headers_and_no_body(connection: socket.socket) -> None:
    connection.sendall(b"HEAD /models HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = response(connection, "HEAD")
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100
    assert answer.headers["Date"]
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response(connection).status == 200


def test_a_path_is_decoded_once(connection: socket.socket) -> None:
    connection.sendall(b"GET /models/relu%5fwith%5Fbn HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = response(connection)
    assert (answer.status, json.loads(answer.read())["variant"]) == (200, "relu_with_bn")
    connection.sendall(b"GET /models/relu%255fwith_bn HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = response(connection)
    assert answer.status == 404
    assert "relu%5fwith_bn" in json.loads(answer.read())["detail"]


def test_http_1_0_is_answered_and_closed(server: Running) -> None:
    answer = server.send(b"GET /health/live HTTP/1.0\r\n\r\n", hang_up=False)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"status":"live"}')


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_upgrade_that_is_not_offered_is_not_made(
    connection: socket.socket, protocol: str
) -> None:
    asked = "GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    connection.sendall(f"{asked}Upgrade: {protocol}\r\n\r\n".encode())
    assert response(connection).status == 200


def test_trailers_behind_a_chunked_body_are_let_go(connection: socket.socket) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"X-Request-ID: from-a-trailer\r\n" * 100
    connection.sendall(head + b"%x\r\n" % len(PNG) + PNG + b"\r\n0\r\n" + trailers + b"\r\n")
    answer = response(connection, "POST")
    assert answer.status == 200
    assert answer.headers["X-Request-ID"] != "from-a-trailer"


def test_overload_is_refused_at_once_and_the_connection_goes_on(tmp_path: Path) -> None:
    slow = make_model("relu_with_bn", make_card("relu_with_bn").to_json(), laps=100)
    write_repository(tmp_path, {("relu_with_bn", 1): slow}, default="relu_with_bn")
    limits = {"WEB_CONCURRENCY": "1", "QUEUE_IMAGES": "1", "MAX_BATCH": "1"}
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: {len(PNG)}"
    with started(tmp_path, **limits) as server, contextlib.ExitStack() as stack:
        wait_until_alive(server)
        connections = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
            )
            for _ in range(20)
        ]
        for connection in connections:
            connection.sendall(f"{head}\r\n\r\n".encode() + PNG)
        answers = [response(connection, "POST") for connection in connections]
        bodies = [json.loads(answer.read()) for answer in answers]
        for connection in connections:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert response(connection).status == 200
        counted = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    refused, problem = answers[statuses.index(503)], bodies[statuses.index(503)]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.headers["X-Request-ID"] == problem["request_id"] == "mine"
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.headers["Date"]
    assert refused.headers["X-Content-Type-Options"] == "nosniff"
    sample = 'batchnorm_requests_total{route="/predict",status="503",variant=""}'
    assert f"{sample} {statuses.count(503)}.0" in counted


# The protocol alone, before an application of the test's own.


@contextlib.asynccontextmanager
async def asking(
    application: Any,
    sent: bytes,
    *,
    full: bool = False,
    body: float = DEADLINE,
    idle: float = DEADLINE,
) -> AsyncIterator[tuple[asyncio.StreamReader, Turns]]:
    """A connection on which ``sent`` has been sent."""
    loop, turns = asyncio.get_running_loop(), Turns()
    engine: Any = SimpleNamespace(full=full)
    gate = Gate(application, engine, Drain(), origins=(), on_refusal=lambda _: None)
    serving = Serving(
        OnLoop(gate, gate, 1 << 20),
        turns,
        *(DEADLINE, body, idle),
        ended=lambda: None,
        refused=lambda _: None,
    )
    serving.sweep()
    server = await loop.create_server(lambda: Connection(serving), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(sent)
    yield reader, turns
    writer.close()
    server.close()


async def asked(application: Any, sent: bytes, **options: Any) -> tuple[bytes, Turns]:
    """What a connection answers to ``sent`` until it is closed."""
    async with asking(application, sent, **options) as (reader, turns), asyncio.timeout(DEADLINE):
        return await reader.read(), turns


GET, LAST = (
    f"GET / HTTP/1.1\r\nHost: a\r\n{end}\r\n".encode() for end in ("", "Connection: close\r\n")
)


def test_an_application_that_fails_is_answered_500_and_the_connection_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(environ: Any, start_response: Any) -> Any:
        raise RuntimeError("an inner secret")

    answer, turns = asyncio.run(asked(fail, GET + GET))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"secret" not in answer
    assert "an inner secret" in caplog.text
    assert turns.busy == 0


def test_an_answer_in_parts_is_sent_whole_with_its_length() -> None:
    closed = []

    class Parts(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def answer_in_parts(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])(b"a")
        return Parts([b"b", b"", b"c"])

    answer, _ = asyncio.run(asked(answer_in_parts, GET + LAST))
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b"\r\nContent-Length: 3\r\n") == 2
    assert answer.count(b"\r\n\r\nabc") == 2
    assert answer.count(b"Connection: close") == 1
    assert closed == [True, True]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_may_have_no_body_has_none(status: str) -> None:
    def nothing(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return []

    answer, _ = asyncio.run(asked(nothing, GET + LAST))
    assert answer.count(f"HTTP/1.1 {status}\r\n".encode()) == 2
    assert b"Content-Length" not in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_asks_without_reading_is_not_answered_into_memory() -> None:
    answers = 0

    def much(environ: Any, start_response: Any) -> Any:
        nonlocal answers
        answers += 1
        start_response("200 OK", [])
        return [bytes(1 << 20)]

    async def main() -> None:
        async with asking(much, GET * 500) as (reader, _):
            await asyncio.sleep(0.5)
            assert 1 <= answers < 20
            for _ in range(100):  # whoever reads goes on being answered
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1 << 20)
            assert answers >= 100

    asyncio.run(main())


def test_thousands_of_pipelined_requests_are_refused_one_by_one() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    answer, _ = asyncio.run(asked(None, 4000 * post + LAST, full=True))
    assert answer.count(b"HTTP/1.1 503 ") == 4000


def test_an_answer_that_is_not_taken_is_not_kept_for_ever() -> None:
    def much(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [bytes(32 << 20)]

    async def main() -> None:
        async with asking(much, GET + GET, idle=0.5) as (reader, turns):
            await asyncio.sleep(0.3)
            assert turns.busy == 1  # the second answer waits for the first to be taken
            await asyncio.sleep(1)
            assert turns.busy == 0
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await reader.readexactly(32 << 20)

    asyncio.run(main())


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    def nothing(environ: Any, start_response: Any) -> Any:
        start_response("204 No Content", [])
        return []

    start = time.monotonic()
    answer, _ = asyncio.run(asked(nothing, GET, idle=0.5))
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert 0.5 <= time.monotonic() - start < 0.5 + DEADLINE


def test_whoever_is_refused_while_sending_gets_to_read_why() -> None:
    def refuse(environ: Any, start_response: Any) -> Any:
        start_response("413 Content Too Large", [("Content-Length", "3")])
        return [b"why"]

    post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9999999\r\n\r\n"

    async def main() -> None:
        async with asking(refuse, post) as (reader, _):
            await asyncio.sleep(0.2)  # what comes now would reset a connection that is closed
            writer: Any = reader._transport  # type: ignore[attr-defined]
            for _ in range(20):
                writer.write(bytes(1000))
                await asyncio.sleep(0.01)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert answer.endswith(b"why")

    asyncio.run(main())


def echo(environ: Any, start_response: Any) -> list[bytes]:
    """Says what it was asked, and how much it was given."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Host", environ.get("HTTP_HOST", "-"))])
    return [f"[{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {len(body)}]".encode()]


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("cut", [0, 10])
def test_a_body_behind_an_upgrade_that_is_not_made_is_a_body(
    framing: str, full: bool, cut: int
) -> None:
    head = (
        f"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{framing}\r\n\r\n"
    )
    body = b"hello" if "Length" in framing else b"5\r\nhello\r\n0\r\n\r\n"
    sent = head.encode() + body + b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    async def main() -> bytes:
        parts = sent[: len(head) + cut // 5], sent[len(head) + cut // 5 :]
        async with asking(echo, parts[0], full=full) as (reader, _):
            await asyncio.sleep(0.05 if cut else 0)
            reader._transport.write(parts[1])  # type: ignore[attr-defined]
            return await reader.read()

    answer = asyncio.run(main())
    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.endswith(b"[GET /b 0]")
    assert (b"[POST /a 5]" in answer) == (not full)


def test_a_trailer_without_an_end_is_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: "
    answer, _ = asyncio.run(asked(echo, head + b"a" * (2 * MAX_HEAD_BYTES)))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 20_000, 3 * MAX_HEAD_BYTES])
def test_a_head_is_too_large_in_one_piece_too(size: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * size + b"\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, head))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
        f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {'0' * 5000}5",
    ],
)
def test_what_the_standard_forbids_is_answered_with_400(head: str) -> None:
    answer, _ = asyncio.run(asked(echo, head.encode() + b"\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_whole_address_as_target_names_the_host() -> None:
    asks = b"GET http://b:81 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, asks))
    assert b"\r\nX-Host: b:81\r\n" in answer
    assert answer.endswith(b"[GET / 0]")


def test_refusals_that_nobody_reads_are_not_piled_up() -> None:
    async def main() -> None:
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
        async with asking(None, post * 20_000, full=True) as (reader, turns):
            await asyncio.sleep(0.5)
            assert turns.busy == 1
            answer = await reader.readexactly(1 << 20)
            assert answer.startswith(b"HTTP/1.1 503 ")

    asyncio.run(main())


def test_a_body_has_its_time_and_no_more_however_much_comes_at_once() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"

    async def main() -> float:
        start = time.monotonic()
        async with asking(echo, head, body=1) as (reader, _):
            while b"HTTP/1.1 408 " not in reader._buffer:  # type: ignore[attr-defined]
                reader._transport.write(bytes(100_000))  # type: ignore[attr-defined]
                await asyncio.sleep(0.4)
                assert time.monotonic() - start < DEADLINE
        return time.monotonic() - start

    assert asyncio.run(main()) < 3
