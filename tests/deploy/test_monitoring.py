"""The compose file, Prometheus' configuration and Grafana's board, held against the real service.

Prometheus itself (Debian's package) scrapes a running service with deploy/'s configuration, and
evaluates every query of the board on what it has scraped.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from benchmarks.processes import serving
from service.app import create_app
from service.metrics import ASKS_OPTIONS, NO_ROUTE
from service.server import GRACE_SECONDS
from service.settings import Settings
from tests.deploy.container import LIMIT, ROOT
from tests.service.hostile import PHOTO
from tests.service.tiny import encode

COMPOSE = ROOT / "deploy/compose"
BOARD = json.loads((COMPOSE / "grafana/dashboards/batchnorm.json").read_text())
QUERIES = [
    (f"{panel['title']}: {target['expr']}", target["expr"])
    for panel in BOARD["panels"]
    for target in panel["targets"]
]


needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"),
    reason="THE BOARD IS NOT TESTED: prometheus is not installed (apt-get install prometheus)",
)


@dataclass(frozen=True)
class Prometheus:
    """A running one, which scrapes the service that ``text`` was asked of."""

    url: str
    text: str

    def value(self, query: str) -> list[Any]:
        """The series that ``query`` gives now; raises where Prometheus cannot parse it."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=LIMIT)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()["data"]["result"]
        return found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    picture = encode(PHOTO)
    command = [sys.executable, "-m", "service"]
    models = {"MODELS_DIR": str(ROOT / "exported_models")}
    with serving(command, models, picture, "top") as service:
        url = f"http://{service.address}"
        configuration = (COMPOSE / "prometheus.yml").read_text()
        assert "service:8000" in configuration
        configuration = configuration.replace("service:8000", service.address)
        # Faster than in deploy/, so that rates are there after seconds.
        configuration = re.sub(r"scrape_interval: \w+", "scrape_interval: 1s", configuration)
        (folder / "prometheus.yml").write_text(configuration)
        with _prometheus(folder) as address:
            text = requests.get(f"{url}/metrics", timeout=LIMIT).text
            running = Prometheus(address, text)
            deadline = time.monotonic() + LIMIT
            while not running.value("up == 1"):
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            for _ in range(4):
                requests.post(f"{url}/predict", data=picture, timeout=LIMIT).raise_for_status()
                requests.post(f"{url}/compare", data=picture, timeout=LIMIT).raise_for_status()
                time.sleep(1)
            yield running


@contextlib.contextmanager
def _prometheus(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + LIMIT
            while process.poll() is None:
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"http://{address}/-/ready", timeout=LIMIT).ok:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert process.poll() is None, (folder / "log").read_text()
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(LIMIT)


@needs_prometheus
def test_prometheus_scrapes_the_service_with_the_configuration_of_deploy(
    prometheus: Prometheus,
) -> None:
    (up,) = prometheus.value('up{job="batchnorm"}')
    assert up["value"][1] == "1"


@needs_prometheus
@pytest.mark.parametrize(
    "query", [query for _, query in QUERIES], ids=[each for each, _ in QUERIES]
)
def test_every_panel_of_the_board_shows_something(prometheus: Prometheus, query: str) -> None:
    query = query.replace("$__rate_interval", "30s")
    deadline = time.monotonic() + LIMIT
    while not (series := prometheus.value(query)):
        assert time.monotonic() < deadline, "the query gives nothing"
        time.sleep(0.5)
    assert any(each["value"][1] != "NaN" for each in series)


@needs_prometheus
def test_the_board_leaves_no_metric_out(prometheus: Prometheus) -> None:
    names = set(re.findall(r"^# TYPE (batchnorm_\w+)", prometheus.text, re.MULTILINE))
    shown = {name for _, query in QUERIES for name in re.findall(r"\bbatchnorm_\w+", query)}
    assert names
    for name in names:
        assert any(each.startswith(name.removesuffix("_total")) for each in shown), name


def test_what_the_board_leaves_out_are_probes_scrapes_and_preflights() -> None:
    left_out = {each for _, query in QUERIES for each in re.findall(r'route!~"([^"]*)"', query)}
    (pattern,) = left_out
    assert f'`route!~"{pattern}"`' in (ROOT / "docs/operations.md").read_text()
    app = create_app(Settings.from_environment({"MODELS_DIR": str(ROOT / "exported_models")}))
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    probes = {rule for rule in rules if rule.endswith(("/live", "/ready"))}
    assert {"/health/live", "/v2/health/ready", "/v2/models/<name>/ready"} <= probes
    for route in {*rules, NO_ROUTE, ASKS_OPTIONS}:
        seldom = route in probes or route in ("/metrics", ASKS_OPTIONS)
        assert bool(re.fullmatch(pattern, route)) == seldom, route  # Prometheus anchors it


def test_the_boards_panels_do_not_overlap_and_ask_the_provisioned_source() -> None:
    (source,) = yaml.safe_load(
        (COMPOSE / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered
        assert place["x"] + place["w"] <= 24
        cells |= covered
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.skipif(
    not shutil.which("docker-compose"),
    reason="THE COMPOSE FILE IS NOT TESTED: docker-compose is not installed (apt-get install it)",
)
def test_the_compose_file_is_what_docker_compose_accepts() -> None:
    command = ["docker-compose", "--file", COMPOSE / "compose.yaml", "config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_compose_file_mounts_what_is_there_and_what_grafana_is_told_of() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    mounted = {}
    for service in services.values():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                assert (COMPOSE / source).exists(), source
                mounted[target] = COMPOSE / source
    (provider,) = yaml.safe_load(
        (COMPOSE / "grafana/provisioning/dashboards/batchnorm.yaml").read_text()
    )["providers"]
    assert mounted[provider["options"]["path"]] == COMPOSE / "./grafana/dashboards"
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).exists()
    assert (COMPOSE / services["service"]["build"]["context"]).resolve() == ROOT
    assert services["service"]["read_only"]
    grace = int(services["service"]["stop_grace_period"].removesuffix("s"))
    settings = Settings.from_environment(services["service"].get("environment", {}))
    assert grace > settings.drain_seconds + settings.deadline_seconds + GRACE_SECONDS
    assert services["service"]["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
