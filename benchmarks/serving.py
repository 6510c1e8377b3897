"""How fast, how lean and how steady the service is, next to what the machine could do.

python -m benchmarks.serving                     about four minutes; prints a Markdown table

In: a model repository. Out: a table with the median of the rounds for each case, and whether the
project's goals are met. All runs are of limited time and on loopback, with the load generator on
the same CPUs. Within a round the cases follow one another, so that other work on the machine
affects all of them; shares of the ceiling are taken within a round.

Ceiling: the same PNG decoded and run through ONNX Runtime in this process by one thread a CPU,
without HTTP; for tensors of 32 pictures, ONNX Runtime alone on such a batch in each thread. Memory
is that of all the service's processes together, shared pages counted once, as a control group
counts them. Plain: ``benchmarks/plain.py``, twenty lines of Flask under gunicorn
gthread 2 x 4. Bare: ``benchmarks/bare.py``, the least that a Python service must do.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.bodies import MULTIPART, infer_request, make_picture, multipart
from benchmarks.load import percentile
from benchmarks.processes import (
    Server,
    load,
    proportional_megabytes,
    resident_megabytes,
    serving,
)
from service.cpus import usable_cpus
from service.models.model import Model
from service.models.repository import load_repository
from service.pictures import decode

STARTS = 5
OVERLOAD_CONNECTIONS = 256
SERVICE = [sys.executable, "-m", "service"]
BARE = [sys.executable, "-m", "benchmarks.bare"]
PLAIN = [
    *(sys.executable, "-m", "gunicorn", "benchmarks.plain:app", "--bind", "127.0.0.1:{port}"),
    *("--worker-class", "gthread", "--workers", str(usable_cpus()), "--threads", "4"),
    *("--log-level", "warning"),
]


@dataclass
class Case:
    """One row: what is measured, round by round, and the least share of the ceiling allowed.

    ``pictures`` is how many one answer is for.
    """

    name: str
    measure: Callable[[], dict[str, Any]]
    bar: float | None = None
    ceiling: Case | None = None
    pictures: int = 1
    rates: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def add(self, report: dict[str, Any]) -> None:
        """One round's measurement, as ``benchmarks.load`` reports it."""
        self.rates.append(report["rate"] * self.pictures)
        self.p50.append(report["statuses"]["200"]["p50"])
        self.p99.append(report["statuses"]["200"]["p99"])
        self.cpu_ms.append(report["cpu_ms"] / self.pictures)


