"""Requests of the Open Inference Protocol for one picture, and the form of its errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

PATH = "/v2/models/relu_with_bn/versions/1/infer"
LENGTH = "Inference-Header-Content-Length"
PICTURE = np.random.default_rng(11).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
FLAT = PICTURE.ravel().tolist()
NESTED = PICTURE.tolist()


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
