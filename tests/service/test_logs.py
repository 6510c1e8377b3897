"""Log lines: one a request, tied to its answer and its trace, and without what it carried."""

from __future__ import annotations

import io
import json
import logging
import select
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from service import logs
from service.app import create_app
from service.logs import JsonFormatter
from service.settings import Settings
from service.state import state_of
from tests.service.hostile import PHOTO
from tests.service.inference import document, post
from tests.service.test_api import multipart
from tests.service.tiny import encode

PNG = encode(PHOTO)
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Everything that is logged, as the service writes it."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler.stream
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def lines(app: Flask, stream: io.StringIO) -> Lines:
    return lambda: written(app, stream)


def written(app: Flask, stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line, those of ``app`` that are still to be written too."""
    state_of(app).journal.flush()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_what_was_asked_who_answered_and_how_much_it_took(
    client: FlaskClient, lines: Lines
) -> None:
    response = client.post("/predict?variant=relu_with_bn", data=PNG)
    (line,) = lines()
    assert list(line) == [
        *("time", "level", "logger", "message", "request_id", "method", "path", "route"),
        *("variant", "status", "bytes_in", "bytes_out", "ms"),
    ]
    assert line["request_id"] == response.headers["X-Request-ID"]
    assert (line["method"], line["path"], line["route"]) == ("POST", "/predict", "/predict")
    assert (line["variant"], line["status"]) == ("relu_with_bn", 200)
    assert (line["bytes_in"], line["bytes_out"]) == (len(PNG), len(response.data))
    assert 0 < line["ms"] < 60_000


def test_who_answers_by_the_open_inference_protocol_is_said_too(
    client: FlaskClient, lines: Lines
) -> None:
    assert post(client, document()).status_code == 200
    assert post(client, {}).status_code == 400
    assert [(line["variant"], line["status"]) for line in lines()] == [
        ("relu_with_bn", 200),
        ("relu_with_bn", 400),
    ]


def test_the_route_is_the_rule_and_absent_where_none_matches(
    client: FlaskClient, lines: Lines
) -> None:
    client.get("/models/relu_with_bn")
    client.get("/nowhere")
    known, unknown = lines()
    assert (known["route"], known["path"]) == ("/models/<variant>", "/models/relu_with_bn")
    assert "variant" not in known
    assert "route" not in unknown


def test_a_bad_picture_counts_for_the_variant_that_was_asked(
    client: FlaskClient, lines: Lines
) -> None:
    client.post("/predict?variant=relu_with_bn", data=b"no picture")
    client.post("/predict?variant=tanh", data=PNG)
    bad, unknown = lines()
    assert (bad["variant"], bad["status"]) == ("relu_with_bn", 415)
    assert ("variant" in unknown, unknown["status"]) == (False, 404)


def test_bytes_are_those_of_the_bodies(client: FlaskClient, lines: Lines) -> None:
    form = multipart([("image", PNG, "a.png"), ("image", PNG, "b.png")])
    client.post("/predict", **form)
    client.post(
        "/predict",
        data=PNG,
        headers={"Transfer-Encoding": "chunked", "Content-Length": ""},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    client.head("/models")
    sent, chunked, head = lines()
    assert sent["bytes_in"] == len(form["data"])
    assert (chunked["status"], chunked["bytes_in"]) == (200, len(PNG))
    assert (head["status"], head["bytes_in"], head["bytes_out"]) == (200, 0, 0)


def test_an_announcement_beyond_the_limit_is_not_taken_for_bytes(
    client: FlaskClient, lines: Lines
) -> None:
    client.post("/predict", data=PNG, environ_overrides={"CONTENT_LENGTH": str(2**64 - 1)})
    (line,) = lines()
    assert (line["status"], line["bytes_in"]) == (413, 0)


@pytest.mark.parametrize("wished", ["abc", "A-Z_0.9~:/+=@", "x" * 128, TRACEPARENT])
def test_a_sane_request_id_is_kept(client: FlaskClient, lines: Lines, wished: str) -> None:
    response = client.post("/predict", data=b"", headers={"X-Request-ID": wished})
    assert response.headers["X-Request-ID"] == wished
    assert response.json["request_id"] == wished
    assert lines()[0]["request_id"] == wished


@pytest.mark.parametrize(
    "wished", ["", " ", "x" * 129, "a b", 'a"b', "a,b", "<script>", "a\x7fb", "é", "\u0661", "%0a"]
)
def test_a_strange_request_id_is_replaced(client: FlaskClient, lines: Lines, wished: str) -> None:
    value = wished.encode().decode("latin-1")  # as WSGI hands it over
    responses = [
        client.get("/nowhere", environ_overrides={"HTTP_X_REQUEST_ID": value}) for _ in range(2)
    ]
    made = [response.headers["X-Request-ID"] for response in responses]
    assert all(len(each) == 32 and each.isalnum() and each.isascii() for each in made)
    assert made[0] != made[1]
    assert [line["request_id"] for line in lines()] == made


def test_a_trace_is_recorded_and_named_in_the_answer(client: FlaskClient, lines: Lines) -> None:
    alone = client.get("/health/live", headers={"traceparent": TRACEPARENT})
    both = client.get(
        "/health/live", headers={"traceparent": TRACEPARENT, "X-Request-ID": "my-own"}
    )
    assert alone.headers["traceparent"] == both.headers["traceparent"] == TRACEPARENT
    assert [line["trace_id"] for line in lines()] == [TRACE, TRACE]
    assert [line["request_id"] for line in lines()] == [TRACE, "my-own"]
    assert alone.headers["X-Request-ID"] == TRACE


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + "-" + "x" * 5000,
    ],
)
def test_a_broken_trace_is_ignored(client: FlaskClient, lines: Lines, traceparent: str) -> None:
    response = client.get("/health/live", headers={"traceparent": traceparent})
    assert response.status_code == 200
    assert "traceparent" not in response.headers
    assert "trace_id" not in lines()[0]
    assert response.headers["X-Request-ID"] != TRACE


def test_no_picture_header_or_query_is_logged(
    app: Flask, client: FlaskClient, stream: io.StringIO
) -> None:
    headers = {
        "Authorization": "Bearer secret-token",
        "X-API-Key": "secret-key",
        "Cookie": "a=secret-cookie",
        "User-Agent": "secret-agent",
        "X-Request-ID": "secret words, not sane",
        "Origin": "https://secret.example",
    }
    for data in (PNG, b"secret bytes that are no picture"):
        form = multipart([("image", data, "secret-name.png")])["data"]
        for body in (data, form):
            client.post("/predict?top_k=secret", data=body, headers=headers)
            client.post("/predict", data=body, headers=headers)
    state_of(app).journal.flush()
    text = stream.getvalue()
    assert len(text.splitlines()) == 8
    assert "secret" not in text
    assert "PNG" not in text


def test_a_hostile_path_is_one_short_line(client: FlaskClient, lines: Lines) -> None:
    client.get('/%0a%1b[31m{"level":"error"}' + "x" * 5000)
    (line,) = lines()
    assert line["level"] == "info"
    assert len(line["path"]) == 200


def test_what_is_logged_meanwhile_bears_the_requests_id(
    settings: Settings, stream: io.StringIO
) -> None:
    app: Flask = create_app(settings)

    @app.get("/bug")
    def bug() -> str:
        logging.getLogger("anything").warning("odd")
        raise RuntimeError("an inner secret")

    response = app.test_client().get("/bug", headers={"X-Request-ID": "find-me"})
    assert (response.status_code, response.json["request_id"]) == (500, "find-me")
    odd, failed, answered = written(app, stream)
    assert [line["request_id"] for line in (odd, failed, answered)] == ["find-me"] * 3
    assert "an inner secret" in failed["traceback"]
    assert answered["status"] == 500


def test_lines_are_written_in_pieces_that_a_pipe_takes_whole() -> None:
    """What is longer another process's line may cut in two, where several write to one pipe."""

    class Pieces(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    lines = [f"{number:0{length}}\n" for number, length in enumerate([250] * 100 + [9000] + [4095])]
    logs.Lines(Pieces()).write(lines)
    assert "".join(pieces) == "".join(lines)
    assert all(piece.endswith("\n") for piece in pieces)
    assert max(map(len, set(pieces) - {lines[100]})) <= select.PIPE_BUF
    assert len(pieces) < 12
