"""How long the service takes from nothing to its first answer, in three parts.

python -m benchmarks.cold_start                    this environment
python -m benchmarks.cold_start --root DIRECTORY   an image's file system, as its user; needs root

In: the shipped models. Out: one JSON object with the medians of ``--rounds`` starts, one at a time,
in milliseconds, and the memory of all processes after the first answer in 10^6 bytes (a page that
several share counts once):

process_start   until the interpreter runs its first line (measured with an empty program)
ready           from there until /health/ready answers 200: imports, fork, models loaded, checked
                and warmed up; the two greatest shares, measured alone: ``imports``, ``models``
first_answer    the first picture after that
total           all three, measured as one

Files are in the page cache after the first round, which does not count.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
from PIL import Image

from benchmarks.processes import START_LIMIT, proportional_megabytes

POLL = 0.002
"""Seconds between two looks at whether it is ready."""

IMPORTS = "import service.__main__, service.server, service.app"
MODELS = (
    "; from service.models.repository import open_repository; from service.settings import Settings"
)
TIMED = (
    "import time; t = time.perf_counter(); {imports}; i = time.perf_counter(); "
    "import os; open_repository(Settings.from_environment(os.environ)); "
    "print(1000 * (i - t), 1000 * (time.perf_counter() - i))"
)

MOUNT_AND_ENTER = (
    "for each in proc sys dev; do mount --rbind /$each $0/$each; done; "
    'cd /; exec chroot --userspec=10001:10001 "$0" '
    'sh -c \'cd /app; exec "$0" "$@"\' "$@"'
)


def command(root: Path | None, *arguments: str) -> list[str]:
    """The command line of Python with these arguments, here or in ``root``."""
    if root is None:
        return [sys.executable, *arguments]
    return ["unshare", "--mount", "sh", "-ec", MOUNT_AND_ENTER, str(root), "python3", *arguments]


def environment(root: Path | None) -> dict[str, str]:
    """What is started sees: in ``root`` what its image sets, and nothing of this process's."""
    if root is None:
        return dict(os.environ)
    path = "/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def interpreter(root: Path | None) -> float:
    """Milliseconds of an empty program."""
    started = time.perf_counter()
    subprocess.run(command(root, "-c", "pass"), env=environment(root), check=True)
    return 1000 * (time.perf_counter() - started)


def shares(root: Path | None) -> tuple[float, float]:
    """Milliseconds of the imports and of the models, in a process of their own."""
    program = TIMED.format(imports=IMPORTS + MODELS)
    done = subprocess.run(
        command(root, "-c", program),
        env=environment(root),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    imports, models = map(float, done.stdout.split())
    return imports, models


def start(root: Path | None, picture: bytes) -> tuple[float, float, float]:
    """Milliseconds until ready and of the first answer, and the resident memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"PORT": str(port), "LOG_LEVEL": "warning", "DRAIN_SECONDS": "0"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command(root, "-m", "service"),
        env={**environment(root), **variables},
        stdout=subprocess.DEVNULL,
    )
    try:
        while _ask(port, "GET", "/health/ready") != http.HTTPStatus.OK:
            if process.poll() is not None or time.perf_counter() - started > START_LIMIT:
                raise click.ClickException("the service does not become ready")
            time.sleep(POLL)
        ready = time.perf_counter()
        if _ask(port, "POST", "/predict", picture) != http.HTTPStatus.OK:
            raise click.ClickException("the service does not answer")
        answered = time.perf_counter()
        return (
            1000 * (ready - started),
            1000 * (answered - ready),
            proportional_megabytes(process.pid),
        )
    finally:
        process.terminate()
        process.wait(START_LIMIT)


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    return None


def _picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return file.getvalue()


@click.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="An image's file system to start it in, which needs root. Default: this environment.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="Starts that count."
)
def main(root: Path | None, rounds: int) -> None:
    """Start the service over and over, and print the medians in milliseconds and megabytes."""
    picture = _picture()
    found: dict[str, list[float]] = {}
    for index in range(rounds + 1):
        empty = interpreter(root)
        imports, models = shares(root)
        ready, first, memory = start(root, picture)
        if index == 0:
            continue
        for name, value in (
            ("process_start", empty),
            ("ready", ready - empty),
            ("imports", imports),
            ("models", models),
            ("first_answer", first),
            ("total", ready + first),
            ("megabytes", memory),
        ):
            found.setdefault(name, []).append(value)
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    click.echo(json.dumps({"rounds": rounds, **medians}))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.cold_start")
