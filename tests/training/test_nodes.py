"""The Ray nodes of the tests come up on a busy machine, and what is broken stays broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.training.nodes import ATTEMPTS, start_node

NODE = """
import os, sys, time
from pathlib import Path
number = len(list(Path().glob("try-*")))
Path(f"try-{number}").touch()
if number < int(sys.argv[1]):
    sys.exit("The current node timed out during startup.")
print(os.environ["RAY_gcs_server_port_wait_time_s"], "To terminate the Ray runtime", flush=True)
time.sleep(60)
"""


def test_a_node_that_did_not_come_up_in_time_is_started_again(tmp_path: Path) -> None:
    process, said = start_node([sys.executable, "-c", NODE, "2"], tmp_path)
    with process:
        process.terminate()
    assert said == "120 To terminate the Ray runtime\n"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_node_that_never_comes_up_is_a_failure_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failure:
        start_node([sys.executable, "-c", NODE, "99"], tmp_path)
    assert str(failure.value).count("exit status 1:\nThe current node timed out") == ATTEMPTS
