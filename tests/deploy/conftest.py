"""The application with the models that are shipped."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from flask import Flask

from service.app import create_app
from service.settings import Settings
from tests.deploy.container import ROOT


@pytest.fixture(scope="session")
def app() -> Flask:
    return create_app(Settings.from_environment({"MODELS_DIR": str(ROOT / "exported_models")}))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Started in the background by a script, the tests and all that they start ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
