"""The shipped models: their cards, the comparison and the test pictures say the same, and every
version of them is served.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from service.app import create_app
from service.models.manifest import Entry, Manifest
from service.models.repository import load_model
from service.settings import Settings

MODELS = Path(__file__).parents[2] / "exported_models"
MANIFEST = Manifest.from_json((MODELS / "manifest.json").read_text())
COMPARISON = json.loads((MODELS / "comparison.json").read_text())

every_model = pytest.mark.parametrize(
    "entry", MANIFEST.models, ids=lambda entry: f"{entry.variant}-{entry.version}"
)


def card_of(entry: Entry) -> Any:
    return load_model(MODELS / entry.file, sha256=entry.sha256, version=entry.version).card


@pytest.fixture(scope="module")
def test_pictures() -> tuple[np.ndarray, np.ndarray]:
    if "CIFAR100_DIR" not in os.environ:
        pytest.skip("CIFAR-100 is not part of the repository: name it with CIFAR100_DIR")
    from training import cifar100

    dataset = cifar100.load()
    return dataset.test_images, dataset.test_labels


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    environment = {"MODELS_DIR": str(MODELS), "ORT_THREADS": "1", "LOG_LEVEL": "error"}
    return create_app(Settings.from_environment(environment)).test_client()


@every_model
def test_the_card_says_what_the_test_pictures_say(
    entry: Entry, test_pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    """Every picture through the file that ships: to 0.05 points."""
    images, labels = test_pictures
    model = load_model(MODELS / entry.file, sha256=entry.sha256, version=entry.version)
    answers = np.concatenate([model.run(part) for part in np.array_split(images, 100)])
    own = answers[np.arange(len(labels)), labels]
    ties = (answers == own[:, None]) & (np.arange(100) < labels[:, None])
    rank = (answers > own[:, None]).sum(axis=1) + ties.sum(axis=1)
    said = model.card.evaluation.after_freeze
    assert model.card.evaluation.images == len(labels) == 10_000
    assert (rank == 0).mean() == pytest.approx(said.top1, abs=5e-4)
    assert (rank < 5).mean() == pytest.approx(said.top5, abs=5e-4)
    assert -np.log(own.astype(np.float64)).mean() == pytest.approx(said.loss, abs=1e-3)


@every_model
def test_the_card_says_what_the_comparison_says(entry: Entry) -> None:
    card = card_of(entry)
    (section,) = [each for each in COMPARISON["recipes"] if each["recipe"] == entry.recipe]
    (trial,) = [
        each
        for each in section["trials"]
        if (each["variant"], each["seed"]) == (card.variant, card.seed)
    ]
    assert trial["dataset"]["checksum"] == card.dataset.checksum
    assert (trial["steps"], trial["images"]) == (card.training.steps, card.training.images)
    assert trial["precision"] == card.training.precision
    assert trial["hardware"] == card.training.hardware
    for stage, score in (
        ("before", card.evaluation.before_freeze),
        ("after", card.evaluation.after_freeze),
    ):
        for figure in ("top1", "top5", "loss"):
            assert trial["freeze"][stage][figure] == getattr(score, figure)
    assert entry.top1 == card.evaluation.after_freeze.top1
    assert entry.recipe == card.recipe


@every_model
def test_every_version_answers_for_itself(entry: Entry, client: FlaskClient) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG")
    where = f"/predict?variant={entry.variant}&version={entry.version}&top_k=100"
    answer = client.post(where, data=body.getvalue())
    assert answer.status_code == 200
    assert answer.json["version"] == entry.version
    assert answer.json["recipe"] == entry.recipe
    model = load_model(MODELS / entry.file, sha256=entry.sha256, version=entry.version)
    expected = model.run(pixels[None])[0]
    for each in answer.json["images"][0]["top"]:
        assert each["probability"] == pytest.approx(float(expected[each["index"]]), abs=1e-6)
    ready = client.get(f"/v2/models/{entry.variant}/versions/{entry.version}/ready")
    assert ready.status_code == 200
    shown = client.get(f"/models/{entry.variant}?version={entry.version}").json
    assert shown["card"]["training"]["steps"] == model.card.training.steps


def test_without_a_version_the_newest_of_the_default_answers(client: FlaskClient) -> None:
    assert MANIFEST.default == "relu_with_bn"
    newest = max(e.version for e in MANIFEST.models if e.variant == MANIFEST.default)
    body = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(body, "PNG")
    answer = client.post("/predict", data=body.getvalue()).json
    assert (answer["variant"], answer["version"]) == ("relu_with_bn", newest)
