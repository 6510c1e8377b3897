"""Bodies that no client library sends: refused in the protocol's form, never the server's fault."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from service.app import create_app
from service.engine import DeadlineError, Engine, OverloadedError
from service.settings import Settings
from service.state import state_of
from tests.service.tiny import oracle

PATH = "/v2/models/relu_with_bn/versions/1/infer"
LENGTH = "Inference-Header-Content-Length"
PICTURE = np.random.default_rng(11).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
FLAT = PICTURE.ravel().tolist()


def document(tensor: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    """A request for one picture; ``tensor`` and ``others`` change it, ... takes a field away."""
    image = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": FLAT}
    changed = {"inputs": [_without(image | (tensor or {}))]} | others
    return _without(changed)


def _without(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not ...}


def output(**parameters: Any) -> dict[str, Any]:
    return document(outputs=[{"name": "probabilities", "parameters": parameters}])


def post(client: FlaskClient, body: Any, **headers: str) -> TestResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(PATH, data=data, headers={k.replace("_", "-"): headers[k] for k in headers})


def assert_error(response: TestResponse, status: int, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.content_type == "application/json"
    answer = json.loads(response.text)
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert len(response.text) < 500
    assert "Traceback" not in response.text


NESTED = PICTURE.tolist()
CUT = [[*NESTED[0][:31], NESTED[0][31][:31]]]

MALFORMED: list[tuple[Any, str]] = [
    (b"", "is not JSON"),
    (b"{", "is not JSON"),
    (b"hello", "is not JSON"),
    (b"\xff\xfe{}", "is not UTF-8: byte 0"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"inputs": NaN}', "NaN is not a JSON number"),
    (b"9" * 5_000, "is not JSON"),
    (b"[]", "the request is a list of 0, not an object"),
    (b"null", "the request is null, not an object"),
    ({}, "inputs is null, not a list"),
    (document(inputs={}), "inputs is an object, not a list"),
    (document(inputs=[]), "input images is given 0 times"),
    (document(inputs=[1]), "one of the inputs is 1, not an object"),
    (document(inputs=document()["inputs"] * 2), "input images is given 2 times"),
    (document({"name": "x" * 1000}), 'unknown input "xxx'),
    (document({"name": ...}), "unknown input null"),
    (document({"datatype": ...}), "datatype is null; it takes UINT8 [-1, 32, 32, 3]"),
    (document({"datatype": "uint8"}), 'datatype is "uint8"'),
    (document({"datatype": ["UINT8"]}), "datatype is a list of 1"),
    (document({"shape": ...}), "shape is null, not a list of whole numbers"),
    (document({"shape": "1,32,32,3"}), "not a list of whole numbers"),
    (document({"shape": []}), "shape is []"),
    (document({"shape": [1.0, 32, 32, 3]}), "not a list of whole numbers"),
    (document({"shape": [True, 32, 32, 3]}), "not a list of whole numbers"),
    (document({"shape": [0, 32, 32, 3]}), "at least one picture"),
    (document({"shape": [-1, 32, 32, 3]}), "at least one picture"),
    (document({"shape": [1, 3, 32, 32]}), "shape is [1, 3, 32, 32]"),
    (document({"shape": [3072]}), "shape is [3072]"),
    (document({"shape": [2, 32, 32, 3]}), "data is 3072 values, but shape [2, 32, 32, 3] takes"),
    (document({"data": ...}), "data is null"),
    (document({"data": []}), "data is 0 values"),
    (document({"data": "AAAA"}), 'data is "AAAA"'),
    (document({"data": {}}), "data is an object"),
    (document({"data": FLAT[:-1]}), "data is 3071 values"),
    (document({"data": [*FLAT[:-1], 256]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], -1]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], 10**30]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], 0.5]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], 1e999]}), "Infinity is not a JSON number"),
    (document({"data": [*FLAT[:-1], True]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], "7"]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], None]}), "not whole numbers from 0 to 255"),
    (document({"data": [*FLAT[:-1], [7]]}), "not whole numbers from 0 to 255"),
    (document({"data": NESTED[0]}), "nested, but not as shape [1, 32, 32, 3] is"),
    (document({"data": [FLAT]}), "nested, but not as shape"),
    (document({"data": CUT}), "nested, but not as shape"),
    (document({"data": [[]]}), "nested, but not as shape"),
    (document({"parameters": []}), "input images: parameters is a list of 0"),
    (document({"parameters": {"binary_data_size": 3072}}), "both data and binary_data_size"),
    (document({"data": ..., "parameters": {"binary_data_size": 3072}}), "but 0 bytes follow"),
    (document({"data": ..., "parameters": {"binary_data_size": 3071}}), "takes 3072"),
    (document({"data": ..., "parameters": {"binary_data_size": "3072"}}), 'is "3072"'),
    (document({"data": ..., "parameters": {"binary_data_size": -1}}), "is -1"),
    (document({"parameters": {"shared_memory_region": "a"}}), "no shared memory"),
    (document(id=42), "id is 42, not a text"),
    (document(parameters="fast"), 'the request: parameters is "fast", not an object'),
    (document(parameters={"binary_data_output": 1}), "binary_data_output is 1"),
    (document(outputs={}), "outputs is an object, not a list"),
    (document(outputs=["probabilities"]), 'one of the outputs is "probabilities"'),
    (document(outputs=[{"name": "logits"}]), 'unknown output "logits": the model\'s is prob'),
    (document(outputs=[{"name": "probabilities"}] * 2), "output probabilities is given 2 times"),
    (output(binary_data="yes"), 'binary_data is "yes", not true or false'),
    (output(classification=-1), "classification is -1"),
    (output(classification=1.5), "classification is 1.5"),
    (output(classification=True), "classification is true"),
    (output(classification="3"), 'classification is "3"'),
    (output(shared_memory_region="a"), "no shared memory"),
]


@pytest.mark.parametrize(("body", "words"), MALFORMED, ids=lambda value: str(value)[:40])
def test_a_malformed_body_is_refused_by_what_is_wrong(
    client: FlaskClient, body: Any, words: str
) -> None:
    assert_error(post(client, body), 400, words)


@pytest.mark.parametrize(
    "body",
    [
        document(),
        document({"data": NESTED}),
        document(id="", model_name="of another", parameters={"priority": 1, "timeout": 5}),
        document({"parameters": None}, outputs=None, parameters=None),
        document(outputs=[]),
        document(outputs=[{"name": "probabilities"}]),
        document({"parameters": {"anything": "goes"}}, parameters={}),
        output(binary_data=False, classification=0),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_what_the_protocol_allows_is_answered(client: FlaskClient, body: dict[str, Any]) -> None:
    response = post(client, body)
    assert response.status_code == 200, response.text
    assert response.content_type == "application/json"
    answer = json.loads(response.text)
    assert list(answer) == ["model_name", "model_version", *(["id"] * ("id" in body)), "outputs"]
    (tensor,) = answer["outputs"]
    assert (tensor["datatype"], tensor["shape"]) == ("FP32", [1, 100])
    expected = oracle("relu_with_bn", PICTURE).ravel()
    assert np.abs(np.array(tensor["data"]) - expected).max() <= 1e-6


def test_an_outputs_own_parameter_goes_before_the_requests(client: FlaskClient) -> None:
    body = output(binary_data=False)
    response = post(client, {**body, "parameters": {"binary_data_output": True}})
    assert "data" in json.loads(response.text)["outputs"][0]
    assert LENGTH not in response.headers
    response = post(client, document(parameters={"binary_data_output": True}))
    head = json.loads(response.data[: int(response.headers[LENGTH])])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 400}


ZIPPED = gzip.compress(json.dumps(document()).encode())


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (ZIPPED, "gzip", 200),
        (ZIPPED, "GZIP", 200),
        (document(), "identity", 200),
        (zlib.compress(json.dumps(document()).encode()), "deflate", 200),
        (ZIPPED[:-1], "gzip", 400),
        (ZIPPED[:20], "gzip", 400),
        (ZIPPED * 2, "gzip", 400),
        (ZIPPED, "deflate", 400),
        (document(), "gzip", 400),
        (b"", "gzip", 400),
        (gzip.compress(b" " * ((1 << 20) + 1)), "gzip", 413),
        (ZIPPED, "gzip, gzip", 415),
        (ZIPPED, "br", 415),
    ],
)
def test_content_encodings(client: FlaskClient, body: Any, encoding: str, status: int) -> None:
    response = post(client, body, Content_Encoding=encoding)
    if status == 200:
        assert response.status_code == 200, response.text
    else:
        assert_error(response, status)
    assert (response.headers.get("Accept-Encoding") is not None) == (status == 415)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v2/nothing/here", 404, "not found"),
        ("GET", "/v2/models", 404, "not found"),
        ("GET", "/v2/models/vgg", 404, "there are relu_with_bn, sigmoid_without_bn"),
        ("GET", "/v2/models/vgg/ready", 404, "no variant 'vgg'"),
        ("GET", "/v2/models/relu_with_bn/versions/9", 404, "there are 1, 2"),
        ("GET", "/v2/models/relu_with_bn/versions/-1/ready", 404, "no version '-1'"),
        ("GET", f"/v2/models/relu_with_bn/versions/{'9' * 5000}", 404, "no version '999"),
        ("POST", "/v2/models/vgg/infer", 404, "no variant 'vgg'"),
        ("POST", "/v2/repository/models/relu_with_bn/unload", 404, "not found"),
        ("GET", PATH, 405, "method is not allowed"),
        ("DELETE", "/v2", 405, "method is not allowed"),
    ],
)
def test_errors_of_routing_have_the_protocols_form(
    client: FlaskClient, method: str, path: str, status: int, words: str
) -> None:
    response = client.open(path, method=method)
    assert_error(response, status, words)
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": true}', b'{"ready": false}'])
def test_the_index_lists_every_version(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/v2/repository/index", data=body).json
    assert [f"{each['name']}/{each['version']}" for each in answer] == [
        "relu_with_bn/1",
        "relu_with_bn/2",
        "sigmoid_without_bn/1",
    ]


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b'{"ready": 1}', b"0" * 9])
def test_the_index_refuses_what_is_no_request_for_it(client: FlaskClient, body: bytes) -> None:
    assert_error(client.post("/v2/repository/index", data=body), 400)


def test_the_servers_metadata_are_there_with_and_without_a_slash(client: FlaskClient) -> None:
    assert client.get("/v2").json == client.get("/v2/").json != {}


def test_bodies_and_tensors_have_their_ceilings(client: FlaskClient) -> None:
    assert_error(post(client, bytes((1 << 20) + 1)), 413, "larger than the 1048576 bytes")
    many = document({"shape": [5, 32, 32, 3], "data": FLAT * 5})
    assert_error(post(client, many), 413, "5 pictures are more than the 4 that one request may")
    assert_error(post(client, document({"shape": [10**1000, 32, 32, 3]})), 413, "pictures")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OverloadedError(), 503, "too many pictures are waiting"),
        (DeadlineError(), 504, "no answer within the 10 seconds"),
        (RuntimeError("secret"), 500, "the service failed; its log says why"),
    ],
)
def test_the_engines_refusals_and_faults_have_the_protocols_form(
    app: Flask,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    words: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(state_of(app).engine, "run", fail)
    response = post(app.test_client(), document())
    assert_error(response, status, words)
    assert ("Retry-After" in response.headers) == (status == 503)


def test_the_gate_refuses_each_path_in_its_own_form(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "full", property(lambda _: True))
    response = post(app.test_client(), document())
    assert_error(response, 503, "too many pictures are waiting")
    assert response.headers["Retry-After"] == "1"
    assert app.test_client().post("/predict").content_type == "application/problem+json"


def test_without_models_the_server_is_live_but_not_ready(
    settings: Settings, tmp_path: Path
) -> None:
    client = create_app(replace(settings, models_dir=tmp_path / "none")).test_client()
    assert client.get("/v2").status_code == 200
    assert client.get("/v2/health/live").json == {"live": True}
    for answer in (
        client.get("/v2/health/ready"),
        client.get("/v2/models/relu_with_bn"),
        client.get("/v2/models/relu_with_bn/ready"),
        client.post("/v2/repository/index"),
        post(client, document()),
    ):
        assert_error(answer, 503, "none/manifest.json: there is no such file")


def _binary() -> bytes:
    tensor = {"data": ..., "parameters": {"binary_data_size": 3072}}
    return json.dumps(document(tensor, id="7")).encode()


HEAD = _binary()
SEEDS = (
    (HEAD + PICTURE.tobytes(), len(HEAD)),
    (json.dumps(document()).encode(), None),
    (json.dumps(output(classification=5, binary_data=True)).encode(), None),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def fits(response: TestResponse) -> None:
    """Whatever was sent, it is answered, or refused as the sender's fault."""
    if response.status_code == 200:
        return
    assert response.status_code in (400, 413, 415)
    assert_error(response, response.status_code)


