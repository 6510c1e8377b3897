"""The demonstration asks the service that it has started, whatever the machine is set up for."""

from __future__ import annotations

import socket

import pytest

from tests.served import ROOT
from training import demo


def test_a_proxy_for_other_machines_is_not_asked_for_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where http_proxy is set, and no_proxy is not: the proxy here refuses every connection."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(demo, "SERVICE_SECONDS", 20.0)
        picture = (ROOT / "service/static/examples/pear.webp").read_bytes()
        with demo.service(ROOT / "exported_models") as url:
            answer = demo.post(f"{url}/predict?top_k=1", picture)
    assert answer["images"][0]["top"][0]["label"] == "pear"
