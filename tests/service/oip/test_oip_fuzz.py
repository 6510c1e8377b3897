"""Whatever a body holds, it is answered, or refused as its sender's fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.service.inference import (
    FLAT,
    LENGTH,
    PATH,
    PICTURE,
    assert_error,
    document,
    output,
    post,
)


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
