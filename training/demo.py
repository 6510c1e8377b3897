"""The whole way in one go, on drawn pictures: fit, freeze, export, serve, and ask the service.

Everything lands in one folder: ``runs/``, ``exported_models/`` with the comparison, and the picture
that was posted. The service is a process of its own on 127.0.0.1, asked over HTTP, then stopped.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.settings import SETTINGS
from training.compare import compare
from training.data import load
from training.dataset import Dataset, Images
from training.evaluate import predict
from training.export import export
from training.fit import fit
from training.freeze import freeze, read_frozen
from training.graph import refuse_other_backends
from training.recipes import RECIPES
from training.repository import make_folder
from training.table import markdown
from training.trial import Trial
from training.variants import VARIANTS

SERVICE_SECONDS = 60.0  # how long the service may take to become ready, or to stop
ASKED = "relu_with_bn"
# http_proxy and the like are for other machines; a proxy would ask itself for 127.0.0.1.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """The service did not do what it should; the message says what it said."""


def demo(folder: Path, say: Callable[[str], None] = print) -> None:
    """Run the demonstration in ``folder``; what is done there already is not done again.

    Raises ``DemoError`` where the service does not do as it should, ``ExportError`` where
    ``folder`` cannot be written or Keras does not run on TensorFlow.
    """
    refuse_other_backends()  # it would, at the export
    make_folder(folder)
    started = time.monotonic()
    recipe = RECIPES["demo"]
    dataset = load(recipe.dataset)
    say(
        f"1. fit: four nets, {recipe.steps:,} steps of {recipe.batch} drawn pictures each "
        f"({len(dataset.class_names)} classes)"
    )
    trials = [Trial(recipe, variant, seed=0, runs=folder / "runs") for variant in VARIANTS.values()]
    records = [fit(trial, dataset, say=say) for trial in trials]
    say("2. freeze: population statistics take the moving averages' place")
    for trial, record in zip(trials, records, strict=True):
        if record["status"] != "frozen":
            freeze(trial.folder, dataset, say=say)
    say("3. export: ONNX files, each proved against Keras before it is published")
    models = folder / "exported_models"
    for trial in trials:
        export(trial.folder, dataset, models, say=say)
    content = compare(folder / "runs", recipe.name, models, say=lambda _: None)
    say("4. serve: a picture posted to the exported models")
    asked = next(trial for trial in trials if trial.variant.name == ASKED)
    _serve_and_ask(folder, models, dataset, asked, say)
    say("")
    say(
        f"{recipe.steps} steps are too few to be right often. What they show: Keras, ONNX and the "
        "service say the same, and what the freeze is worth.\n"
    )
    say(markdown(content))
    say(f"Figure: {models / 'comparison.png'}")
    say(f"Serve these models yourself: make serve MODELS={models}")
    say(f"Done in {time.monotonic() - started:.0f} s.")


def _serve_and_ask(
    folder: Path, models: Path, dataset: Dataset, asked: Trial, say: Callable[[str], None]
) -> None:
    picture: Images = dataset.test_images[0]
    label = dataset.class_names[dataset.test_labels[0]]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    path = folder / "picture.png"
    path.write_bytes(buffer.getvalue())
    with service(models) as url:
        say(f"   curl --data-binary @{path} '{url}/predict?variant={ASKED}'")
        answer = post(f"{url}/predict?variant={ASKED}", buffer.getvalue())
        say(json.dumps(answer, indent=2))
        everyone = post(f"{url}/compare?top_k=1", buffer.getvalue())["images"][0]["variants"]
    for name, top in everyone.items():
        say(f"   {name:<20} {top[0]['label']:<20} {top[0]['probability']:.3f}")
    say(f"   {'(drawn as)':<20} {label}")
    _, net = read_frozen(asked.folder)
    expected = predict(net, picture[None])[0]
    top = answer["images"][0]["top"]
    error = max(abs(each["probability"] - float(expected[each["index"]])) for each in top)
    if top[0]["index"] != int(np.argmax(expected)) or error > 1e-5:
        raise DemoError(f"the service's answer differs from Keras' by {error:.1e}")
    say(f"   Keras, on the same picture, differs by {error:.1e} at most")


@contextmanager
def service(models: Path) -> Iterator[str]:
    """The service in a process of its own on a free port of 127.0.0.1; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {setting.name for setting in SETTINGS}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in own},
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "MODELS_DIR": str(models),
        "LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(SERVICE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def post(url: str, body: bytes) -> Any:
    """POST a picture's bytes and return the answer's JSON. Raises ``DemoError``."""
    request = urllib.request.Request(url, body, {"Content-Type": "image/png"})  # noqa: S310
    try:
        with DIRECT.open(request, timeout=SERVICE_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + SERVICE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the service ended with status {process.returncode}")
        try:
            with DIRECT.open(f"{url}/health/ready", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise DemoError(f"the service was not ready after {SERVICE_SECONDS:.0f} s")
