"""The service's own API: POST /predict and /compare, GET /models and /models/<variant>."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from flask import Blueprint

from service.answers import answered_by, prediction_json, top
from service.compute import compute
from service.messages import Response, current
from service.problems import Problem
from service.repository import Model, UnknownModelError
from service.state import repository
from service.uploads import read_upload

MAX_TOP_K = 100

blueprint = Blueprint("api", __name__)


@blueprint.post("/predict")
def predict() -> Response:
    """One variant's answer to every picture of the request."""
    query = _query("variant", "version", "top_k")
    model = _model(query.get("variant"), query)
    top_k = _whole(query, "top_k", 5, MAX_TOP_K)
    current().variant = model.variant
    upload = read_upload()
    (rows,) = compute((model, upload.images))
    text = prediction_json(model, upload.names, rows, top_k)
    return Response(text, mimetype="application/json")


@blueprint.post("/compare")
def compare() -> dict[str, Any]:
    """Every variant's answer, by its newest version, to every picture of the request."""
    top_k = _whole(_query("top_k"), "top_k", 5, MAX_TOP_K)
    models = {variant: repository().get(variant) for variant in repository().models}
    upload = read_upload()
    answers = compute(*((model, upload.images) for model in models.values()))
    rows = dict(zip(models, answers, strict=True))
    images = [
        {
            "name": name,
            "variants": {
                variant: top(rows[variant][index], model.card, top_k)
                for variant, model in models.items()
            },
        }
        for index, name in enumerate(upload.names)
    ]
    return {
        "images": images,
        "models": {variant: answered_by(model) for variant, model in models.items()},
    }


@blueprint.get("/models")
def list_models() -> dict[str, Any]:
    """Every model with its card, but for the class names and the tables by layer."""
    _query()
    descriptions = [
        _description(model)
        for versions in repository().models.values()
        for model in versions.values()
    ]
    for description in descriptions:
        for field in ("classes", "superclasses"):
            del description["card"][field]
        del description["card"]["frozen"]["layers"]
    return {"default": repository().default, "models": descriptions}


@blueprint.get("/models/<variant>")
def show_model(variant: str) -> dict[str, Any]:
    """One model with its whole card."""
    return _description(_model(variant, _query("version")))


def _description(model: Model) -> dict[str, Any]:
    return {
        "variant": model.variant,
        "version": model.version,
        "default": model.variant == repository().default,
        "provider": model.provider,
        "file": model.file,
        "sha256": model.sha256,
        "bytes": model.bytes,
        "card": asdict(model.card),
    }


def _query(*known: str) -> dict[str, str]:
    """The query's parameters. Raises ``Problem`` 400 for an unknown or repeated one."""
    request = current()
    if not request.query_string:
        return {}
    for name, values in request.args.lists():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise Problem(
                HTTPStatus.BAD_REQUEST, f"unknown query parameter {name[:80]!r}; allowed: {allowed}"
            )
        if len(values) > 1:
            raise Problem(HTTPStatus.BAD_REQUEST, f"query parameter {name} is given twice")
    return request.args.to_dict()


def _whole(query: dict[str, str], name: str, default: int, most: int) -> int:
    """A whole number of the query, 1 to ``most``. Raises ``Problem`` 400."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:20]) <= most:
        raise Problem(HTTPStatus.BAD_REQUEST, f"{name} is {text[:80]!r}; allowed: 1 to {most}")
    return int(text)


def _model(variant: str | None, query: dict[str, str]) -> Model:
    """The model that is asked for. Raises ``Problem`` 404 with a list of those there are."""
    version = _whole(query, "version", 1, 10**9) if "version" in query else None
    try:
        return repository().get(variant, version)
    except UnknownModelError as error:
        raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None
