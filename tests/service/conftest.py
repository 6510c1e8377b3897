"""The application with two tiny variants, one of them in two versions, and its clients.

Every client holds what it is answered against the OpenAPI document (``tests.service.contract``).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis_settings

from service.app import ServiceApp, create_app
from service.settings import Settings
from tests.service.contract import ContractClient
from tests.service.tiny import VARIANTS, make_card, make_model, write_repository

# Helpers whose assertions say as much as the tests' own where they fail.
pytest.register_assert_rewrite(
    *(f"tests.service.{name}" for name in ("clients", "counted", "engines", "oip", "trouble"))
)

# The same cases every time where a failure must mean a change; new ones at a developer's desk.
hypothesis_settings.register_profile("service", deadline=None, derandomize="CI" in os.environ)
hypothesis_settings.load_profile("service")
ServiceApp.test_client_class = ContractClient


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {(v, 1): make_model(v, make_card(v).to_json()) for v in VARIANTS}
    files["relu_with_bn", 2] = make_model("newer", make_card("relu_with_bn").to_json())
    folder = tmp_path_factory.mktemp("models") / "exported_models"
    return write_repository(folder, files, default="sigmoid_without_bn")


@pytest.fixture(scope="session")
def settings(models_dir: Path) -> Settings:
    environment = {"MODELS_DIR": str(models_dir), "ORT_THREADS": "1"}
    return Settings.from_environment(environment)


@pytest.fixture(scope="session")
def app(settings: Settings) -> Flask:
    limits = replace(settings, max_body_bytes=1 << 20, max_pixels=1_000_000, max_images=4)
    return create_app(limits)


@pytest.fixture(scope="session")
def document(app: Flask) -> dict[str, Any]:
    """``/openapi.json``, as the application tells it."""
    found: dict[str, Any] = app.test_client().get("/openapi.json").json
    return found


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Eight pictures, uint8 [8, 32, 32, 3]."""
    return np.random.default_rng(7).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
