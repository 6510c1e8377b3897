"""Ten thousand requests of every kind at once: none lost, none swapped, all counted."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import requests

from tests.service.exposition import Samples, requests_by, samples, settled, total
from tests.service.mixed import (
    MODELS,
    TOLERANCE,
    Ask,
    Mix,
    Model,
    Rows,
    make_pictures,
    oracle_rows,
    write_models,
)
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive

REQUESTS = 10_000
CLIENTS = 64

PICTURES = make_pictures(40)


@dataclass
class Seen:
    """What became of the requests; every field is by what was expected."""

    faults: list[str] = field(default_factory=list)
    answers: int = 0
    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    computed: Counter[Model] = field(default_factory=Counter)

    def add(self, ask: Ask, number: object, status: int, head: dict[str, str], body: bytes) -> None:
        self.answers += 1
        self.requests[*ask.counts, str(ask.status)] += 1
        self.computed += ask.computed
        if head.get("x-request-id") != f"request-{number}":
            fault = f"bears the id {head.get('x-request-id')}"
        elif status != ask.status:
            fault = f"answers {status} instead of {ask.status}: {body[:200]!r}"
        else:
            fault = ask.check(head, body)
        if fault:
            self.faults.append(f"{number}: {ask.path} {fault}")


class Client:
    """One connection, kept for all that it asks."""

    def __init__(self, server: Running) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def send(self, ask: Ask, number: object) -> tuple[int, dict[str, str], bytes]:
        headers = {**ask.headers, "X-Request-ID": f"request-{number}"}
        self._connection.request("POST", ask.path, ask.body, headers)
        response = self._connection.getresponse()
        head = {name.lower(): value for name, value in response.getheaders()}
        return response.status, head, response.read()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = write_models(tmp_path_factory.mktemp("mixed") / "exported_models")
    limits = {"QUEUE_IMAGES": "4096", "DEADLINE_SECONDS": "60"}
    with started(folder, WEB_CONCURRENCY="2", **limits) as running:
        wait_until_alive(running)
        yield running


@pytest.fixture(scope="module")
def serial(server: Running) -> Rows:
    """What every model says of each picture, asked one by one."""
    expected, client = oracle_rows(PICTURES), Client(server)
    mix, rows = Mix(PICTURES, expected), {}
    for model in MODELS:
        for picture in range(len(PICTURES)):
            ask = mix.alone(picture, model)
            status, head, body = client.send(ask, "serial")
            assert (status, ask.check(head, body)) == (200, "")
        tensor = np.stack([each.pixels for each in PICTURES])
        rows[model] = _infer(server, model, tensor)
        assert np.abs(rows[model] - expected[model]).max() <= TOLERANCE
    client.close()
    return rows


def _infer(server: Running, model: Model, images: np.ndarray) -> np.ndarray:
    """Every picture alone, with all its probabilities."""
    url = f"{server.url}/v2/models/{model[0]}/versions/{model[1]}/infer"
    rows = []
    with requests.Session() as session:
        for image in images:
            tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
            wish = {"inputs": [{**tensor, "data": image.ravel().tolist()}]}
            answer = session.post(url, json=wish, timeout=DEADLINE).json()
            rows.append(answer["outputs"][0]["data"])
    return np.array(rows)


def test_the_pictures_would_betray_a_swapped_answer(serial: Rows) -> None:
    answers = np.concatenate([*serial.values()])
    distances = np.abs(answers[:, None] - answers[None]).max(axis=2)
    np.fill_diagonal(distances, 1)
    assert distances.min() > 100 * TOLERANCE


def test_10000_concurrent_mixed_requests_are_answered_as_if_each_were_alone(
    server: Running, serial: Rows
) -> None:
    mix, before = Mix(PICTURES, serial), scrape(server)
    numbers, answers, lost = itertools.count(), {}, []

    def ask_on() -> None:
        client = Client(server)
        while (number := next(numbers)) < REQUESTS:
            try:
                answers[number] = client.send(mix.draw(number), number)
            except (OSError, http.client.HTTPException) as error:
                lost.append(f"{number}: {error!r}")
                client.close()
        client.close()

    clients = [threading.Thread(target=ask_on) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seen = Seen()
    for number, answer in answers.items():
        seen.add(mix.draw(number), number, *answer)
    assert (lost, seen.faults) == ([], [])
    assert seen.answers == REQUESTS
    assert_all_are_counted(before, scrape(server), seen)


def scrape(server: Running) -> Samples:
    return settled(lambda: samples(requests.get(f"{server.url}/metrics", timeout=DEADLINE).text))


def assert_all_are_counted(before: Samples, after: Samples, seen: Seen) -> None:
    """The counters rose by what was sent, whichever workers have answered."""
    for name in ("batchnorm_requests_total", "batchnorm_request_seconds_count"):
        assert requests_by(after, name) - requests_by(before, name) == seen.requests

    def rose(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    for variant, version in MODELS:
        labels, expected = {"variant": variant, "version": str(version)}, seen.computed
        assert rose("batchnorm_images_total", **labels) == expected[variant, version]
        assert rose("batchnorm_batch_images_sum", **labels) == expected[variant, version]
        runs = rose("batchnorm_executions_total", **labels)
        assert rose("batchnorm_batch_images_count", **labels) == runs
        assert rose("batchnorm_run_seconds_count", **labels) == runs
    pictures = rose("batchnorm_images_total")
    assert pictures == seen.computed.total() > REQUESTS
    # They did meet each other: more than the requests' own pictures were computed together.
    assert rose("batchnorm_executions_total") < rose("batchnorm_queue_seconds_count")
    assert total(after, "batchnorm_queue_images") == 0
