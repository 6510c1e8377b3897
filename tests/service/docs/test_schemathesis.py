"""schemathesis against the real server: what the document allows is answered, the rest refused.

No 5xx, no undocumented status, content type or header, no answer that breaks its schema; what the
document allows is accepted, and what it forbids is refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.service.test_server import started, wait_until_alive

ROOT = Path(__file__).parents[3]
CASES = 30
"""Random requests an operation, beside those at every limit of its schema."""

CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "413", "415", "422"]
positive_data_acceptance.expected-statuses = ["200", "303", "404"]
"""


def test_schemathesis_finds_nothing(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.service.schemathesis_hooks",
    }
    with started(models_dir, MAX_IMAGES="2") as server:
        wait_until_alive(server)
        url = f"{server.url}/openapi.json"
        arguments = ["--seed", "1", "--max-examples", str(CASES), "--checks", "all", "--no-color"]
        arguments += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure"]
        run = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", url, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert server.process.poll() is None
    lines = "\n".join(line[:300] for line in run.stdout.splitlines())
    assert run.returncode == 0, lines
    tested = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", run.stdout)
    assert tested, lines
    assert tested[1] == tested[2] == tested[3]
    cases = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert cases, lines
    assert cases[1] == cases[2]
    assert int(cases[1]) > 1000
