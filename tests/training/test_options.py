"""Options and surroundings that a command cannot work with are told in words, with the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import training.data
from training.cli import main


def test_a_seed_that_no_trial_has_is_refused() -> None:
    """And no command is named for it, which would be refused as well."""
    done = CliRunner().invoke(main, ["export", "--seed", "-1"])
    assert done.exit_code == 2
    assert "'-1' is not a seed" in done.output
    assert "make it with" not in done.output


@pytest.mark.parametrize("backend", ["torch", "theano"])
def test_a_backend_that_is_not_there_is_named_with_those_that_work(
    backend: str, tmp_path: Path
) -> None:
    # Found first, so that the test is of a machine without PyTorch wherever it runs.
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    done = subprocess.run(
        [sys.executable, "-m", "training", "compare"],
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: Keras' backend cannot be loaded (")
    assert done.stderr.endswith(f"KERAS_BACKEND is {backend}: set it to tensorflow or jax\n")


def test_where_only_the_service_is_installed_what_installs_the_rest_is_said() -> None:
    program = "import sys; sys.modules['keras'] = None; from training.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "train"], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: Keras is not installed here; make setup installs all that training needs\n"
    )


@pytest.mark.parametrize("command", ["train", "freeze", "export", "ablate"])
def test_data_for_a_recipe_that_draws_its_pictures_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.data, "load", lambda *_: pytest.fail("the data was touched"))
    words = [command, "--data", "/nonexistent", "--recipe", "demo", "--runs", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "--data /nonexistent: recipe demo draws its pictures and reads none" in done.output
    assert list(tmp_path.iterdir()) == []
