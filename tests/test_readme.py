"""What the README and the pages that it names say, held against the code."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import SETTINGS, Settings, settings_table
from training.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODELS = ROOT / "exported_models"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy" / "README.md",
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting) -> None:
    assert f"`{setting.name}`" in README


def test_the_settings_table_is_the_codes() -> None:
    assert settings_table().strip() in README


def test_the_results_table_is_the_shipped_comparison() -> None:
    content = json.loads((MODELS / "comparison.json").read_text())
    table = [line for line in (MODELS / "comparison.md").read_text().splitlines() if "|" in line]
    assert len(table) == sum(2 + len(each["summary"]) for each in content["recipes"])
    for line in table:
        assert line in README


def commands_of_make() -> set[str]:
    """What the pages say that make should do, in blocks and within sentences."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        fenced = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        found.update(re.findall(r"^make (.*?)(?:\s+#.*)?$", fenced, re.MULTILINE))
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        found.update(" ".join(each.split()) for each in re.findall(r"`make\s+([^`]+)`", prose))
    return found


@pytest.mark.parametrize("command", sorted(commands_of_make()))
def test_what_the_pages_have_make_do_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*?## ", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    if command.startswith("serve"):
        variables |= {setting.name for setting in SETTINGS}
    for word in command.split():
        name, given, _ = word.partition("=")
        assert name in (variables if given else targets), word


def test_every_phony_target_has_a_rule() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*?## ", makefile, re.MULTILINE))


@pytest.mark.parametrize(("seeds", "first"), [("0,1", 0), ("2-4", 2), ("3 1", 3), ("10", 10)])
def test_make_export_takes_the_first_of_the_seeds(seeds: str, first: int) -> None:
    command = ["make", "--dry-run", "export", f"SEEDS={seeds}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (words,) = re.findall(r"-m training export (.*)", done.stdout.replace("\\\n", " "))
    asked = main.commands["export"].make_context("export", shlex.split(words)).params
    assert asked["seed"] == first


@pytest.mark.parametrize(
    "misspelt", ["SEED=1", "VARIANT=relu_with_bn", "MODEL=models", "STEP=5", "RECIPES=modern"]
)
def test_make_does_not_take_a_misspelt_variable_for_none(misspelt: str) -> None:
    command = ["make", "--dry-run", "train", misspelt]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"there is no variable {misspelt.partition('=')[0]}" in done.stderr


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({}, "exported_models"),
        ({"MODELS_DIR": "/elsewhere"}, "/elsewhere"),
        ({"MODELS_DIR": "/elsewhere", "MODELS": "models"}, "models"),
    ],
)
def test_make_serves_the_models_that_the_environment_names(
    given: dict[str, str], served: str
) -> None:
    others = {name: value for name, value in os.environ.items() if not name.startswith("MODELS")}
    command = ["make", "--dry-run", "serve"]
    done = subprocess.run(
        command, cwd=ROOT, env=others | given, capture_output=True, text=True, check=True
    )
    assert f'MODELS_DIR="{served}" exec' in done.stdout


PATHS = ("DATA", "RUNS", "MODELS", "DEMO", "SBOM")


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("demo", {"DEMO"}),
        ("train", {"DATA", "RUNS"}),
        ("freeze", {"DATA", "RUNS"}),
        ("export", {"DATA", "RUNS", "MODELS"}),
        ("compare", {"RUNS", "MODELS"}),
        ("serve", {"MODELS"}),
        ("image", {"MODELS"}),
        ("sbom", {"SBOM"}),
        ("clean", {"DEMO"}),
    ],
)
@pytest.mark.parametrize("folder", ["my own", "~/my own", "a  b~/c, d"])
def test_a_path_that_make_is_given_may_hold_spaces_and_begin_at_home(
    target: str, names: set[str], folder: str
) -> None:
    given = {name: f"{folder}/{name}" for name in PATHS}
    stamps = [f"--old-file=.venv/.{each}" for each in ("dev", "service", "training")]
    command = ["make", "--dry-run", *stamps, target, *(f"{n}={path}" for n, path in given.items())]
    home = os.environ | {"HOME": "/home/some one"}
    done = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, check=True)
    words = [word.rstrip(";") for word in shlex.split(done.stdout)]
    for name, path in given.items():
        found = re.sub(r"^~", home["HOME"], path)
        ends = (found, f"MODELS_DIR={found}", f"MODELS={found}", f"{found}/$set.cdx.json")
        assert any(word in ends for word in words) == (name in names), words


def test_make_builds_the_target_and_image_that_it_is_given_as_one_word_each() -> None:
    command = ["make", "--dry-run", "image", "TARGET=service gpu", "IMAGE=my image"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (each for each in done.stdout.splitlines() if "deploy/image.sh" in each)
    assert shlex.split(line)[-2:] == ["service gpu", "my image"]


def test_make_takes_no_venv_with_a_space() -> None:
    command = ["make", "--dry-run", "clean", "VENV=my env"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "VENV=my env: spaces will not do" in done.stderr


@pytest.mark.parametrize("name", ["VENV", "RUNS", "MODELS", "DEMO", "SBOM"])
@pytest.mark.parametrize("said", ["in the command", "in the environment"])
def test_make_takes_no_empty_folder(name: str, said: str) -> None:
    """``make export MODELS=$FOLDER`` without a FOLDER published into the current one."""
    in_command = said == "in the command"
    command = ["make", "--dry-run", "clean", *([f"{name}="] if in_command else [])]
    environment = os.environ | ({} if in_command else {name: ""})
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{name} is empty; name a folder, or leave it out" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for target, anchor in links:
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, by GitHub's rule."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_every_page_of_docs_is_named_by_the_readme() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in README


def test_the_answer_that_it_shows_is_the_shipped_models() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    shown = json.loads(block)
    asked = re.search(r"--data-binary @(\S+) 'http://127.0.0.1:8000(/predict\S*)'", README)
    assert asked is not None
    picture = (ROOT / "service" / "static" / "examples" / asked[1]).read_bytes()
    settings = Settings.from_environment({"MODELS_DIR": str(MODELS)})
    given = create_app(settings).test_client().post(asked[2], data=picture).json
    del shown["provider"], given["provider"]
    for guess in given["images"][0]["top"]:
        guess["probability"] = pytest.approx(guess["probability"], abs=1e-4)
    assert shown == given