def _edit(data: bytes, place: int, edit: str, extra: bytes) -> bytes:
    edits: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[:place],
        "insert": lambda: data[:place] + extra + data[place:],
        "replace": lambda: data[:place] + extra + data[place + len(extra) :],
        "drop": lambda: data[:place] + data[place + 1 + len(extra) :],
        "repeat": lambda: data[:place] + data,
    }
    return edits[edit]()


@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(
        st.tuples(
            st.integers(0, 400) | st.integers(0, 20_000),
            st.sampled_from(["cut", "insert", "replace", "drop", "repeat"]),
            st.binary(max_size=4) | st.sampled_from([b'"', b"[", b"{", b"9", b"-", b"\\", b","]),
        ),
        max_size=3,
    ),
    length=st.none() | st.integers(-1, 4000).map(str) | st.text("0123456789-+. ,x", max_size=6),
    encoding=st.sampled_from([None, None, None, None, "gzip", "deflate", "br"]),
)
def test_mutated_bytes_are_never_the_servers_fault(
    app: Flask,
    seed: tuple[bytes, int | None],
    edits: list[tuple[int, str, bytes]],
    length: str | None,
    encoding: str | None,
) -> None:
    data, right = seed
    for place, edit, extra in edits:
        data = _edit(data, place % (len(data) + 1), edit, extra)
    header = length if length is not None else None if right is None else str(right)
    headers = {LENGTH: header, "Content-Encoding": encoding}
    sent = {name: value for name, value in headers.items() if value is not None}
    fits(app.test_client().post(PATH, data=data, headers=sent))


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(
        [
            ("id",),
            ("inputs",),
            ("outputs",),
            ("parameters",),
            ("inputs", 0),
            ("outputs", 0),
            ("inputs", 0, "name"),
            ("inputs", 0, "shape"),
            ("inputs", 0, "shape", 0),
            ("inputs", 0, "datatype"),
            ("inputs", 0, "parameters"),
            ("inputs", 0, "parameters", "binary_data_size"),
            ("inputs", 0, "data"),
            ("inputs", 0, "data", 0),
            ("outputs", 0, "name"),
            ("outputs", 0, "parameters"),
            ("outputs", 0, "parameters", "binary_data"),
            ("outputs", 0, "parameters", "classification"),
            ("parameters", "binary_data_output"),
        ]
    ),
    value=JSON,
    nested=st.booleans(),
)
def test_any_json_in_any_place_is_never_the_servers_fault(
    app: Flask, path: tuple[str | int, ...], value: Any, nested: bool
) -> None:
    body = json.loads(json.dumps(output(classification=3)))
    body["parameters"] = {}
    body["inputs"][0] |= {"parameters": {}, "data": PICTURE.tolist() if nested else FLAT[:]}
    place = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    fits(post(app.test_client(), body))
