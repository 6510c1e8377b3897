"""The OpenAPI document's schemas: what they refuse the service refuses, and the other way about."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from service.models.card import CardError, ModelCard
from service.oip.tensors import INPUT
from tests.service.tiny import make_card

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
