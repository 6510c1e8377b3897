"""The command line, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from service.__main__ import cli
from tests.served import ROOT
from tests.service.tiny import encode, oracle


@pytest.fixture(autouse=True)
def environment(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS_DIR", str(models_dir))
    monkeypatch.setenv("ORT_THREADS", "1")


@pytest.fixture
def picture(tmp_path: Path, pixels: np.ndarray) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(pixels[0]))
    return path


def test_predict_prints_the_formulas_answer(
    runner: CliRunner, picture: Path, pixels: np.ndarray
) -> None:
    result = runner.invoke(cli, ["predict", str(picture), "--top-k", "2"])
    assert result.exit_code == 0
    head, _, name, first, second = result.output.splitlines()
    assert head == (
        "sigmoid_without_bn version 1, provider CPUExecutionProvider, "
        "dataset synthetic, recipe quick"
    )
    assert name == str(picture)
    expected = oracle("sigmoid_without_bn", pixels[:1])[0]
    for line, index in zip((first, second), np.argsort(-expected)[:2], strict=True):
        assert line.split(maxsplit=1)[0] == f"{expected[index]:.2%}"
        assert f"class {index}  " in line


def test_predict_as_json_is_one_object_a_line(
    runner: CliRunner, picture: Path, pixels: np.ndarray
) -> None:
    options = ["--variant", "relu_with_bn", "--version", "1", "--top-k", "1", "--json"]
    result = runner.invoke(cli, ["predict", str(picture), str(picture), *options])
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert len(lines) == 2
    expected = oracle("relu_with_bn", pixels[:1])[0]
    assert (lines[0]["variant"], lines[0]["version"]) == ("relu_with_bn", 1)
    assert (lines[0]["dataset"], lines[0]["name"]) == ("synthetic", str(picture))
    assert lines[0]["top"][0]["index"] == expected.argmax()
    assert lines[0]["top"][0]["probability"] == pytest.approx(expected.max(), abs=1e-6)


def test_a_bad_file_is_named_and_the_others_are_still_answered(
    runner: CliRunner, picture: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    missing = tmp_path / "missing.png"
    result = runner.invoke(cli, ["predict", str(text), str(missing), str(tmp_path), str(picture)])
    assert result.exit_code == 1
    assert f"{text}: the content is none of PNG" in result.stderr
    assert f"{missing}: No such file" in result.stderr
    assert f"{tmp_path}: Is a directory" in result.stderr
    assert str(picture) in result.stdout


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        ({}, ["predict", "x.png", "--variant", "tanh"], "there are relu_with_bn, sigmoid"),
        ({"MODELS_DIR": "/nowhere"}, ["models"], "Error: /nowhere/manifest.json: there is no such"),
        ({"PORT": "http"}, ["models"], "PORT is 'http'; allowed: a whole number"),
        ({"PORT": "http"}, [], "PORT is 'http'; allowed: a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    runner: CliRunner, variables: dict[str, str], arguments: list[str], words: str
) -> None:
    result = runner.invoke(cli, arguments, env=variables)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("valid", [False, True])
def test_a_files_name_may_be_no_text(picture: Path, valid: bool) -> None:
    name = picture.with_name(os.fsdecode(b"a\xff.png"))
    name.write_bytes(picture.read_bytes() if valid else b"no picture")
    command = [sys.executable, "-m", "service", "predict", name, picture]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert "Traceback" not in run.stderr
    assert run.returncode == (0 if valid else 1)
    assert "a\ufffd.png" in (run.stdout if valid else run.stderr)
    assert f"\n{picture}\n" in run.stdout


def test_models_lists_every_version_and_marks_those_that_answer(runner: CliRunner) -> None:
    lines = runner.invoke(cli, ["models"]).output.splitlines()[1:]
    assert [line.split()[:3] for line in lines] == [
        ["relu_with_bn", "1", "0.6000"],
        ["+", "relu_with_bn", "2"],
        ["*", "sigmoid_without_bn", "1"],
    ]


def test_of_the_default_variants_versions_the_one_that_answers_is_marked(runner: CliRunner) -> None:
    run = runner.invoke(cli, ["models"], env={"MODELS_DIR": str(ROOT / "exported_models")})
    assert [line.split()[1:3] for line in run.output.splitlines() if line.startswith("*")] == [
        ["relu_with_bn", "2"]
    ]


def test_the_terminal_shows_nothing_but_the_answer(picture: Path) -> None:
    command = [sys.executable, "-m", "service", "predict", str(picture)]
    run = subprocess.run(command, capture_output=True, check=True)
    assert run.stderr == b""


def test_help_does_not_wait_for_the_runtime() -> None:
    program = "import sys, service.__main__; print('onnxruntime' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.strip() == b"False"
