"""OpenTelemetry's standard instrumentation of Flask sees the service's requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.instrumentation.flask")
pytest.importorskip("opentelemetry.sdk")

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PROGRAM = f"""
import sys
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
FRONT
from service.app import create_app
from service.settings import Settings
app = create_app(Settings.from_environment({{"MODELS_DIR": sys.argv[1]}}))
BACK
client = app.test_client()
trace_of = {{"traceparent": "00-{TRACE}-{SPAN}-01"}}
assert client.get("/models/relu_with_bn", headers=trace_of).status_code == 200
assert client.post("/predict", data=b"no picture").status_code == 415
known, bad = spans.get_finished_spans()
assert known.name == "GET /models/<variant>", known.name
assert known.attributes["http.route"] == "/models/<variant>"
assert format(known.context.trace_id, "032x") == "{TRACE}"
assert format(known.parent.span_id, "016x") == "{SPAN}"
assert bad.name == "POST /predict" and bad.parent is None
names = "http.status_code", "http.response.status_code"  # the older convention, and the newer
assert 415 in [bad.attributes.get(name) for name in names]
"""


@pytest.mark.parametrize(
    ("front", "back"),
    [
        # As the command opentelemetry-instrument does it, before anything imports Flask.
        ("FlaskInstrumentor().instrument()", ""),
        ("", "FlaskInstrumentor().instrument_app(app)"),
    ],
)
def test_every_request_is_a_span_under_its_callers(models_dir: Path, front: str, back: str) -> None:
    program = PROGRAM.replace("FRONT", front).replace("BACK", back)
    command = [sys.executable, "-c", program, str(models_dir)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