@click.command()
@click.option(
    "--models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="exported_models",
    show_default=True,
    help="The model repository; its default model is asked.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of all cases."
)
@click.option("--seconds", type=float, default=4, show_default=True, help="Of each measurement.")
@click.option(
    "--overload-seconds",
    type=float,
    default=60,
    show_default=True,
    help="Of twice the load that can be served.",
)
def main(models: Path, rounds: int, seconds: float, overload_seconds: float) -> None:
    """Measure the service and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        measure(models, Path(folder), rounds, seconds, overload_seconds)


def measure(
    models: Path, folder: Path, rounds: int, seconds: float, overload_seconds: float
) -> None:
    """Run every case in every round and print what came out."""
    png, form, tensor = (folder / f"picture.{kind}" for kind in ("png", "form", "tensor"))
    png.write_bytes(make_picture())
    form.write_bytes(multipart(png.read_bytes()))
    model = load_repository(models).get()
    pixels = decode(png.read_bytes(), max_pixels=1 << 20)
    right = f'"index":{int(model.run(pixels[None])[0].argmax())},'
    body, header_length = infer_request(pixels, 32)
    tensor.write_bytes(body)
    click.echo(f"{hardware()}. Median of {rounds} rounds of {seconds:g} s.\n")

    service = SERVICE, {"MODELS_DIR": str(models)}
    starts = []
    for _ in range(STARTS + 1):
        with serving(*service, png.read_bytes(), right) as server:
            starts.append(server.start_seconds)
    plain = PLAIN, {"MODEL": str(models / model.variant / str(model.version) / "model.onnx")}
    bare = BARE, {"MODELS_DIR": str(models)}
    with (
        serving(*service, png.read_bytes(), right) as ours,
        serving(*plain, png.read_bytes(), right) as theirs,
        serving(*bare, png.read_bytes(), right) as least,
    ):

        def http(
            server: Server,
            connections: int,
            *,
            file: Path = png,
            expect: str = right,
            **options: object,
        ) -> dict[str, Any]:
            kind = MULTIPART if file is form else "image/png"
            return load(
                server,
                file,
                expect,
                connections=connections,
                seconds=seconds,
                warm_up=0.5,
                content_type=kind,
                **options,
            )

        def infer(connections: int) -> dict[str, Any]:
            return http(
                ours,
                connections,
                file=tensor,
                expect='"probabilities"',
                path=f"/v2/models/{model.variant}/infer",
                header=f"Inference-Header-Content-Length: {header_length}",
            )

        batches = Case("batches of 32, no HTTP", lambda: run_batches(model, pixels, seconds))
        cases = [
            Case("ceiling, no HTTP", lambda: in_process(model, png, seconds, usable_cpus())),
            Case("one picture in process", lambda: in_process(model, png, seconds / 2, 1)),
            Case("raw PNG, 1 connection", lambda: http(ours, 1)),
            Case("raw PNG, 8 connections", lambda: http(ours, 8), 0.75),
            Case("raw PNG, 32 connections", lambda: http(ours, 32), 0.75),
            Case("multipart, 8 connections", lambda: http(ours, 8, file=form), 0.68),
            Case("plain Flask + gunicorn, raw PNG, 8 connections", lambda: http(theirs, 8)),
            Case("bare Python, raw PNG, 8 connections", lambda: http(least, 8)),
            batches,
            Case(
                "/v2 infer, binary, 32 pictures, 4 connections", lambda: infer(4), 0.9, batches, 32
            ),
        ]
        run_rounds(cases, rounds)
        report(cases)
        ceiling, alone, one, eight, many, _, baseline, floor, *_ = cases
        memory = proportional_megabytes(ours.pid)
        best = statistics.median(eight.rates + many.rates)
        over = load(
            ours,
            png,
            right,
            connections=OVERLOAD_CONNECTIONS,
            seconds=overload_seconds,
            warm_up=1,
            rate=2 * best,
        )
        memory_after = proportional_megabytes(ours.pid)
        resident = resident_megabytes(ours.pid)

    factors = [a / b for a, b in zip(eight.rates, baseline.rates, strict=True)]
    bounds = [a / b for a, b in zip(floor.rates, baseline.rates, strict=True)]
    extra = [a - b for a, b in zip(one.p50, alone.p50, strict=True)]
    tails = [a / b for a, b in zip(eight.p99, eight.p50, strict=True)]
    refused = over["statuses"].get("503", {"count": 0, "p50": 0.0, "p99": 0.0})
    others = sum(each["count"] for each in over["statuses"].values()) - over["ok"]
    click.echo("\n| what | measured | bar |\n| --- | --- | --- |")
    for what, value, bar, met in [
        ("8 connections / plain Flask", *_at_least(statistics.median(factors), 1.35, "x")),
        ("1 connection p50 - in process, ms", *_at_most(statistics.median(extra), 1.2, "")),
        ("8 connections p99 / p50", *_at_most(statistics.median(tails), 3, "x")),
        ("start to first right answer, s", *_at_most(statistics.median(starts[1:]), 0.9, "")),
        ("memory of all processes, MB", *_at_most(memory, 250, "")),
        ("twice the load: served / best", *_at_least(over["rate"] / best, 0.9, "")),
        ("twice the load: 503 after, ms (p99)", *_at_most(refused["p99"], 50, "")),
        ("twice the load: memory growth, MB", *_at_most(memory_after - memory, 10, "")),
    ]:
        click.echo(f"| {what} | {value} | {bar}{'' if met else ' **missed**'} |")
    click.echo(
        f"\nTwice the load is {2 * best:.0f} requests/s for {overload_seconds:g} s: {over['ok']} "
        f"answered (p50 {over['statuses']['200']['p50']:.0f} ms, p99 "
        f"{over['statuses']['200']['p99']:.0f} ms), {refused['count']} refused (p50 "
        f"{refused['p50']:.1f} ms), {others - refused['count']} failed. Counting shared pages "
        f"in each process, memory is {resident:.0f} MB. Starts took {min(starts):.2f} to "
        f"{max(starts):.2f} s. Bare Python is "
        f"{statistics.median(bounds):.2f}x plain Flask. The ceiling is "
        f"{statistics.median(ceiling.rates):.0f} pictures/s."
    )


def run_rounds(cases: list[Case], rounds: int) -> None:
    """Fill every case; the first is the ceiling, which a round measures first and last."""
    ceiling = cases[0]
    for number in range(rounds):
        last = ceiling.measure()["rate"]
        for case in cases[1:]:
            click.echo(f"round {number + 1}: {case.name}", err=True)
            case.add(case.measure())
        result = ceiling.measure()
        ceiling.add(result | {"rate": (last + result["rate"]) / 2})
    for case in cases:
        whole = (case.ceiling or ceiling).rates
        case.shares = [a / b for a, b in zip(case.rates, whole, strict=True)]


def report(cases: list[Case]) -> None:
    """Print the cases as a Markdown table."""
    click.echo("| case | pictures/s | of the ceiling | bar | p50 ms | p99 ms | CPU ms a picture |")
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in cases:
        share = statistics.median(case.shares)
        bar = "" if case.bar is None else f"{case.bar}{'' if share >= case.bar else ' **missed**'}"
        click.echo(
            f"| {case.name} | {statistics.median(case.rates):.0f} | {share:.2f} | {bar} "
            f"| {statistics.median(case.p50):.2f} | {statistics.median(case.p99):.2f} "
            f"| {statistics.median(case.cpu_ms):.2f} |"
        )


def run_batches(model: Model, pixels: NDArray[np.uint8], seconds: float) -> dict[str, Any]:
    """ONNX Runtime alone, one thread a CPU, 32 pictures at a time."""
    batch = np.repeat(pixels[None], 32, axis=0)
    report = repeat(lambda: model.run(batch), seconds, usable_cpus())
    return report | {"rate": report["rate"] * 32, "cpu_ms": report["cpu_ms"] / 32}


def in_process(model: Model, png: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Decode and run the picture in ``threads`` threads; in the shape of the load's report."""
    data = png.read_bytes()
    return repeat(lambda: model.run(decode(data, max_pixels=1 << 20)[None]), seconds, threads)


