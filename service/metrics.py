"""GET /metrics: what the service has done and is doing, as Prometheus and OpenMetrics read it.

Requests are counted by route (the URL rule), variant and status, computing by variant and
version. Every label value is one of a known few: what strangers send makes no new series. Several
worker processes answer as one (``service.metric_files``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.http.waiting import in_thread
from service.journal import Answered, Journal
from service.metric_files import claim_slot, dead_slots, shared_folder
from service.operations import Answer, Tag, operation

if TYPE_CHECKING:
    from service.engine import Engine
    from service.models.model import Model
    from service.models.repository import Repository

NO_ROUTE = "none"
"""The route of a request that no URL rule matches."""

ASKS_OPTIONS = "options"
"""The route of every request with the method OPTIONS, as browsers' preflights are.

There may be one for each upload, and it takes no time: among a route's answers they would make its
latency look a fraction of what it is.
"""

_SECONDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_OF_A_REQUEST = ("route", "variant", "status")
_OF_A_MODEL = ("variant", "version")
_KEY = "batchnorm-metrics"

disable_created_metrics()  # else every counter gets a second series, with its date of birth

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@operation(
    Tag.OPERATION,
    Answer("every series", others=("text/plain", "application/openmetrics-text")),
)
def show() -> Response:
    """Every metric, in the format that the caller accepts."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except TypeError:  # a version that is no number is compared with one
        encode, content_type = choose_encoder("")
    counted = metrics()
    return Response(in_thread(lambda: counted.written(encode)), content_type=content_type)


