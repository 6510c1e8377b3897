"""What a head must say of HTTP itself; of one that does not, the answer says what and what else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from service.journal import Answered
from tests.service.connections import GET, asked, echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""With which a client begins that takes HTTP/2 for granted (RFC 9113, section 3.4)."""


def refused(sent: bytes) -> tuple[int, str]:
    """The status and the detail of the one answer to ``sent``, which reaches no application."""
    told: list[Answered] = []
    reached: list[bool] = []

    def listen(environ: Any, start_response: Any) -> Any:
        reached.append(True)
        return echo(environ, start_response)

    answer, _ = asyncio.run(asked(listen, sent + GET, told=told))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert not reached
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b"\r\nConnection: close" in head
    problem = json.loads(body)
    status: int = problem["status"]
    assert head.startswith(f"HTTP/1.1 {status} {problem['title']}\r\n".encode())
    assert [entry.status for entry in told] == [status]
    return status, problem["detail"]


@pytest.mark.parametrize(
    ("sent", "version"),
    [
        (PREFACE, "2.0"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "2.0"),
        (b"GET / HTTP/2\r\nHost: a\r\n\r\n", "2.0"),
        (b"GET / HTTP/2.0\r\nHost: a\r\nHost: b\r\n\r\n", "2.0"),
        (b"GET http://[ HTTP/2.0\r\nHost: a\r\n\r\n", "2.0"),
        (b"POST / HTTP/2.0\r\nContent-Length: 5\r\n\r\nhello", "2.0"),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", "3.0"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "1.2"),
        (b"GET / HTTP/0.9\r\n\r\n", "0.9"),
        (b"GET /\r\n\r\n", "0.9"),
    ],
)
def test_another_version_is_answered_505_in_one_that_is_spoken(sent: bytes, version: str) -> None:
    expected = f"HTTP/{version} is not spoken here; send the request in HTTP/1.1"
    assert refused(sent) == (505, expected)


@pytest.mark.parametrize(
    ("head", "status", "detail"),
    [
        (
            "GET / HTTP/1.1",
            400,
            "the request has no Host header; one of HTTP/1.1 has to (RFC 9112, section 3.2)",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            400,
            "the request has more than one Host header; send one",
        ),
        *(
            (
                f"GET / HTTP/1.1\r\nHost: {host}",
                400,
                "the request's Host header is no host and port; send one like a.b:8000",
            )
            for host in ("a b", "a/b", 'a"><script>', "a@b", "a,b?c")
        ),
        *(
            (
                words,
                400,
                "the request does not begin with a method that is known here (GET, HEAD, POST, "
                "OPTIONS are); it must be plain HTTP/1.1, without TLS",
            )
            for words in ("FOO / HTTP/1.1\r\nHost: a", "get / HTTP/1.1", "\x16\x03\x01\x02")
        ),
        *(
            (
                f"GET /{'a' * length} HTTP/1.1\r\nHost: a",
                414,
                "the request's target is longer than the 65,535 bytes allowed",
            )
            for length in (65_535, 70_000)
        ),
        (
            f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {'0' * 5000}5",
            400,
            "the request's Content-Length has more than the 20 digits allowed",
        ),
        *(
            (
                f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {codings}",
                501,
                "a transfer coding of the request is not known here; chunked alone is",
            )
            for codings in ("gzip, chunked", "GZIP,Chunked", "gzip\r\nTransfer-Encoding: chunked")
        ),
        # 400 rather than 501: RFC 9112, section 6.3.
        *(
            (
                f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {codings}",
                400,
                "the request's last transfer coding is not chunked, so that nobody knows where its "
                "body ends; send it in chunks, or with a Content-Length",
            )
            for codings in ("gzip", "xchunked", "identity")
        ),
        *(
            (
                f"{method} HTTP/1.1\r\nHost: a",
                400,
                "the request's target is neither a path nor a whole address",
            )
            for method in ("GET http://[", "CONNECT a:1")
        ),
        # What the parser finds it names itself.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nA B: c",
            400,
            "the request is not valid HTTP/1.1: Invalid header token",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip",
            400,
            "the request is not valid HTTP/1.1: Invalid `Transfer-Encoding` header value",
        ),
    ],
)
def test_what_the_standard_forbids_is_named(head: str, status: int, detail: str) -> None:
    assert refused(head.encode() + b"\r\n\r\n") == (status, detail)


@pytest.mark.parametrize("host", ["", "a.b:8000", "[::1]:8000", "127.0.0.1", "xn--a_b-c.example"])
def test_a_host_may_be_any_that_an_address_has(host: str) -> None:
    head = f"GET /{'a' * 65_534} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    answer, _ = asyncio.run(asked(echo, head.encode()))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("coding", ["chunked", "Chunked", " CHUNKED "])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_chunks_are_known_however_they_are_spelt(coding: str, version: str) -> None:
    head = f"POST / HTTP/{version}\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: {coding}"
    answer, _ = asyncio.run(asked(echo, head.encode() + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"[POST / 5]")


@pytest.mark.parametrize("head", ["HEAD / HTTP/1.1", f"HEAD /{'a' * 70_000} HTTP/1.1\r\nHost: a"])
def test_a_refused_head_has_no_body_either(head: str) -> None:
    told: list[Answered] = []
    answer, _ = asyncio.run(asked(echo, head.encode() + b"\r\n\r\n", told=told))
    lines, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/problem+json\r\n" in lines
    assert b"\r\nContent-Length: 0\r\n" not in lines
    assert not body
    assert [(entry.method, entry.bytes_out) for entry in told] == [("HEAD", 0)]