def repeat(once: Callable[[], object], seconds: float, threads: int) -> dict[str, Any]:
    """Call ``once`` over and over in ``threads`` threads; in the shape of the load's report."""
    taken: list[float] = []
    used = time.process_time()

    def work() -> None:
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            once()
            taken.append(time.perf_counter() - begun)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    latencies = {f"p{percent}": percentile(taken, percent) for percent in (50, 99)}
    return {
        "rate": len(taken) / seconds,
        "statuses": {"200": latencies},
        "cpu_ms": 1000 * (time.process_time() - used) / len(taken),
    }


def hardware() -> str:
    """The processor, the CPUs that may be used, and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    versions = ", ".join(
        f"{name} {version(name)}"
        for name in ("flask", "gunicorn", "httptools", "uvloop", "pillow", "numpy")
    )
    import onnxruntime

    return (
        f"{usable_cpus()} CPUs ({names[0] if names else platform.processor()}), "
        f"Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, {versions}"
    )


def _at_least(value: float, bar: float, unit: str) -> tuple[str, str, bool]:
    return f"{value:.2f}{unit}", f">= {bar:g}{unit}", value >= bar


def _at_most(value: float, bar: float, unit: str) -> tuple[str, str, bool]:
    return f"{value:.2f}{unit}", f"<= {bar:g}{unit}", value <= bar


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.serving")
