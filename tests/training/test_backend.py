"""Keras' backend computes as the recipes say, with the threads that the environment tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.backend import threads_told

BY_KERAS_FILE = """
import keras
from training import nets
from training.recipes import RECIPES
from training.variants import VARIANTS
print(keras.config.floatx(), keras.config.image_data_format())
net = nets.build(RECIPES["article"], VARIANTS["relu_with_bn"], 120.0, seed=0)
print(*{layer.compute_dtype for layer in net.layers}, net.count_params())
print(net.get_layer("block1_pool").output.shape)
"""


def test_what_keras_own_file_says_of_nets_is_not_heeded(tmp_path: Path) -> None:
    """As where it was written for another project. The backend is chosen there, and is heeded."""
    own = {"floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(own))
    done = subprocess.run(
        [sys.executable, "-c", BY_KERAS_FILE],
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == [
        "float32 channels_last",
        "float32 415920",
        "(None, 16, 16, 60)",
    ], done.stderr


@pytest.mark.parametrize(("value", "told"), [("3", 3), ("0", None), ("", None), ("many", None)])
def test_threads_are_a_number_or_are_not_told(
    value: str, told: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", value)
    assert threads_told("TF_NUM_INTRAOP_THREADS") == told
