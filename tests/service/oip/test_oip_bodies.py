"""Bodies that no client library sends: answered where the protocol allows them, else refused."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.oip.protocol import WISH_BYTES
from service.oip.tensors import JSON_BYTES, JSON_BYTES_OF_A_VALUE, TooLargeError, read_request
from tests.service.inference import (
    FLAT,
    LENGTH,
    NESTED,
    PICTURE,
    assert_error,
    document,
    output,
    post,
)
from tests.service.tiny import oracle

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
    ({}, "inputs is missing, not a list"),
    (document(inputs=None), "inputs is null, not a list"),
    (document(inputs={}), "inputs is an object, not a list"),
    (document(inputs=[]), "input images is given 0 times"),
    (document(inputs=[1]), "one of the inputs is 1, not an object"),
    (document(inputs=document()["inputs"] * 2), "input images is given 2 times"),
    (document({"name": "x" * 1000}), 'unknown input "xxx'),
    (document({"name": ...}), "the name is missing: the model's input is images"),
    (document({"datatype": ...}), "datatype is missing; it takes UINT8 [-1, 32, 32, 3]"),
    (document({"datatype": "uint8"}), 'datatype is "uint8"'),
    (document({"datatype": ["UINT8"]}), "datatype is a list of 1"),
    (document({"shape": ...}), "shape is missing, not a list of whole numbers"),
    (document({"shape": "1,32,32,3"}), "not a list of whole numbers"),
    (document({"shape": []}), "shape is []"),
    (document({"shape": [1.0, 32, 32, 3]}), "not a list of whole numbers"),
    (document({"shape": [True, 32, 32, 3]}), "not a list of whole numbers"),
    (document({"shape": [0, 32, 32, 3]}), "at least one picture"),
    (document({"shape": [-1, 32, 32, 3]}), "at least one picture"),
    (document({"shape": [1, 3, 32, 32]}), "shape is [1, 3, 32, 32]"),
    (document({"shape": [3072]}), "shape is [3072]"),
    (document({"shape": [2, 32, 32, 3]}), "data is 3072 values, but shape [2, 32, 32, 3] takes"),
    (document({"data": ...}), "data is missing, but shape [1, 32, 32, 3] takes 3072 values"),
    (document({"data": None}), "data is null"),
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
    (
        document(outputs=[{"name": "logits"}]),
        'unknown output "logits": the model\'s output is prob',
    ),
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


def test_json_that_is_longer_than_pictures_need_is_not_parsed(client: FlaskClient) -> None:
    whole = np.full((3, 32, 32, 3), 255).tolist()  # nested and spaced, the longest that is usual
    body = json.dumps(document({"shape": [3, 32, 32, 3], "data": whole})).encode()
    assert len(read_request(body, header_length=None, max_images=3).images) == 3
    longest = JSON_BYTES + 3 * 3072 * JSON_BYTES_OF_A_VALUE
    padded = body.ljust(longest)
    assert len(read_request(padded, header_length=None, max_images=3).images) == 3
    for header_length in (None, longest + 1):
        with pytest.raises(TooLargeError, match=f"{longest + 1} bytes, more than the {longest} "):
            read_request(padded + b" ", header_length=header_length, max_images=3)
    wish = b'{"ready": true}'.ljust(WISH_BYTES)
    assert client.post("/v2/repository/index", data=wish).status_code == 200
    assert_error(
        client.post("/v2/repository/index", data=wish + b" "), 413, f"{WISH_BYTES:,} bytes"
    )


ZIPPED = gzip.compress(json.dumps(document()).encode(), mtime=0)


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (ZIPPED, "gzip", 200),
        (ZIPPED, "GZIP", 200),
        (ZIPPED, "x-gzip", 200),
        (document(), "identity", 200),
        (zlib.compress(json.dumps(document()).encode()), "deflate", 200),
        (ZIPPED[:-1], "gzip", 400),
        (ZIPPED[:20], "gzip", 400),
        (ZIPPED * 2, "gzip", 400),
        (ZIPPED, "deflate", 400),
        (document(), "gzip", 400),
        (b"", "gzip", 400),
        (gzip.compress(b" " * ((1 << 20) + 1), mtime=0), "gzip", 413),
        (ZIPPED, "gzip, gzip", 415),
        (ZIPPED, "br", 415),
    ],
)
def test_content_encodings(client: FlaskClient, body: Any, encoding: str, status: int) -> None:
    response = post(client, body, Content_Encoding=encoding)
    if status == 200:
        assert (response.status_code, response.data) == (200, post(client, document()).data)
    else:
        assert_error(response, status)
    assert (response.headers.get("Accept-Encoding") is not None) == (status == 415)


def test_no_more_is_inflated_than_is_allowed(client: FlaskClient) -> None:
    bomb = gzip.compress(bytes(50 << 20), mtime=0)  # 50 kB, of 50 MB
    tracemalloc.start()
    try:
        assert_error(post(client, bomb, Content_Encoding="gzip"), 413, "once it is inflated")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10 << 20


def test_bodies_and_tensors_have_their_ceilings(client: FlaskClient) -> None:
    assert_error(post(client, bytes((1 << 20) + 1)), 413, "larger than the 1,048,576 bytes")
    many = document({"shape": [5, 32, 32, 3], "data": FLAT * 5})
    assert_error(post(client, many), 413, "5 pictures are more than the 4 that one request may")
    assert_error(post(client, document({"shape": [10**1000, 32, 32, 3]})), 413, "pictures")
