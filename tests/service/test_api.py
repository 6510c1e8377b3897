"""The routes: right answers that say who answered, and problem+json for everything else."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.app import create_app
from service.logs import JsonFormatter
from service.models.repository import load_repository
from service.settings import Settings
from service.state import state_of
from tests.service.hostile import BAD, GOOD, PHOTO
from tests.service.tiny import encode, make_card, oracle

Parts = list[tuple[str, bytes, str]]
BOUNDARY = "XXXX"


def multipart(parts: Parts) -> dict[str, Any]:
    """Arguments for ``client.post``: files of (field, content, file name)."""
    body = b""
    for field, content, name in parts:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"'
        body += head.encode() + b"\r\nContent-Type: image/png\r\n\r\n" + content + b"\r\n"
    return raw(body + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}")


def raw(data: bytes, content_type: str | None = None) -> dict[str, Any]:
    return {"data": data, "content_type": content_type}


def assert_problem(response: TestResponse, status: int, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    body = json.loads(response.text)
    assert list(body) == ["type", "title", "status", "detail", "request_id"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert (body["type"], body["status"]) == ("about:blank", status)
    assert words in body["detail"]
    assert len(response.text) < 1000
    assert "Traceback" not in response.text


def test_the_answer_is_the_formulas(client: FlaskClient, pixels: np.ndarray) -> None:
    answer = client.post("/predict?variant=relu_with_bn&version=1", data=encode(pixels[0])).json
    card, expected = make_card("relu_with_bn"), oracle("relu_with_bn", pixels[:1])[0]
    images = answer.pop("images")
    assert answer == {
        "variant": "relu_with_bn",
        "version": 1,
        "provider": "CPUExecutionProvider",
        "dataset": "synthetic",
        "recipe": "quick",
    }
    assert images[0]["name"] is None
    assert [guess["index"] for guess in images[0]["top"]] == list(np.argsort(-expected)[:5])
    for guess in images[0]["top"]:
        assert guess["label"] == card.classes[guess["index"]]
        assert guess["superclass"] == card.superclasses[guess["index"]]
        assert guess["probability"] == pytest.approx(expected[guess["index"]], abs=1e-6)


def test_default_variant_newest_version_and_top_k(client: FlaskClient) -> None:
    answer = client.post("/predict?top_k=100", data=encode(PHOTO)).json
    assert (answer["variant"], answer["version"]) == ("sigmoid_without_bn", 1)
    top = answer["images"][0]["top"]
    assert len(top) == 100
    assert sum(guess["probability"] for guess in top) == pytest.approx(1, abs=1e-5)
    answer = client.post("/predict?variant=relu_with_bn&top_k=1", data=encode(PHOTO)).json
    assert (answer["version"], len(answer["images"][0]["top"])) == (2, 1)


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "image/jpeg",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
        "nonsense",
        None,
    ],
)
def test_a_raw_body_is_a_picture_whatever_its_content_type_says(
    client: FlaskClient, content_type: str | None
) -> None:
    response = client.post("/predict", **raw(encode(PHOTO), content_type))
    assert response.status_code == 200
    assert len(response.json["images"]) == 1


def test_a_picture_answers_the_same_alone_and_in_a_batch(
    client: FlaskClient, pixels: np.ndarray
) -> None:
    parts = [("image", encode(image), f"{i}.png") for i, image in enumerate(pixels[:4])]
    together = client.post("/predict?top_k=100", **multipart(parts)).json["images"]
    assert [image["name"] for image in together] == ["0.png", "1.png", "2.png", "3.png"]
    for part, image in zip(parts, together, strict=True):
        alone = client.post("/predict?top_k=100", data=part[1]).json["images"][0]
        by_class = {guess["index"]: guess["probability"] for guess in image["top"]}
        for guess in alone["top"]:
            assert guess["probability"] == pytest.approx(by_class[guess["index"]], abs=1e-6)


def test_health(client: FlaskClient) -> None:
    assert client.get("/health/live").status_code == 200
    assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
def test_every_good_upload_is_answered(client: FlaskClient, make: Callable[[], bytes]) -> None:
    assert client.post("/predict", data=make()).status_code == 200


@pytest.mark.parametrize("route", ["/predict", "/compare"])
@pytest.mark.parametrize(("status", "make"), BAD.values(), ids=BAD.keys())
def test_every_bad_upload_gets_its_own_problem(
    client: FlaskClient, route: str, status: int, make: Callable[[], bytes]
) -> None:
    data = make()
    assert_problem(client.post(route, data=data), status)
    named = client.post(route, **multipart([("image", data, "sent.png")]))
    assert_problem(named, 415 if status == 400 else status, "sent.png")


PNG = encode(PHOTO)
JPEG = encode(PHOTO, "JPEG")
FORM = f"multipart/form-data; boundary={BOUNDARY}"
URLENCODED = "application/x-www-form-urlencoded"
IN_LATIN_1 = multipart([("image", PNG, "ÄÖÜA.png")])["data"].replace(
    "ÄÖÜ".encode(), "ÄÖÜ".encode("latin-1")
)


@pytest.mark.parametrize(
    ("status", "words", "upload"),
    [
        (400, "unknown form field 'picture'", multipart([("picture", PNG, "a.png")])),
        (
            400,
            "unknown form field 'extra'",
            multipart([("image", PNG, "a.png"), ("extra", PNG, "b.png")]),
        ),
        (400, "no field image", multipart([])),
        (400, "names no boundary for the form; let the", raw(PNG, "multipart/form-data")),
        (
            400,
            "names no boundary for the form; let the",
            raw(PNG, "multipart/form-data; boundary="),
        ),
        (400, f"{BOUNDARY!r}, is not in the body; let the client", raw(PNG, FORM)),
        (400, f"{BOUNDARY!r}, is not in the body; let the client", raw(bytes(900_000), FORM)),
        (400, "the request has no body", {"input_stream": io.BytesIO(), "content_type": FORM}),
        (400, "the form is cut off", raw(f"--{BOUNDARY}\r\ngarbage".encode() * 50, FORM)),
        (400, "the form is cut off", raw(multipart([("image", PNG, "a.png")])["data"][:300], FORM)),
        (400, "no end to its headers", raw(f"--{BOUNDARY}\r\na\r\n--{BOUNDARY}--".encode(), FORM)),
        (400, "is not UTF-8", raw(IN_LATIN_1.replace(b"A.png", b"%22.png"), FORM)),
        (400, "is not UTF-8", raw(IN_LATIN_1.replace(b"image", b"bild\xe9"), FORM)),
        (
            400,
            "field image is text, not a file",
            raw(
                f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=image\r\n\r\n"
                f"text\r\n--{BOUNDARY}--\r\n".encode(),
                FORM,
            ),
        ),
        (
            400,
            "unknown form field ''",
            raw(
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; filename="a.png"\r\n\r\n'
                f"\r\n--{BOUNDARY}--\r\n".encode(),
                FORM,
            ),
        ),
        (
            413,
            "more parts than the 4 pictures",
            multipart([("image", PNG, f"{i}.png") for i in range(5)]),
        ),
        (413, "larger than the 1,048,576 bytes allowed", raw(bytes((1 << 20) + 1))),
        (413, "bytes allowed", multipart([("image", bytes(1 << 20), "a.png")])),
        (415, "the picture: the file is empty", multipart([("image", b"", "")])),
        (415, "'empty.png': the file is empty", multipart([("image", b"", "empty.png")])),
        (415, "none of PNG", raw(b'{"image": "aGVsbG8="}', "application/json")),
        (
            415,
            "none of PNG, JPEG, WebP, GIF, BMP; curl sends a file as it is by --data-binary @FILE",
            raw(PNG.replace(b"\n", b"").replace(b"\r", b""), URLENCODED),
        ),
        (
            422,
            "the JPEG data is broken or cut off; curl sends a file as it is by --data-binary @FILE",
            raw(JPEG.replace(b"\n", b"").replace(b"\r", b""), URLENCODED),
        ),
        (415, "second.png", multipart([("image", PNG, "a"), ("image", b"no", "second.png")])),
    ],
)
def test_bad_forms_get_their_own_problem(
    client: FlaskClient, status: int, words: str, upload: dict[str, Any]
) -> None:
    assert_problem(client.post("/predict", **upload), status, words)


def test_a_body_of_exactly_the_limit_is_read(client: FlaskClient) -> None:
    data = PNG + bytes((1 << 20) - len(PNG))
    assert client.post("/predict", data=data).status_code == 200


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize(("extra", "status"), [(0, 200), (1, 413), (500_000, 413)])
def test_a_chunked_body_obeys_the_same_limit(
    client: FlaskClient, form: bool, extra: int, status: int
) -> None:
    empty = len(multipart([("image", b"", "a.png")])["data"]) if form else 0
    picture = PNG + bytes((1 << 20) - len(PNG) - empty + extra)
    upload = multipart([("image", picture, "a.png")]) if form else raw(picture)
    response = client.post(
        "/predict",
        input_stream=io.BytesIO(upload["data"]),
        content_type=upload["content_type"],
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    "name",
    [
        "x" * 100_000,
        "../../../../etc/passwd",
        "a\tb\x1b[31m\x07.png",
        "<script>alert(1)</script>",
        "%00.png",
        "\u202egnp.exe",
        "{0}{name!r}%s%d",
    ],
)
def test_a_hostile_file_name_is_harmless(client: FlaskClient, name: str) -> None:
    good = client.post("/predict", **multipart([("image", PNG, name)]))
    assert good.status_code in (200, 400)
    assert good.is_json
    bad = client.post("/predict", **multipart([("image", b"no picture", name)]))
    assert_problem(bad, bad.status_code)
    assert bad.status_code in (400, 415)
    assert "\x1b" not in bad.json["detail"]


@pytest.mark.parametrize(
    ("method", "url", "status", "words"),
    [
        ("POST", "/predict?variant=tanh", 404, "there are relu_with_bn, sigmoid_without_bn"),
        ("POST", "/predict?variant=" + "x" * 3000, 404, "there are relu_with_bn"),
        ("POST", "/predict?variant=", 404, "there are relu_with_bn, sigmoid_without_bn"),
        ("POST", "/predict?variant=relu_with_bn&version=3", 404, "there are 1, 2"),
        ("POST", "/predict?version=0", 400, "version is '0'"),
        ("POST", "/predict?version=latest", 400, "version is 'latest'"),
        ("POST", "/predict?top_k=0", 400, "top_k is '0'; allowed: 1 to 100"),
        ("POST", "/predict?top_k=101", 400, "top_k is '101'; allowed: 1 to 100"),
        ("POST", "/predict?top_k=5.0", 400, "top_k is '5.0'"),
        ("POST", "/predict?top_k=-1", 400, "top_k is '-1'"),
        ("POST", "/predict?top_k=%D9%A5", 400, "allowed: 1 to 100"),
        ("POST", "/predict?top_k=" + "9" * 3000, 400, "allowed: 1 to 100"),
        ("POST", "/predict?top_k=" + "0" * 19 + "1000", 400, "allowed: 1 to 100"),
        ("POST", "/predict?top_k=" + "0" * 19 + "1" * 5000, 400, "allowed: 1 to 100"),
        ("POST", "/predict?top_k=1&top_k=2", 400, "top_k is given twice"),
        ("POST", "/predict?topk=1", 400, "unknown query parameter 'topk'; allowed: variant"),
        ("POST", "/compare?variant=relu_with_bn", 400, "allowed: version, top_k"),
        ("POST", "/compare?version=3", 404, "no version 3 of any variant: there are 1, 2"),
        ("POST", "/compare?version=0", 400, "version is '0'; allowed: 1 to 1000000000"),
        ("POST", "/compare?version=newest", 400, "version is 'newest'"),
        ("POST", "/compare?version=", 400, "version is ''"),
        ("POST", "/compare?version=1&version=2", 400, "version is given twice"),
        ("GET", "/models?page=2", 400, "allowed: none"),
        ("GET", "/models/tanh", 404, "there are relu_with_bn, sigmoid_without_bn"),
        ("GET", "/models/relu_with_bn?version=9", 404, "there are 1, 2"),
        ("GET", "/nowhere", 404, "there is no such route; /docs names those there are"),
        ("GET", "/models//relu_with_bn", 404, "there is no such route; /docs names those"),
        ("GET", "/predict", 405, "the method GET is not allowed here; allowed: OPTIONS, POST"),
        ("DELETE", "/models", 405, "allowed: GET, HEAD, OPTIONS"),
    ],
)
def test_bad_requests_say_what_is_allowed(
    client: FlaskClient, method: str, url: str, status: int, words: str
) -> None:
    data = PNG if method == "POST" else None
    response = client.open(url, method=method, data=data)
    assert_problem(response, status, words)
    assert (status == 405) == ("Allow" in response.headers)


def test_a_request_leaves_one_log_line_without_its_content(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.request")
    client.post("/predict?variant=relu_with_bn", data=PNG, headers={"Authorization": "secret"})
    state_of(client.application).journal.flush()
    (record,) = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert set(line) == {
        *("time", "level", "logger", "message"),
        *("request_id", "method", "path", "route", "variant", "status"),
        *("bytes_in", "bytes_out", "ms"),
    }
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)
    assert line["variant"] == "relu_with_bn"


def test_a_bug_is_logged_and_not_shown(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app: Flask = create_app(settings, load_repository(settings.models_dir))

    @app.get("/bug")
    def bug() -> str:
        raise RuntimeError("an inner secret")

    response = app.test_client().get("/bug")
    assert_problem(response, 500)
    assert "secret" not in response.text
    assert "an inner secret" in caplog.text


def test_a_file_name_in_latin_1_is_taken_as_it_is_meant(client: FlaskClient) -> None:
    answer = client.post("/predict", **raw(IN_LATIN_1, FORM))
    assert answer.status_code == 200
    assert answer.json["images"][0]["name"] == "ÄÖÜA.png"


def test_a_form_whose_content_type_is_set_by_hand_is_told_what_it_lacks(
    client: FlaskClient,
) -> None:
    """The classic mistake: the boundary that requests has made up is in the body alone."""
    by_hand = requests.Request(
        "POST",
        "http://localhost/predict",
        files={"image": ("a.png", PNG)},
        headers={"Content-Type": "multipart/form-data"},
    ).prepare()
    answer = client.post("/predict", data=by_hand.body, headers=dict(by_hand.headers))
    assert_problem(answer, 400, "the Content-Type names no boundary for the form; let the client")
    page = client.post("/answers", data=by_hand.body, headers=dict(by_hand.headers))
    assert (page.status_code, "names no boundary for the form" in page.text) == (400, True)
