"""make names the Pythons that it can do with, before it installs anything."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python(folder: Path, version: tuple[int, int, int]) -> Path:
    """A Python that says it is of ``version``, and makes no environment: it ends with status 7."""
    text = ".".join(map(str, version))
    path = folder / "python"
    path.write_text(
        f"""#!/bin/sh
case "$1" in
    --version) echo "Python {text}" ;;
    -c) exec python3 -c "import sys; sys.version_info = {version}; $2" ;;
    *) exit 7 ;;
esac
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("version", "stamp", "needed"),
    [
        ((3, 10, 14), ".service", "3.11 or newer"),
        ((3, 11, 0), ".service", None),
        ((3, 14, 1), ".service", None),
        ((3, 10, 14), ".training", "3.11 to 3.13"),
        ((3, 13, 5), ".training", None),
        ((3, 13, 5), ".dev", None),
        ((3, 14, 0), ".training", "3.11 to 3.13"),
        ((3, 14, 0), ".dev", "3.11 to 3.13"),
    ],
)
def test_a_python_that_will_not_do_is_named_with_those_that_will(
    tmp_path: Path, version: tuple[int, int, int], stamp: str, needed: str | None
) -> None:
    made = tmp_path / "venv"
    command = ["make", f"{made}/{stamp}", f"VENV={made}", f"PYTHON={python(tmp_path, version)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0  # at the latest where there is no environment
    if needed is None:
        assert "is needed" not in done.stderr
    else:
        shown = ".".join(map(str, version))
        assert f"Python {needed} is needed" in done.stderr
        assert f"is Python {shown}; name another: make PYTHON=python3.13" in done.stderr
    assert not made.exists()


def test_an_environment_of_a_python_that_will_not_do_is_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python(tmp_path / "bin", (3, 14, 0))
    command = ["make", f"{tmp_path}/.dev", f"VENV={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"3.11 to 3.13 is needed, and {tmp_path} has Python 3.14.0; remove it" in done.stderr
    assert "name another: make VENV=" in done.stderr


def test_a_folder_that_make_did_not_make_is_left_as_it_is(tmp_path: Path) -> None:
    """Not even where no environment can be made in it: it may be somebody's work."""
    named = tmp_path / "work"
    named.mkdir()
    (named / "thesis.txt").write_text("years")
    command = ["make", f"{named}/.dev", f"VENV={named}", f"PYTHON={python(tmp_path, (3, 12, 0))}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{named} has files but no Python that runs; remove it, or name another" in done.stderr
    assert (named / "thesis.txt").read_text() == "years"
