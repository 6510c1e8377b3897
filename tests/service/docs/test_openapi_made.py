"""The OpenAPI document is made once, only when it is asked for, and beside the event loop."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import create_environ

from service.app import create_app
from service.docs.document import make_document
from service.http.wsgi import call
from service.settings import Settings
from tests.service.hostile import PHOTO
from tests.service.http.test_waiting import in_turn
from tests.service.tiny import encode

PNG = encode(PHOTO)


def test_it_is_made_once_beside_the_event_loop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, makers = create_app(settings), list[threading.Thread]()

    def make(app: Flask) -> dict[str, Any]:
        makers.append(threading.current_thread())
        return make_document(app)

    def ask() -> dict[str, Any]:
        answer = asyncio.run(in_turn(lambda: call(app, create_environ("/openapi.json"))))
        assert answer.head.startswith(b"HTTP/1.1 200 ")
        document: dict[str, Any] = json.loads(answer.body)
        return document

    monkeypatch.setattr("service.docs.document.make_document", make)
    first = ask()
    monkeypatch.setattr("service.docs.routes.json.dumps", None)  # nor is it written again
    assert ask() == first
    assert len(makers) == 1
    assert makers != [threading.main_thread()]


def test_nothing_of_it_is_made_or_imported_before_it_is_asked_for(models_dir: Path) -> None:
    program = """
import sys
from service.app import create_app
from service.settings import Settings
client = create_app(Settings.from_environment({"MODELS_DIR": sys.argv[1]})).test_client()
assert client.post("/predict", data=sys.stdin.buffer.read()).status_code == 200
print("service.docs.document" in sys.modules, "apispec" in sys.modules)
assert client.get("/openapi.json").status_code == 200
print("service.docs.document" in sys.modules, "apispec" in sys.modules)
assert client.get("/docs").status_code == 200
heavy = {"pydantic", "marshmallow", "yaml", "jsonschema", "onnx"} & set(sys.modules)
print(sorted(heavy))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, models_dir], input=PNG, capture_output=True, check=True
    )
    assert run.stdout.decode().split("\n") == ["False False", "True True", "[]", ""]
