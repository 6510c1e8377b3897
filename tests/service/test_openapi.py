"""The OpenAPI document: valid, whole, true to what the service does, and made only when asked."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from jsonschema_rs import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import create_environ

from service.app import create_app
from service.card import CardError, ModelCard
from service.openapi import make_document, openapi_path
from service.operations import Answer, Tag, operation
from service.settings import Settings, key_digest
from service.tensors import INPUT
from service.wsgi import call
from tests.service.contract import assert_documented
from tests.service.hostile import PHOTO
from tests.service.test_api import multipart
from tests.service.test_waiting import in_turn
from tests.service.tiny import encode, make_card

KEY = "a-key-of-the-service"
PNG = encode(PHOTO)


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = app.test_client().get("/openapi.json").json
    return found


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


FAULTS: list[tuple[str, Any]] = [
    ("schema_version", 2),
    ("variant", 3),
    ("variant", ""),
    ("seed", "0"),
    ("training.seconds", None),
    ("training", []),
    ("dataset.checksum", "abc"),
    ("classes", []),
    ("classes", ["one"] * 100),
    ("training_mean", 300),
    ("training_mean", -1),
    ("frozen.kind", "moving"),
    ("frozen.layers", [{}]),
    ("evaluation.after_freeze.top1", 57),
    ("parity.provider", 1),
    ("tools.keras", 3),
    ("surprise", 1),
]


def test_the_cards_schema_refuses_what_the_cards_reader_refuses(document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/ModelCard", "components": document["components"]}
    validator = Draft202012Validator(schema)
    good = json.dumps(asdict(make_card("relu_with_bn")))  # as it is answered: null and all
    for card in (json.loads(good), {**json.loads(good), "parity": None, "normalization": None}):
        validator.validate(card)
        ModelCard.from_json(json.dumps(card))
    for path, value in FAULTS:
        card = json.loads(good)
        *parents, field = path.split(".")
        place = card
        for parent in parents:
            place = place[parent]
        place[field] = value
        assert not validator.is_valid(card), path
        with pytest.raises(CardError):
            ModelCard.from_json(json.dumps(card))
    for field in json.loads(good):
        assert not validator.is_valid({k: v for k, v in json.loads(good).items() if k != field})


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


def test_who_announces_bytes_says_how_many_and_sends_no_data(document: dict[str, Any]) -> None:
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    schema = infer["application/json"]["schema"]
    size = schema["properties"]["inputs"]["items"]["properties"]["parameters"]["properties"]
    assert size["binary_data_size"]["type"] == ["integer", "null"]
    tensor = {"name": INPUT, "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}
    validator = Draft202012Validator(schema)
    sizes = (({}, True), ({"binary_data_size": None}, True), ({"binary_data_size": 3072}, False))
    for parameters, valid in ((None, True), *sizes):
        assert validator.is_valid({"inputs": [{**tensor, "parameters": parameters}]}) == valid


def test_it_is_made_once_beside_the_event_loop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, makers = create_app(settings), list[threading.Thread]()

    def make(app: Flask) -> dict[str, Any]:
        makers.append(threading.current_thread())
        return make_document(app)

    def ask() -> dict[str, Any]:
        answer = asyncio.run(in_turn(lambda: call(app, create_environ("/openapi.json"))))
        assert answer.head.startswith(b"HTTP/1.1 200 ")
        document: dict[str, Any] = json.loads(answer.body)
        return document

    monkeypatch.setattr("service.openapi.make_document", make)
    first = ask()
    monkeypatch.setattr("service.docs.json.dumps", None)  # nor is it written again
    assert ask() == first
    assert len(makers) == 1
    assert makers != [threading.main_thread()]


def test_nothing_of_it_is_made_or_imported_before_it_is_asked_for(models_dir: Path) -> None:
    program = """
import sys
from service.app import create_app
from service.settings import Settings
client = create_app(Settings.from_environment({"MODELS_DIR": sys.argv[1]})).test_client()
assert client.post("/predict", data=sys.stdin.buffer.read()).status_code == 200
print("service.openapi" in sys.modules, "apispec" in sys.modules)
assert client.get("/openapi.json").status_code == 200
print("service.openapi" in sys.modules, "apispec" in sys.modules)
assert client.get("/docs").status_code == 200
heavy = {"pydantic", "marshmallow", "yaml", "jsonschema", "onnx"} & set(sys.modules)
print(sorted(heavy))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, models_dir], input=PNG, capture_output=True, check=True
    )
    assert run.stdout.decode().split("\n") == ["False False", "True True", "[]", ""]
