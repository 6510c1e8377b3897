"""Draw every example: ``python -m gallery`` writes service/static/examples/.

Beside the pictures stands index.json: [{"name", "title", "kind", "file"}], in the order of the
page. Photograph-like scenes are drawn here; pictures of the synthetic data set come from the
trainer's generator, and no net was trained on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from gallery import landscapes, still_lifes
from gallery.noise import Plane
from training.synthetic import SHAPES, TEXTURES, picture

FOLDER = Path(__file__).parents[1] / "service" / "static" / "examples"
SIDE = 256
OVERSAMPLING = 2
QUALITY = 82
SYNTHETIC_SEED = 1

SCENES: dict[str, Callable[[int], Plane]] = {
    "sunflower": landscapes.sunflower,
    "palm_tree": landscapes.palm_tree,
    "road": landscapes.road,
    "pear": still_lifes.pear,
    "sea": landscapes.sea,
    "skyscraper": landscapes.skyscraper,
    "cloud": landscapes.cloud,
    "apple": still_lifes.apple,
    "mountain": landscapes.mountain,
    "mushroom": still_lifes.mushroom,
}
SYNTHETIC = (("striped", "star"), ("dotted", "heart"))


@click.command()
def main() -> None:
    """Draw every example picture of the page again, into service/static/examples/."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    index = []
    for name, scene in SCENES.items():
        image = photograph(scene(SIDE * OVERSAMPLING))
        image.save(FOLDER / f"{name}.webp", quality=QUALITY, method=6)
        index.append(_entry(name, name.replace("_", " "), "photograph", f"{name}.webp"))
    for texture, shape in SYNTHETIC:
        label = list(SHAPES).index(shape) * len(TEXTURES) + list(TEXTURES).index(texture)
        name = f"{texture}_{shape}"
        Image.fromarray(picture(label, SYNTHETIC_SEED)).save(FOLDER / f"{name}.png", optimize=True)
        index.append(_entry(name, f"{texture} {shape}", "synthetic", f"{name}.png"))
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def photograph(scene: Plane) -> Image.Image:
    """Averaged down, with a lens's dark corners, a film's shoulder and a sensor's grain."""
    side = len(scene) // OVERSAMPLING
    image = scene.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean(axis=(1, 3))
    grid = np.linspace(-1, 1, side)
    image = image * (1 - 0.13 * (grid[None, :] ** 2 + grid[:, None] ** 2))[..., None]
    image = np.clip(image, 0, None)
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)
    grain = np.random.default_rng(0).normal(0, 0.008, (side, side, 1))
    return Image.fromarray((np.clip(image + grain, 0, 1) * 255 + 0.5).astype(np.uint8))


def _entry(name: str, title: str, kind: str, file: str) -> dict[str, str]:
    return {"name": name, "title": title, "kind": kind, "file": file}


if __name__ == "__main__":
    main()
