"""What an export has published, and what Keras answers to compare it with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path; without the lock, which no image and no commit holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def listed(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    return {(entry["variant"], entry["version"]): entry for entry in manifest["models"]}


def keras_answers(net: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(net(images.astype(np.float32), training=False))
