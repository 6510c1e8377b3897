"""The example pictures are what ``python -m gallery`` draws, and none of a data set's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery.__main__ import (
    FOLDER,
    OVERSAMPLING,
    SCENES,
    SIDE,
    SYNTHETIC,
    SYNTHETIC_SEED,
    photograph,
)
from training.synthetic import SHAPES, TEXTURES, picture

EXPORTED = Path(__file__).parents[1] / "exported_models"
INDEX = json.loads((FOLDER / "index.json").read_text())


def test_the_index_lists_every_scene_and_every_file() -> None:
    drawn = [entry["name"] for entry in INDEX if entry["kind"] == "photograph"]
    assert drawn == list(SCENES)
    labels = (EXPORTED / "relu_with_bn" / "labels.txt").read_text().split()
    assert set(drawn) <= set(labels)  # so that a net can be right about them
    files = {path.name for path in Path(FOLDER).iterdir()} - {"index.json"}
    assert files == {entry["file"] for entry in INDEX}
    assert len(INDEX) >= 12


@pytest.mark.parametrize("name", ["sea", "cloud", "pear"])
def test_a_scene_is_drawn_again_as_it_is_shown(name: str) -> None:
    again = np.asarray(photograph(SCENES[name](SIDE * OVERSAMPLING)), np.int16)
    with Image.open(FOLDER / f"{name}.webp") as stored:
        shown = np.asarray(stored.convert("RGB"), np.int16)
    assert shown.shape == again.shape
    assert np.abs(shown - again).mean() < 4  # what WebP loses


@pytest.mark.parametrize(("texture", "shape"), SYNTHETIC)
def test_a_drawn_example_is_the_trainers_to_the_byte(texture: str, shape: str) -> None:
    label = list(SHAPES).index(shape) * len(TEXTURES) + list(TEXTURES).index(texture)
    with Image.open(FOLDER / f"{texture}_{shape}.png") as stored:
        assert np.array_equal(np.asarray(stored.convert("RGB")), picture(label, SYNTHETIC_SEED))
