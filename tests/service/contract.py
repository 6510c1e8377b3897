"""A client that holds every answer against the service's own OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from jsonschema_rs import Draft202012Validator
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from service.docs.document import openapi_path
from service.docs.routes import document


class ContractClient(FlaskClient):
    """``FlaskClient`` whose every answer is as documented, or else an ``AssertionError``."""

    def open(self, *arguments: Any, **options: Any) -> TestResponse:
        response = super().open(*arguments, **options)
        assert_documented(self.application, response)
        return response


def assert_documented(app: Flask, response: TestResponse) -> None:
    """The status, content type, headers and JSON of ``response`` are those of the document.

    What no route answers (404, 405) and a bug (500) are problems of no operation, and a route that
    a test adds by itself is not documented.
    """
    method, path = response.request.method, response.request.path
    assert response.headers["X-Request-ID"]
    described = _described(app, method, path)
    if described is None or response.status_code == 500:
        return
    where = f"{method} {path}: {response.status}"
    answer = described["responses"].get(str(response.status_code))
    assert answer is not None, f"{where} is not documented"
    if "content" not in answer:
        return
    media = answer["content"].get(response.mimetype)
    assert media is not None, f"{where}: {response.mimetype} is not documented"
    if method != "HEAD" and response.mimetype.endswith("json"):
        _validator(app, media["schema"]).validate(json.loads(response.text))


def document_of(app: Flask) -> dict[str, Any]:
    with app.app_context():
        return document()


def _described(app: Flask, method: str, path: str) -> dict[str, Any] | None:
    """The operation that answers, if it is documented."""
    method = "GET" if method == "HEAD" else method
    urls = app.url_map.bind("localhost")
    try:
        rule, _ = urls.match(path, method, return_rule=True)
    except HTTPException:
        return None
    item = document_of(app)["paths"].get(openapi_path(rule), {})
    found: dict[str, Any] | None = item.get(method.lower())
    return found


def _validator(app: Flask, schema: dict[str, Any]) -> Draft202012Validator:
    known = app.extensions.setdefault("contract-validators", {})
    key = json.dumps(schema, sort_keys=True)
    if key not in known:
        whole = {**schema, "components": document_of(app)["components"]}
        known[key] = Draft202012Validator(whole)
    found: Draft202012Validator = known[key]
    return found
