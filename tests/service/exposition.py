"""What GET /metrics says, as Prometheus' own parser reads it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.journal import DELAY
from tests.service.test_server import DEADLINE

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str, parse: Any = parse_text) -> Samples:
    """Every sample of an exposition: its name and labels, sorted, with its value."""
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def requests_by(found: Samples, name: str = "batchnorm_requests_total") -> Counter[tuple[str, ...]]:
    """Requests by (route, variant, status), but for those of /metrics itself."""
    counted: Counter[tuple[str, ...]] = Counter()
    for (each, labels), value in found.items():
        key = dict(labels)
        if each == name and key["route"] not in ("/metrics", "/health/live"):
            counted[key["route"], key["variant"], key["status"]] += int(value)
    return counted


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(
        value
        for (each, has), value in found.items()
        if each == name and labels.items() <= dict(has).items()
    )


def settled(scrape: Callable[[], Samples]) -> Samples:
    """The metrics once every worker has counted what it has answered."""
    found, until = scrape(), time.monotonic() + DEADLINE
    while time.monotonic() < until:
        time.sleep(5 * DELAY)
        before, found = found, scrape()
        if requests_by(found) == requests_by(before):
            return found
    raise AssertionError("the counters do not come to rest")