class _Run:
    """The series of one model."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str]) -> None:
        self.images = metrics.images.labels(*labels)
        self.executions = metrics.executions.labels(*labels)
        self.batch = metrics.batch.labels(*labels)
        self.queued = metrics.queued.labels(*labels)
        self.seconds = metrics.run_seconds.labels(*labels)


class Metrics:
    """The metrics of one application; every method may be called in any thread.

    What is counted of a request passes through ``journal``.
    """

    def __init__(self, repository: Repository | None, journal: Journal) -> None:
        self._journal = journal
        self._folder = shared_folder()
        # What prometheus_client makes of its variable would file values by process.
        values.ValueClass = _slot_values(self._folder) if self._folder else values.MutexValue
        self._registry = CollectorRegistry()
        # Shared values are read from their files, by a collector of their own.
        registry = None if self._folder else self._registry
        if self._folder:
            MultiProcessCollector(self._registry, str(self._folder))

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(f"batchnorm_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
        ) -> Histogram:
            return Histogram(f"batchnorm_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests", "Requests answered.", _OF_A_REQUEST)
        self.request_seconds = histogram(
            "request_seconds", "Seconds from a whole request to its answer.", _OF_A_REQUEST
        )
        self._decode_seconds = histogram(
            "decode_seconds",
            "Seconds to decode the pictures of one request, without waiting for a thread.",
        )
        self.queued = histogram(
            "queue_seconds", "Seconds that pictures waited for a run.", _OF_A_MODEL
        )
        self.run_seconds = histogram("run_seconds", "Seconds of one run of a model.", _OF_A_MODEL)
        self.images = counter("images", "Pictures computed.", _OF_A_MODEL)
        self.executions = counter(
            "executions", "Runs of a model; pictures over runs is the mean batch.", _OF_A_MODEL
        )
        self.batch = histogram(
            "batch_images", "Pictures that were computed together.", _OF_A_MODEL, _BATCHES
        )
        self._queue = Gauge(
            "batchnorm_queue_images",
            "Pictures that wait to be computed.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._queue_lock = threading.Lock()
        self._queue_images = 0
        self._queue.set(0)
        self._decoding = Gauge(
            "batchnorm_decoding_images",
            "Large pictures that wait to be decoded, or are being decoded.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._decoding.set(0)
        info = Gauge(
            "batchnorm_model_info",
            "1 for every model that is served, with where it runs and what it is.",
            (*_OF_A_MODEL, "provider", "sha256", "dataset"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._runs: dict[tuple[str, int], _Run] = {}
        for versions in repository.models.values() if repository else ():
            for model in versions.values():
                labels = (model.variant, str(model.version))
                self._runs[model.variant, model.version] = _Run(self, labels)
                dataset = model.card.dataset.name
                info.labels(*labels, model.provider, model.sha256[:12], dataset).set(1)

    def written(self, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        """All that processes have counted together, as ``encode`` writes it, without dead gauges.

        It takes 10 ms, and more with every worker: the event loop has no time for it. Meanwhile
        this process counts no requests, so that its counts agree with each other. Those of other
        processes may be a moment older or newer; of their files as much is read as they say is
        whole.
        """
        with self._journal.at_rest():
            if self._folder:
                with dead_slots(self._folder) as slots:
                    for slot in slots:
                        mark_process_dead(slot, str(self._folder))
            return encode(self._registry)

    def read(self, entries: list[Answered]) -> None:
        """Count what the journal tells of requests."""
        for entry in entries:
            route = ASKS_OPTIONS if entry.method == "OPTIONS" else entry.route or NO_ROUTE
            self._count(route, entry.variant or "", entry.status, entry.seconds)

    def refused(self, status: HTTPStatus, route: str | None) -> None:
        """One request has been refused before Flask had a look at it."""
        self._journal.add(self._count_refused, (route or NO_ROUTE, status))

    def decoded(self, seconds: float) -> None:
        """One request's pictures are decoded."""
        self._journal.add(self._count_decoded, seconds)

    def ran(self, model: Model, images: int, waited: Sequence[float], seconds: float) -> None:
        """One run: its pictures, the seconds that each part of it waited, and its own."""
        run = self._runs[model.variant, model.version]
        self._journal.add(self._count_runs, (run, images, waited, seconds))

    def _count(self, route: str, variant: str, status: int, seconds: float) -> None:
        key = route, variant, status
        series = self._answers.get(key)
        if series is None:
            labels = route, variant, str(int(status))
            series = self.requests.labels(*labels), self.request_seconds.labels(*labels)
            self._answers[key] = series
        series[0].inc()
        series[1].observe(seconds)

    def _count_refused(self, entries: list[tuple[str, HTTPStatus]]) -> None:
        for route, status in entries:
            self._count(route, "", status, 0.0)

    def _count_decoded(self, entries: list[float]) -> None:
        for seconds in entries:
            self._decode_seconds.observe(seconds)

    def _count_runs(self, entries: list[tuple[_Run, int, Sequence[float], float]]) -> None:
        for run, images, waited, seconds in entries:
            run.executions.inc()
            run.images.inc(images)
            run.batch.observe(images)
            run.seconds.observe(seconds)
            for each in waited:
                run.queued.observe(each)

    def waiting(self, engine: Engine) -> None:
        """The engine's queue has changed."""
        with self._queue_lock:
            # Read here, so that of two threads the later one cannot leave the older number.
            now = engine.waiting_images
            if now != self._queue_images:
                self._queue_images = now
                self._queue.set(now)

    def decoding(self, images: int) -> None:
        """So many large pictures wait to be decoded, or are."""
        self._decoding.set(images)


def init_app(app: Flask, counted: Metrics) -> None:
    """Show what is counted of ``app``."""
    app.extensions[_KEY] = counted
    app.register_blueprint(blueprint)


def metrics_of(app: Flask) -> Metrics:
    """The metrics of an application."""
    found: Metrics = app.extensions[_KEY]
    return found


def metrics() -> Metrics:
    """The current application's metrics."""
    return metrics_of(current_app)


@cache
def _slot_values(folder: Path) -> Any:
    """Values that live in ``folder``, under a slot that this process claims."""
    slot = claim_slot(folder)
    mark_process_dead(slot, str(folder))  # its predecessor's gauges; the counters go on
    return values.MultiProcessValue(lambda: slot)
