"""The OpenAPI document: valid, whole, and true to what the service does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from jsonschema_rs import ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.app import create_app
from service.docs.document import openapi_path
from service.operations import Answer, Tag, operation
from service.settings import Settings, key_digest
from tests.service.contract import assert_documented
from tests.service.hostile import PHOTO
from tests.service.test_api import multipart
from tests.service.tiny import encode

KEY = "a-key-of-the-service"
PNG = encode(PHOTO)


@pytest.fixture(scope="module")
def locked(settings: Settings) -> Flask:
    return create_app(replace(settings, api_keys=(key_digest(KEY),)))


@pytest.fixture(scope="module")
def broken(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Flask:
    return create_app(replace(settings, models_dir=tmp_path_factory.mktemp("none")))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, described in item.items():
            yield method, path, described


@pytest.mark.parametrize("which", ["app", "locked", "broken"])
def test_it_is_valid_openapi_3_1(which: str, request: pytest.FixtureRequest) -> None:
    client = request.getfixturevalue(which).test_client()
    response = client.get("/openapi.json", headers={"X-API-Key": KEY})
    assert response.status_code == 200
    assert response.content_type == "application/json"
    assert response.json["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(response.json).iter_errors()) == []


def test_every_route_is_in_it_and_nothing_else(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (method.lower(), openapi_path(rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    assert routes == {(method, path) for method, path, _ in operations(document)}
    assert {("post", "/predict"), ("get", "/metrics"), ("get", "/docs")} <= routes


def test_a_route_that_is_added_is_documented_where_it_is_declared(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/page/<path:name>")
    @operation(Tag.PAGES, Answer("the page", others=("text/html",)))
    def page(name: str) -> Response:
        """A page of the service."""
        return Response("<p>", mimetype="text/html")

    client = app.test_client()
    added = client.get("/openapi.json").json["paths"]["/page/{name}"]["get"]
    assert added["summary"] == "A page of the service."
    assert list(added["responses"]["200"]["content"]) == ["text/html"]
    assert client.get("/page/a/b").status_code == 200


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert len(references) > 100
    for reference in references:
        place = document
        for step in reference.split("/"):
            place = place[step]
    schemas = {each.removeprefix("components/schemas/") for each in references}
    assert set(document["components"]["schemas"]) <= schemas


def test_every_operation_is_named_once_and_says_what_it_does(document: dict[str, Any]) -> None:
    found = [described for _, _, described in operations(document)]
    assert len({each["operationId"] for each in found}) == len(found)
    for each in found:
        assert len(each["summary"]) > 5
        assert each["tags"][0] in [tag["name"] for tag in document["tags"]]
    for method, path, each in operations(document):
        declared = {p["name"] for p in each["parameters"] if p["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), (method, path)


def test_the_examples_are_answered_as_they_are_documented(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    posted, asked = set(), set()
    for method, path, each in operations(document):
        examples = {p["name"]: p.get("example") for p in each["parameters"]}
        url = path.format_map(examples)
        shown = each["responses"]["200"]["content"].get("application/json", {}).get("example")
        body = each.get("requestBody", {"content": {}, "required": False})
        if not body["required"]:
            query = {
                p["name"]: p["example"]
                for p in each["parameters"]
                if p["in"] == "query" and "example" in p
            }
            response = client.open(url, method=method.upper(), query_string=query)
            assert response.status_code == 200
            assert shown is None or response.json == shown
            asked.add(path)
        for kind, media in body["content"].items():
            for example in media.get("examples", {}).values():
                data = client.get("/" + example["externalValue"]).data
                header = re.findall("`(.*): (.*)`", example.get("description", ""))
                response = client.post(url, data=data, content_type=kind, headers=header)
                assert response.status_code == 200, response.text
                # Without parameters the default variant answers, in its newest version.
                if response.is_json and kind != "application/octet-stream":
                    assert response.json == shown, path
                posted.add((path, kind))
    assert {("/predict", "image/png"), ("/compare", "image/png")} <= posted
    infer = "/v2/models/{name}/versions/{version}/infer"
    assert {(infer, "application/json"), (infer, "application/octet-stream")} <= posted
    assert {"/models", "/models/{variant}", "/v2", "/health/ready", "/metrics"} <= asked


def test_the_example_picture_is_answered_the_same_in_a_form(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    picture = client.get("/docs/examples/picture.png").data
    answer = client.post("/predict", **multipart([("image", picture, "picture.png")])).json
    content = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]
    assert answer["images"][0]["top"] == content["application/json"]["example"]["images"][0]["top"]


def test_it_says_which_model_is_the_default_and_which_are_the_current(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    listed = schemas["ModelList"]["properties"]["models"]["items"]["$ref"].rpartition("/")[2]
    for name in (listed, "WholeModel"):
        fields = schemas[name]["properties"]
        assert "true of one model" in fields["default"]["description"]
        assert "names its variant alone" in fields["current"]["description"]
        assert {"default", "current"} <= set(schemas[name]["required"])
    assert "true of one model" in client.get("/docs").text


def test_every_body_has_its_encodings(document: dict[str, Any]) -> None:
    """What is read beside the body as it is is declared as a header, and all else is 415."""
    for path, item in document["paths"].items():
        for each in item.values():
            if "requestBody" not in each:
                continue
            declared = [p for p in each["parameters"] if p["in"] == "header"]
            named = [p["schema"]["enum"] for p in declared if p["name"] == "Content-Encoding"]
            (encodings,) = named or [["identity"]]
            assert (len(encodings) > 1) == path.endswith("/infer")
            refused = each["responses"]["415"]
            assert f"Content-Encoding other than {', '.join(encodings)}" in refused["description"]
            assert "Accept-Encoding" in refused["headers"]


def test_it_says_whose_version_compare_answers_by(document: dict[str, Any]) -> None:
    compare = document["paths"]["/compare"]["post"]
    (version,) = (each for each in compare["parameters"] if each["name"] == "version")
    assert "variants that lack it are left out" in version["description"]
    predict = document["paths"]["/predict"]["post"]["parameters"]
    assert version["schema"] in [each["schema"] for each in predict if each["name"] == "version"]
    assert "No variant has such a version" in compare["responses"]["404"]["description"]


def test_a_querys_range_is_where_the_service_draws_the_line(
    client: FlaskClient, document: dict[str, Any]
) -> None:
    lines = 0
    for method, path, each in operations(document):
        examples = {p["name"]: p.get("example") for p in each["parameters"]}
        for parameter in each["parameters"]:
            schema = parameter["schema"]
            if parameter["in"] != "query" or schema["type"] != "integer":
                continue
            url = f"{path.format_map(examples)}?{parameter['name']}="
            for value, inside in (
                (schema["minimum"], True),
                (schema["maximum"], True),
                (schema["minimum"] - 1, False),
                (schema["maximum"] + 1, False),
            ):
                response = client.open(f"{url}{value}", method=method.upper(), data=PNG)
                assert (response.status_code in (200, 303, 404)) == inside, response.text
                assert (response.status_code == 400) != inside
                lines += 1
    assert lines >= 4 * 4


def test_it_follows_the_settings(settings: Settings) -> None:
    few = create_app(replace(settings, max_images=3, max_body_bytes=54321, deadline_seconds=7))
    paths = few.test_client().get("/openapi.json").json["paths"]
    predict = paths["/predict"]["post"]
    content = predict["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert form["properties"]["image"]["maxItems"] == 3
    assert content["image/png"]["schema"]["maxLength"] == 54321
    assert "54,321 bytes" in predict["responses"]["413"]["description"]
    assert "7 seconds" in predict["responses"]["504"]["description"]
    infer = paths["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    tensor = infer["application/json"]["schema"]["properties"]["inputs"]["items"]
    assert tensor["properties"]["shape"]["prefixItems"][0]["maximum"] == 3


def test_it_names_the_variants_that_are_served(document: dict[str, Any], broken: Flask) -> None:
    variant = document["paths"]["/predict"]["post"]["parameters"][0]
    assert variant["schema"]["enum"] == ["relu_with_bn", "sigmoid_without_bn"]
    assert variant["example"] == "sigmoid_without_bn"
    without = broken.test_client().get("/openapi.json").json
    assert without["paths"]["/predict"]["post"]["parameters"][0]["schema"] == {"type": "string"}


def test_keys_are_in_it_where_they_are_asked_for(document: dict[str, Any], locked: Flask) -> None:
    assert "security" not in document
    assert "securitySchemes" not in document["components"]
    client = locked.test_client()
    assert client.get("/openapi.json").status_code == 401
    found = client.get("/openapi.json", headers={"X-API-Key": KEY}).json
    assert found["security"] == [{"bearer": []}, {"header": []}]
    assert set(found["components"]["securitySchemes"]) == {"bearer", "header"}
    for method, path, each in operations(found):
        asks = each.get("security") != []
        assert ("401" in each["responses"]) == asks, path
        url = re.sub(r"{\w+}", "1", path)
        assert (client.open(url, method=method.upper()).status_code == 401) == asks


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status_code": 418}, AssertionError),
        ({"mimetype": "text/plain"}, AssertionError),
        ({"text": '{"name": "x", "version": "1", "extensions": [1]}'}, ValidationError),
        ({"text": '{"name": "x", "version": "1", "extensions": [], "more": 1}'}, ValidationError),
        ({"text": '{"name": "x", "version": "1"}'}, ValidationError),
    ],
)
def test_an_answer_that_is_not_as_documented_is_noticed(
    app: Flask, client: FlaskClient, changes: dict[str, Any], error: type[Exception]
) -> None:
    """What holds every answer of these tests against the document can fail."""
    answer = client.get("/v2")
    for name, value in changes.items():
        setattr(answer, name, value)
    with pytest.raises(error):
        assert_documented(app, answer)


def test_it_says_what_holds_where_it_is_said(document: dict[str, Any]) -> None:
    paths = document["paths"]
    (name, *_) = paths["/models/{variant}"]["get"]["parameters"]
    assert name["required"]
    assert "without it" not in name["description"]
    assert "docstring" not in json.dumps(document)
    index = paths["/v2/repository/index"]["post"]["responses"]["413"]["description"]
    assert index == "More than 65,536 bytes, or than `MAX_BODY_BYTES` where that is less."
    for method, path, each in operations(document):
        busy = each["responses"].get("503", {"description": ""})["description"]
        assert busy.count("are waiting already") <= 1, (method, path)
