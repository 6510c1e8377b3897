"""The examples of the OpenAPI document: real requests, and what this service answers to them.

The requests are files under /docs/examples: a drawn picture, and its pixels as a tensor, as JSON
and as bytes. The answers are computed by the models that are served, so that whoever sends a
request gets the very answer that is shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from flask import Flask
from numpy.typing import NDArray
from PIL import Image
from werkzeug.routing import Rule

from service.answers import comparison, prediction_json
from service.api import TOP_K
from service.headers import HEADER_LENGTH
from service.models.model import Model
from service.models.repository import Repository
from service.oip.tensors import INPUT, INPUT_TYPE, OUTPUT, read_request, write_response
from service.pictures import decode
from service.problems import Problem

FOLDER = "docs/examples"
PICTURE, TENSOR, BINARY = "picture.png", "tensor.json", "tensor.bin"
MEDIA = {PICTURE: "image/png", TENSOR: "application/json", BINARY: "application/octet-stream"}

_REQUESTS = {
    "api.predict": {"image/png": PICTURE, "application/octet-stream": PICTURE},
    "api.compare": {"image/png": PICTURE, "application/octet-stream": PICTURE},
    "pages.answers": {"image/png": PICTURE, "application/octet-stream": PICTURE},
    "oip.infer": {"application/json": TENSOR, "application/octet-stream": BINARY},
}


@dataclass(frozen=True)
class RequestExample:
    """A body to post: its file's name, its URL from the document on, and the headers it needs."""

    name: str
    url: str
    headers: dict[str, str]


class Examples:
    """The examples of one application, whose models are ``repository``'s, if it has any."""

    def __init__(self, app: Flask, repository: Repository | None) -> None:
        self._app = app
        self._repository = repository
        self._posts = _posts(repository) if repository else {}

    def request(self, rule: Rule, media: str) -> RequestExample | None:
        """The body to post as ``media``; None where there is none."""
        name = _REQUESTS.get(rule.endpoint, {}).get(media)
        return RequestExample(name, f"{FOLDER}/{name}", _headers(name)) if name else None

    def parameter(self, name: str) -> str | None:
        """The default model, as a path or a query names it; None where there is none."""
        if self._repository is None:
            return None
        model = self._repository.get()
        names = {"name": model.variant, "variant": model.variant, "version": str(model.version)}
        return names.get(name)

    def answer(self, rule: Rule) -> Any:
        """What is answered to it, or to a request without one; None where that is a problem."""
        if rule.endpoint in self._posts:
            return self._posts[rule.endpoint]
        path = {name: self.parameter(name) or "1" for name in rule.arguments}
        with self._app.test_request_context(method="POST" if _is_post(rule) else "GET"):
            try:
                found: Any = self._app.view_functions[rule.endpoint](**path)
                return self._app.make_response(found).json
            except Problem:
                return None


@cache
def file(name: str) -> bytes:
    """A request's body, by its name in ``MEDIA``."""
    if name == PICTURE:
        return _picture()
    pixels = _pixels()
    tensor = {"name": INPUT, "datatype": INPUT_TYPE, "shape": list(pixels.shape)}
    if name == TENSOR:
        output = {"name": OUTPUT, "parameters": {"classification": TOP_K.default}}
        whole = {**tensor, "data": pixels.ravel().tolist()}
        return json.dumps({"inputs": [whole], "outputs": [output]}).encode()
    described = {**tensor, "parameters": {"binary_data_size": pixels.size}}
    return json.dumps({"inputs": [described]}).encode() + pixels.tobytes()


def _headers(name: str) -> dict[str, str]:
    """What goes with a request's body, beside its Content-Type."""
    if name != BINARY:
        return {}
    return {HEADER_LENGTH: str(len(file(BINARY)) - _pixels().size)}


def _posts(repository: Repository) -> dict[str, Any]:
    """The answers to the pictures and tensors, by endpoint."""
    models = repository.each()
    default, k = repository.get(), TOP_K.default or 1
    rows = {variant: model.run(_pixels()) for variant, model in models.items()}
    return {
        "api.predict": json.loads(prediction_json(default, [None], rows[default.variant], k)),
        "api.compare": comparison(models, [None], rows, k),
        "oip.infer": _inferred(default),
    }


def _is_post(rule: Rule) -> bool:
    return "POST" in (rule.methods or ())


def _inferred(model: Model) -> Any:
    wish = read_request(file(TENSOR), header_length=None, max_images=1)
    answer, _ = write_response(
        wish,
        model.run(wish.images),
        model.card.classes,
        model=model.variant,
        version=model.version,
    )
    return json.loads(answer)


@cache
def _pixels() -> NDArray[np.uint8]:
    """The picture as the nets take it, uint8 [1, 32, 32, 3]."""
    return decode(file(PICTURE), max_pixels=1 << 20)[None]


def _picture() -> bytes:
    """The sun above the sea, 96 x 72."""
    y, x = np.mgrid[0:72, 0:96].astype(np.float64)
    sky = np.stack([90 + 1.6 * y, 150 + 1.2 * y, 235 - 0.4 * y], axis=-1)
    sea = np.stack([20 + 0 * y, 110 - 0.6 * y, 160 - 0.8 * y], axis=-1)
    sea += 14 * np.sin(0.9 * y + 3 * np.sin(0.11 * x))[..., None]
    scene = np.where((y < 46)[..., None], sky, sea)
    scene[np.hypot(x - 66, y - 22) < 11] = (255, 226, 120)
    picture = BytesIO()
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(picture, "PNG")
    return picture.getvalue()
