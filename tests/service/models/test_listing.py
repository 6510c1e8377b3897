"""Which models there are, which of them answers, and all of them at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.settings import Settings
from tests.service.hostile import PHOTO
from tests.service.test_api import PNG, multipart
from tests.service.tiny import VARIANTS, encode, make_card


def test_compare_gives_what_predict_gives_for_every_variant(client: FlaskClient) -> None:
    parts = [("image", encode(PHOTO), "a.png"), ("image", encode(PHOTO.rotate(90)), "b.png")]
    compared = client.post("/compare?top_k=3", **multipart(parts)).json
    assert list(compared) == ["images", "models"]
    assert set(compared["models"]) == set(VARIANTS)
    for variant in VARIANTS:
        single = client.post(f"/predict?top_k=3&variant={variant}", **multipart(parts)).json
        assert [i["variants"][variant] for i in compared["images"]] == [
            i["top"] for i in single["images"]
        ]
        assert [i["name"] for i in compared["images"]] == ["a.png", "b.png"]
        facts = {k: single[k] for k in ("version", "provider", "dataset", "recipe")}
        assert compared["models"][variant] == facts


@pytest.mark.parametrize(
    ("version", "variants"), [(1, VARIANTS), (2, ("relu_with_bn",))], ids=["of all", "of one"]
)
def test_compare_asks_for_one_version_and_leaves_out_who_lacks_it(
    client: FlaskClient, version: int, variants: tuple[str, ...]
) -> None:
    compared = client.post(f"/compare?version={version}&top_k=3", data=PNG).json
    (image,) = compared["images"]
    assert tuple(image["variants"]) == tuple(compared["models"]) == variants
    for variant in variants:
        query = f"variant={variant}&version={version}&top_k=3"
        single = client.post(f"/predict?{query}", data=PNG).json
        assert image["variants"][variant] == single["images"][0]["top"]
        assert compared["models"][variant]["version"] == single["version"] == version


def test_models_are_listed_and_shown_whole(client: FlaskClient) -> None:
    listed = client.get("/models").json
    assert listed["default"] == "sigmoid_without_bn"
    assert [(m["variant"], m["version"], m["default"], m["current"]) for m in listed["models"]] == [
        ("relu_with_bn", 1, False, False),
        ("relu_with_bn", 2, False, True),
        ("sigmoid_without_bn", 1, True, True),
    ]
    assert "classes" not in listed["models"][0]["card"]
    shown = client.get("/models/relu_with_bn?version=1").json
    assert shown["file"] == "exported_models/relu_with_bn/1/model.onnx"
    card = make_card("relu_with_bn")
    assert shown["card"] == json.loads(json.dumps(asdict(card)))  # null and all
    assert client.get("/models/relu_with_bn").json["version"] == 2


def test_the_default_is_one_model_and_the_one_that_answers(
    settings: Settings, models_dir: Path, tmp_path: Path
) -> None:
    """Its variant has two versions here; each of the flags says who answers which request."""
    folder = shutil.copytree(models_dir, tmp_path / "models")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "default": "relu_with_bn"}))
    client = create_app(replace(settings, models_dir=folder)).test_client()
    models = client.get("/models").json["models"]

    def answered(query: str) -> tuple[str, int]:
        found = client.post(f"/predict{query}", data=PNG).json
        return found["variant"], found["version"]

    assert [(m["variant"], m["version"]) for m in models if m["default"]] == [answered("")]
    for variant in VARIANTS:
        current = [(m["variant"], m["version"]) for m in models if m["current"]]
        assert answered(f"?variant={variant}") in current
    assert len([m for m in models if m["current"]]) == len(VARIANTS)
    for each in models:
        shown = client.get(f"/models/{each['variant']}?version={each['version']}").json
        assert (shown["default"], shown["current"]) == (each["default"], each["current"])
