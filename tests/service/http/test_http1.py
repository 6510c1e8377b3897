"""HTTP/1.1 on the wire: what the server makes of odd but legal requests, and of illegal ones."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from service.http.incoming import MAX_HEAD_BYTES
from service.journal import DELAY
from tests.service.exposition import samples, total
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
    assert f"{MAX_HEAD_BYTES:,} bytes" in problem["detail"]
    counted = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
    assert 'batchnorm_requests_total{route="none",status="431",variant=""} 1.0' in counted


def test_what_becomes_no_request_is_answered_and_logged_as_all_else(server: Running) -> None:
    asked = b"GET /v1 HTTP/1.1\r\nOrigin: https://a.example\r\nX-Request-ID: mine\r\n\r\n"
    head, _, body = server.send(asked, hang_up=False).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    headers = {line.partition(b": ")[0] for line in head.split(b"\r\n")[1:]}
    usual = requests.get(f"{server.url}/nowhere", headers={"Origin": "https://a.example"})
    expected = {"Connection", *usual.headers}
    assert {name.lower() for name in headers} == {name.lower().encode() for name in expected}
    assert json.loads(body)["request_id"] == "mine"
    requests.get(f"{server.url}/metrics", timeout=DEADLINE)
    until = time.monotonic() + DEADLINE
    while not (found := [line for line in server.lines() if line.get("request_id") == "mine"]):
        assert time.monotonic() < until
        time.sleep(0.05)
    (line,) = found
    assert (line["path"], line["status"], line["bytes_out"]) == ("/v1", 400, len(body))


@pytest.mark.parametrize(
    "asked",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
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


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /health/live HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
def test_what_is_no_http_of_here_is_answered_with_what_is(
    server: Running, asked: bytes, status: int
) -> None:
    head, _, body = server.send(asked, hang_up=False).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert json.loads(body)["status"] == status
    counted = samples(requests.get(f"{server.url}/metrics", timeout=DEADLINE).text)
    assert total(counted, "batchnorm_requests_total", route="none", status=str(status)) >= 1


def test_an_illegal_request_behind_a_legal_one_is_answered_logged_and_counted(
    server: Running,
) -> None:
    def counted() -> float:
        text = requests.get(f"{server.url}/metrics", timeout=DEADLINE).text
        return total(samples(text), "batchnorm_requests_total", route="none", status="400")

    before = counted()
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
    illegal = b"GET /illegal HTTP/1.1\r\nHost: a\r\nA B: c\r\n\r\n"
    answer = server.send(head + PNG + illegal, hang_up=False)
    first, _, second = answer[1:].partition(b"HTTP/1.1 ")
    assert first.startswith(b"TTP/1.1 200 ")
    assert second.startswith(b"400 ")
    assert json.loads(second.partition(b"\r\n\r\n")[2])["status"] == 400
    assert counted() == before + 1
    time.sleep(5 * DELAY)
    assert [line["status"] for line in server.lines() if line.get("path") == "/illegal"] == [400]


def test_a_variable_has_one_spelling(connection: socket.socket) -> None:
    asked = "GET /health/live HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nX_Request_ID: other\r\n"
    connection.sendall((asked + "\r\n").encode())
    assert response(connection).headers["X-Request-ID"] == "mine"


def test_head_has_headers_and_no_body(connection: socket.socket) -> None:
    connection.sendall(b"HEAD /models HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = response(connection, "HEAD")
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 100
    assert len(answer.headers.get_all("Date")) == 1
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response(connection).status == 200


def test_a_static_file_has_one_date(connection: socket.socket) -> None:
    connection.sendall(b"GET /static/page.css HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = response(connection)
    assert (answer.status, len(answer.headers.get_all("Date"))) == (200, 1)
    assert b"{" in answer.read()


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
