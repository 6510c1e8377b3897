"""Synthetic data -> train -> export -> serve -> a real HTTP client, each a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.served import ROOT, serving

# The default variant comes last: the order of the export must not decide who answers.
VARIANTS = ("sigmoid_without_bn", "relu_with_bn")


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained trials and exported models, made by the commands a user gives."""
    folder = tmp_path_factory.mktemp("whole-way")
    variants = ",".join(VARIANTS)
    fitted = ("--recipe", "demo", "--variants", variants)
    run("training", "train", *fitted, "--steps", "30", cwd=folder)
    run("training", "export", *fitted, cwd=folder)
    run("training", "compare", "--recipe", "demo", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[str]:
    """The address of a running service on the exported models."""
    with serving(exported / "exported_models") as url:
        yield url


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_that_was_asked_answers_as_keras_does(
    exported: Path, service: str, variant: str
) -> None:
    import keras

    from training.data import load

    pictures = load("synthetic").test_images[:20]
    net = keras.saving.load_model(
        exported / "runs" / "demo" / variant / "seed-0" / "frozen.keras", compile=False
    )
    expected = net.predict(pictures.astype(np.float32), verbose=0)
    for picture, row in zip(pictures, expected, strict=True):
        answer = requests.post(
            f"{service}/predict",
            params={"variant": variant, "top_k": 100},
            data=png(picture),
            headers={"Content-Type": "image/png"},
            timeout=30,
        ).json()
        assert answer["variant"] == variant
        assert answer["dataset"] == "synthetic"
        found = {each["index"]: each["probability"] for each in answer["images"][0]["top"]}
        assert len(found) == 100
        for index, probability in found.items():
            assert probability == pytest.approx(float(row[index]), abs=1e-5)


def test_a_picture_answers_the_same_alone_and_in_a_batch_over_http(service: str) -> None:
    from training.data import load

    pictures = [png(picture) for picture in load("synthetic").test_images[:16]]
    together = requests.post(
        f"{service}/predict",
        files=[("image", (f"{i}.png", data, "image/png")) for i, data in enumerate(pictures)],
        timeout=30,
    ).json()
    assert together["variant"] == "relu_with_bn"  # the default
    for number, (data, in_batch) in enumerate(zip(pictures, together["images"], strict=True)):
        alone = requests.post(f"{service}/predict", data=data, timeout=30).json()["images"][0]
        assert in_batch["name"] == f"{number}.png"
        assert [each["label"] for each in alone["top"]] == [
            each["label"] for each in in_batch["top"]
        ]
        for one, other in zip(alone["top"], in_batch["top"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_compare_answers_for_every_variant_and_the_cards_tell_the_truth(
    exported: Path, service: str
) -> None:
    from training.data import load

    answer = requests.post(
        f"{service}/compare", data=png(load("synthetic").test_images[0]), timeout=30
    ).json()
    assert set(answer["images"][0]["variants"]) == set(VARIANTS)
    for variant in VARIANTS:
        card = requests.get(f"{service}/models/{variant}", timeout=30).json()["card"]
        record = json.loads(
            (exported / "runs" / "demo" / variant / "seed-0" / "trial.json").read_text()
        )
        assert card["training"]["steps"] == record["outcome"]["steps"] == 30
        assert card["evaluation"]["after_freeze"] == record["freeze"]["after"]
        assert card["dataset"]["name"] == "synthetic"


def test_the_page_shows_the_models_and_their_study(exported: Path, service: str) -> None:
    page = requests.get(service, timeout=30).text
    assert "trained on drawn pictures, not on photographs" in " ".join(page.split())
    assert "2 of the study's four variants" in " ".join(page.split())
    content = json.loads((exported / "exported_models" / "comparison.json").read_text())
    (section,) = content["recipes"]
    for row in section["summary"]:
        assert f"{100 * row['before']['top1']['mean']:.1f}\u202f%" in page
        assert f'class="curve {row["variant"]}"' in page


def test_the_comparison_stands_beside_the_models(exported: Path) -> None:
    models = exported / "exported_models"
    content = json.loads((models / "comparison.json").read_text())
    (section,) = content["recipes"]
    assert [row["variant"] for row in section["summary"]] == ["sigmoid_without_bn", "relu_with_bn"]
    assert "relu_with_bn" in (models / "comparison.md").read_text()
    with Image.open(models / "comparison.png") as figure:
        assert figure.width > 1000
    assert (models / "comparison.svg").read_text().startswith("<?xml")


def test_training_again_and_exporting_again_do_nothing(exported: Path) -> None:
    fitted = ("--recipe", "demo", "--variants", "relu_with_bn")
    before = (exported / "exported_models" / "manifest.json").read_bytes()
    assert "nothing to fit" in run("training", "train", *fitted, "--steps", "30", cwd=exported)
    assert "nothing to publish" in run("training", "export", *fitted, cwd=exported)
    assert (exported / "exported_models" / "manifest.json").read_bytes() == before


def test_a_picture_can_be_classified_without_a_server(exported: Path, tmp_path: Path) -> None:
    from training.data import load

    path = tmp_path / "picture.png"
    path.write_bytes(png(load("synthetic").test_images[3]))
    answer = run("service", "predict", str(path), "--json", cwd=exported)
    assert "probability" in answer
