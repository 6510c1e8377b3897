"""Whatever strangers send, the real server answers it, and keeps nothing of it.

More than 20,000 requests of hypothesis: changed pictures of every format, changed forms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from tests.service.formats import FORMATS, SOURCES
from tests.service.mutations import changed_forms, changed_pictures
from tests.service.processes import memory
from tests.service.test_server import Running, started, wait_until_alive

PICTURES_OF_EACH_FORMAT = 2_900
FORMS = 5_000
ANY_BODIES = 600
assert len(FORMATS) * PICTURES_OF_EACH_FORMAT + FORMS + ANY_BODIES > 20_000

SAMPLE, LAPS = 800, 28
"""Changed requests that are sent over and over to see whether the memory grows."""

KEPT = 600
"""Bytes of memory a request that may be noise."""

REFUSALS = {400, 413, 415, 422}

PATIENCE = 60
"""Seconds for an answer: none of the cases takes one, but on a busy machine the server may get no
turn for long, and then 504 would be right."""


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    limits = {"MAX_PIXELS": "300000", "MAX_REQUEST_PIXELS": "600000", "MAX_IMAGES": "4"}
    limits["DEADLINE_SECONDS"] = str(PATIENCE)
    with started(models_dir, LOG_LEVEL="error", WEB_CONCURRENCY="1", **limits) as running:
        wait_until_alive(running)
        yield running


class Fuzzer:
    """Sends bodies over one connection, and judges the answers."""

    def __init__(self, server: Running, name: str) -> None:
        self._server = server
        self._name = name
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", server.port, timeout=2 * PATIENCE
        )
        self.statuses: Counter[int] = Counter()

    def send(self, body: bytes, content_type: str, path: str = "/predict") -> None:
        headers = {"Content-Type": content_type.encode("latin-1", "replace")}
        try:
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()  # the next case begins with a new connection
            error.add_note(f"the server's log ends with {self._server.lines()[-3:]}")
            raise
        self.statuses[response.status] += 1
        if response.status == 200:
            assert_probable(json.loads(answer), path)
            return
        assert response.status in REFUSALS, (response.status, answer)
        assert response.getheader("Content-Type") == "application/problem+json"
        problem = json.loads(answer)
        assert problem["status"] == response.status
        assert problem["detail"]
        assert len(answer) < 2000
        assert b"Traceback" not in answer

    def close(self) -> None:
        self._connection.close()

    def _failures(self) -> ExampleDatabase | None:
        """Where hypothesis keeps this test's failures, to begin with them the next time.

        It knows a test by the source of the function that it calls, which is the same one in all
        of these: each would throw away the others' failures, as those are none of its own.
        """
        all_tests = settings.default.database if settings.default else None
        if not isinstance(all_tests, DirectoryBasedExampleDatabase):
            return all_tests
        return DirectoryBasedExampleDatabase(all_tests.path.with_name(self._name))

    def check(self, cases: int, strategy: Any, send: Callable[[Any], None]) -> None:
        """Let hypothesis find ``cases`` cases, some of which must be answered and some refused."""

        @settings(
            max_examples=cases, suppress_health_check=list(HealthCheck), database=self._failures()
        )
        @given(strategy)
        def check(case: Any) -> None:
            send(case)

        check()
        assert self._server.process.poll() is None
        assert self.statuses.total() >= cases
        assert cases / 20 < self.statuses[200] < cases * 19 / 20, self.statuses


def assert_probable(answer: dict[str, Any], path: str) -> None:
    for image in answer["images"]:
        tops = [image["top"]] if path == "/predict" else image["variants"].values()
        for top in tops:
            values = [guess["probability"] for guess in top]
            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert 0 <= values[-1] <= sum(values) < 1 + 1e-4


@pytest.fixture
def fuzzer(server: Running, request: pytest.FixtureRequest) -> Iterator[Fuzzer]:
    with contextlib.closing(Fuzzer(server, request.node.name)) as fuzzer:
        yield fuzzer


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_is_taken_apart_and_put_together_as_it_was(kind: str) -> None:
    for data in FORMATS[kind].sources:
        pieces = FORMATS[kind].split(data)
        assert pieces
        assert FORMATS[kind].join(pieces) == data


@pytest.mark.parametrize("kind", FORMATS)
def test_changed_pictures_are_answered_or_refused(fuzzer: Fuzzer, kind: str) -> None:
    fuzzer.check(
        PICTURES_OF_EACH_FORMAT,
        changed_pictures(kind),
        lambda data: fuzzer.send(data, "application/octet-stream"),
    )


def test_changed_forms_are_answered_or_refused(fuzzer: Fuzzer) -> None:
    fuzzer.check(FORMS, changed_forms(), lambda form: fuzzer.send(*form))


def test_any_body_under_any_name_is_answered_or_refused(fuzzer: Fuzzer) -> None:
    kinds = st.sampled_from(("", "image/png", "text/plain", "application/json", "multipart/mixed"))
    names = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
    bodies = st.sampled_from(SOURCES) | st.binary(max_size=64)
    cases = st.tuples(bodies, kinds | st.text(names, max_size=40))
    paths = st.sampled_from(("/predict", "/compare"))
    fuzzer.check(
        ANY_BODIES, st.tuples(cases, paths), lambda case: fuzzer.send(*case[0], path=case[1])
    )


def test_the_memory_does_not_grow(server: Running, fuzzer: Fuzzer) -> None:
    sample: list[tuple[bytes, str]] = []
    pictures = st.sampled_from(sorted(FORMATS)).flatmap(changed_pictures)

    @settings(max_examples=SAMPLE, suppress_health_check=list(HealthCheck))
    @given(st.tuples(pictures, st.just("image/png")) | changed_forms())
    def collect(case: tuple[bytes, str]) -> None:
        sample.append(case)

    collect()
    taken = []
    for _ in range(LAPS):
        for case in sample:
            fuzzer.send(*case)
        taken.append(memory(server))
    # The first half fills caches, free lists, and the youngest generations of garbage; then the
    # least of three laps leaves out what is only waiting to be collected.
    early, late = min(taken[11:14]), min(taken[25:28])
    kept = (late - early) / (14 * len(sample))
    print(f"{kept:.0f} bytes of each request are kept, of {late >> 20} MB")
    assert kept < KEPT, taken
