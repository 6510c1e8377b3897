"""The model card survives its JSON form, and a bad one is refused by the name of its field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from service.models.card import CardError, ModelCard
from tests.service.tiny import make_card

CARD = make_card("relu_with_bn")


def test_a_card_comes_back_from_json_as_it_went_in() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD
    without_parity = replace(CARD, parity=None, normalization=None)
    assert ModelCard.from_json(without_parity.to_json()) == without_parity


def test_the_json_has_the_documented_fields_in_the_documented_order() -> None:
    assert list(json.loads(CARD.to_json())) == [
        *("schema_version", "variant", "activation", "normalization", "recipe", "seed"),
        *("training", "dataset", "classes", "superclasses", "training_mean", "frozen"),
        *("evaluation", "parity", "tools", "created"),
    ]


def test_only_a_card_that_has_them_names_a_kept_step_and_a_hold_out() -> None:
    """Software from before there were such fields refuses those that it does not know."""
    assert not {"kept_step", "hold_out"} & json.loads(CARD.to_json())["training"].keys()
    selected = replace(CARD, training=replace(CARD.training, kept_step=1, hold_out=5_000))
    training = json.loads(selected.to_json())["training"]
    assert (training["kept_step"], training["hold_out"]) == (1, 5_000)
    assert ModelCard.from_json(selected.to_json()) == selected


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", 2, "schema_version is 2, but this software reads 1"),
        ("variant", 3, "variant is 3, not a text"),
        ("variant", "", "variant is empty"),
        ("seed", "0", 'seed is "0", not a whole number'),
        ("seed", True, "seed is true, not a whole number"),
        ("training.seconds", None, "training.seconds is null, not a number"),
        ("training.kept_step", 1.5, "training.kept_step is 1.5, not a whole number"),
        ("training", [], "training is [], not an object"),
        ("dataset.checksum", "abc", "dataset.checksum is 'abc', not a SHA-256 in hex"),
        ("classes", ["one"], "superclasses has 100 names for 1 classes"),
        ("classes", ["one"] * 100, "classes names one twice"),
        ("classes", "one", 'classes is "one", not a list'),
        ("training_mean", 300, "training_mean is 300.0, not between 0 and 255"),
        ("frozen.kind", "moving", 'frozen.kind is "moving"'),
        ("frozen.layers", [{}], "frozen.layers[0].name, frozen.layers[0].channels"),
        ("evaluation.after_freeze.top1", 57, "top1 is 57.0, not between 0 and 1"),
        ("parity.provider", 1, "parity.provider is 1, not a text"),
        ("tools.keras", 3, "tools.keras is 3, not a text"),
        ("created", "yesterday", "created is 'yesterday', not an ISO 8601 time"),
        ("created", "2026-01-01T00:00:00", "without a time zone"),
        ("surprise", 1, "surprise is not a known field"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, message: str) -> None:
    document = json.loads(CARD.to_json())
    *parents, field = path.split(".")
    target = document
    for parent in parents:
        target = target[parent]
    target[field] = value
    with pytest.raises(CardError) as caught:
        ModelCard.from_json(json.dumps(document))
    assert message in str(caught.value)


@pytest.mark.parametrize("field", list(json.loads(CARD.to_json())))
def test_a_missing_field_is_named(field: str) -> None:
    document = json.loads(CARD.to_json())
    del document[field]
    with pytest.raises(CardError, match=f"^{field} is missing"):
        ModelCard.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"seed": NaN}', "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(CardError):
        ModelCard.from_json(text)


def test_a_number_that_json_cannot_hold_is_never_written() -> None:
    with pytest.raises(CardError, match="NaN or infinity"):
        replace(
            CARD, training_mean=1.0, training=replace(CARD.training, seconds=float("nan"))
        ).to_json()
