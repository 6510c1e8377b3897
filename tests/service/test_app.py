"""Readiness, and what the service is made of."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.models.runtime import GpuError, why_no_gpu
from service.settings import Settings
from tests.service.hostile import PHOTO
from tests.service.tiny import encode


def broken_client(settings: Settings, folder: Path) -> FlaskClient:
    return create_app(replace(settings, models_dir=folder)).test_client()


def assert_alive_but_not_ready(client: FlaskClient, words: str, secret: Path) -> None:
    assert client.get("/health/live").status_code == 200
    for response in (
        client.get("/health/ready"),
        client.get("/models"),
        client.post("/predict", data=encode(PHOTO)),
        client.post("/compare", data=encode(PHOTO)),
    ):
        assert response.status_code == 503
        assert response.content_type == "application/problem+json"
        detail = json.loads(response.text)["detail"]
        assert words in detail
        assert str(secret) not in detail


def test_a_changed_model_is_named_and_the_service_is_not_ready(
    settings: Settings, models_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(models_dir, tmp_path / "exported_models")
    path = folder / "relu_with_bn/2/model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    client = broken_client(settings, folder)
    assert_alive_but_not_ready(
        client, "exported_models/relu_with_bn/2/model.onnx: sha256 is ", tmp_path
    )
    # Whoever runs the service is told where the folder is; those who ask it are not.
    assert f"served: {folder}/relu_with_bn/2/model.onnx: sha256 is " in caplog.text


def test_a_missing_and_a_broken_manifest_are_named(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "exported_models"
    words = "exported_models/manifest.json: "
    assert_alive_but_not_ready(broken_client(settings, folder), words, tmp_path)
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    assert_alive_but_not_ready(broken_client(settings, folder), words, tmp_path)


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_a_required_gpu_that_is_missing_keeps_the_application_from_starting(
    settings: Settings,
) -> None:
    with pytest.raises(GpuError, match="REQUIRE_GPU=1, but no GPU works"):
        create_app(replace(settings, require_gpu=True))


def test_the_service_never_imports_the_trainer_or_its_frameworks(models_dir: Path) -> None:
    program = """
import sys
from service.app import create_app
from service.settings import Settings
client = create_app(Settings.from_environment({"MODELS_DIR": sys.argv[1]})).test_client()
assert client.get("/health/ready").status_code == 200
assert client.post("/predict", data=sys.stdin.buffer.read()).status_code == 200
import service.__main__, service.server
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, models_dir],
        input=encode(PHOTO),
        capture_output=True,
        check=True,
    )
    loaded = run.stdout.decode().split()
    assert "flask" in loaded
    assert not {"training", "tensorflow", "keras", "tf2onnx", "onnx", "jax"} & set(loaded)
    assert run.stderr == b""


@pytest.mark.parametrize(
    "module", ["service.models.repository", "service.pictures", "service.models.card"]
)
def test_what_the_trainer_imports_of_the_service_brings_no_web_framework(module: str) -> None:
    program = f"import sys, {module}; print('flask' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.strip() == b"False"
