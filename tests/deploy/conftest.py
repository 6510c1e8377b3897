"""The application with the models that are shipped."""

from __future__ import annotations

import pytest
from flask import Flask

from service.app import create_app
from service.settings import Settings
from tests.deploy.container import ROOT


@pytest.fixture(scope="session")
def app() -> Flask:
    return create_app(Settings.from_environment({"MODELS_DIR": str(ROOT / "exported_models")}))
