"""Where something was run, as the records say it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ON_AN_H100 = """
import types
import jax, keras
jax.devices = lambda: [types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")]
from training.environment import hardware
print(hardware())
"""


def test_the_hardware_is_that_of_the_backend_wherever_it_was_chosen(tmp_path: Path) -> None:
    """In Keras' own file, where KERAS_BACKEND is not set."""
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("KERAS_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_H100],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "NVIDIA H100 80GB HBM3", done.stderr
