"""Which version answers where none is asked for, after exports and promotions in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.app import create_app
from service.models.repository import load_repository
from service.settings import Settings
from tests.service.tiny import make_card, make_model, write_repository
from tests.training.export.published import contents
from training.cli import main
from training.dataset import Dataset
from training.export import export
from training.promote import promote
from training.repository import held, settle
from training.trial import read_record, write_record
from training.triton import triton_config

PICTURE = Path("service/static/examples/pear.webp").read_bytes()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two versions of one variant, one of another, as the service's tests have them."""
    files = {
        (variant, version): make_model(name, make_card(variant).to_json())
        for variant, version, name in (
            ("relu_with_bn", 1, "relu_with_bn"),
            ("relu_with_bn", 2, "newer"),
            ("sigmoid_without_bn", 1, "sigmoid_without_bn"),
        )
    }
    return write_repository(tmp_path / "models", files, default="relu_with_bn")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["promote", *map(str, arguments)])


def answers(models: Path, query: str = "") -> tuple[str, int]:
    """Who answers a picture that is posted to the service."""
    app = create_app(Settings.from_environment({"MODELS_DIR": str(models), "ORT_THREADS": "1"}))
    answer = app.test_client().post(f"/predict{query}", data=PICTURE).json
    return answer["variant"], answer["version"]


def policy(models: Path) -> str:
    """The versions that Triton is told to load, of the variant that has several."""
    lines = (models / "relu_with_bn/config.pbtxt").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("version_policy")]
    return line


EVERY = "version_policy: { all { } }"
FIRST = "version_policy: { specific { versions: [ 1 ] } }"


def test_an_export_answers_and_an_older_version_is_a_way_back(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    before = contents(own)
    export(nudged, dataset, own)
    assert (answers(own), policy(own)) == (("relu_with_bn", 2), EVERY)
    said = run("relu_with_bn", 1, "--models", own)
    assert said.exit_code == 0
    assert said.output.startswith("relu_with_bn: version 1 (")
    assert "answers where none is asked for, instead of version 2 (" in said.output
    assert (answers(own), policy(own)) == (("relu_with_bn", 1), FIRST)
    assert answers(own, "?version=2") == ("relu_with_bn", 2)
    after = contents(own)
    assert {name: after[name] for name in before if name.endswith((".onnx", ".txt"))} == {
        name: data for name, data in before.items() if name.endswith((".onnx", ".txt"))
    }
    assert run("relu_with_bn", 2, "--models", own).exit_code == 0
    assert (answers(own), policy(own)) == (("relu_with_bn", 2), EVERY)
    assert "current" not in json.loads((own / "manifest.json").read_text())


def test_what_is_not_promoted_is_there_to_be_asked_and_answers_once_it_is(
    own: Path, nudged: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    said: list[str] = []
    entry = export(nudged, dataset, own, promote=False, say=said.append)
    assert entry.version == 2
    told = 'version 1 answers where none is asked for, until "python -m training promote '
    assert said[-1].endswith(f'; {told}relu_with_bn 2 --models {own}"')
    assert (answers(own), policy(own)) == (("relu_with_bn", 1), FIRST)
    assert answers(own, "?version=2") == ("relu_with_bn", 2)
    # Nets that are there already change nothing of that.
    export(relu_with_bn.folder, dataset, own)
    export(nudged, dataset, own)
    assert answers(own) == ("relu_with_bn", 1)
    promote(own, "relu_with_bn", 2)
    assert (answers(own), policy(own)) == (("relu_with_bn", 2), EVERY)


def test_the_next_export_answers_again(own: Path, nudged: Path, dataset: Dataset) -> None:
    """Version 2 was withdrawn; version 3, which is to take its place, does."""
    export(nudged, dataset, own)
    promote(own, "relu_with_bn", 1)
    record = read_record(nudged)
    assert record is not None
    record["outcome"]["seconds"] += 1
    write_record(nudged, record)
    said: list[str] = []
    assert export(nudged, dataset, own, say=said.append).version == 3
    assert (answers(own), policy(own)) == (("relu_with_bn", 3), EVERY)
    assert "version 3 answers now where none is asked for" in said[-1]
    assert "instead of version 1" in said[-1]
    assert said[-1].endswith(f'relu_with_bn 1 --models {own}" takes that back')


def test_a_first_version_answers_whatever_is_asked(
    tmp_path: Path, relu_without_bn: Any, dataset: Dataset
) -> None:
    models = tmp_path / "models"
    export(relu_without_bn.folder, dataset, models, promote=False)
    assert answers(models) == ("relu_without_bn", 1)


def test_another_variant_answers_by_default_if_asked_to(tiny: Path) -> None:
    assert answers(tiny) == ("relu_with_bn", 2)
    done = run("sigmoid_without_bn", 1, "--default", "--models", tiny)
    assert done.exit_code == 0, done.output
    assert answers(tiny) == ("sigmoid_without_bn", 1)
    assert answers(tiny, "?variant=relu_with_bn") == ("relu_with_bn", 2)
    assert "sigmoid_without_bn answers where no variant is asked for" in done.output
    again = run("sigmoid_without_bn", 1, "--models", tiny)
    assert again.output.endswith("answers where none is asked for, as it did\n")
    assert answers(tiny) == ("sigmoid_without_bn", 1)


def test_the_rest_of_a_tuned_configuration_stays(tiny: Path) -> None:
    """Where a repository is Triton's too; where it is not, none is made."""
    path = tiny / "relu_with_bn/config.pbtxt"
    tuned = triton_config("relu_with_bn") + "instance_group [ { count: 4 } ]\n"
    path.write_text(tuned)
    promote(tiny, "relu_with_bn", 1)
    assert path.read_text() == tuned.replace(EVERY, FIRST)
    promote(tiny, "relu_with_bn", 2)
    assert path.read_text() == tuned
    assert not (tiny / "sigmoid_without_bn/config.pbtxt").exists()


def test_a_configuration_that_was_tuned_in_another_encoding_keeps_it(tiny: Path) -> None:
    path = tiny / "relu_with_bn/config.pbtxt"
    tuned = "# für zwei Kerne\n".encode("latin-1") + triton_config("relu_with_bn").encode()
    path.write_bytes(tuned)
    promote(tiny, "relu_with_bn", 1)
    assert path.read_bytes() == tuned.replace(EVERY.encode(), FIRST.encode())
    promote(tiny, "relu_with_bn", 2)
    assert path.read_bytes() == tuned


def test_an_export_leaves_what_was_tuned_or_removed(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    path = own / "relu_with_bn/config.pbtxt"
    tuned = path.read_text().replace("max_batch_size: 64", "max_batch_size: 16")
    path.write_text(tuned)
    export(nudged, dataset, own, promote=False)
    assert path.read_text() == tuned.replace(EVERY, FIRST)
    path.unlink()
    promote(own, "relu_with_bn", 2)
    assert not path.exists()


@pytest.mark.parametrize(
    "written",
    [
        "version_policy: {\n  latest { num_versions: 1 }\n}\n",
        "version_policy: { latest { num_versions: 1 } }\n",
        "",
    ],
    ids=["of several lines", "another", "none"],
)
def test_a_policy_of_somebodys_own_is_left_and_named(written: str, tiny: Path) -> None:
    path = tiny / "relu_with_bn/config.pbtxt"
    path.write_text(f'name: "relu_with_bn"\n{written}')
    before, said = path.read_text(), []
    promote(tiny, "relu_with_bn", 1, say=said.append)
    assert path.read_text() == before
    (told,) = [line for line in said if line.startswith(f"{path}: its version_policy is not one")]
    assert told.endswith(f"set it to: {FIRST}")
    said.clear()
    promote(tiny, "relu_with_bn", 2, say=said.append)
    assert said[-1].startswith("relu_with_bn: version 2")


def test_a_first_net_that_is_not_promoted_leaves_the_default_alone(
    relu_with_bn: Any, relu_without_bn: Any, dataset: Dataset, tmp_path: Path
) -> None:
    models, said = tmp_path / "models", []
    export(relu_without_bn.folder, dataset, models)
    export(relu_with_bn.folder, dataset, models, promote=False, say=said.append)
    assert answers(models) == ("relu_without_bn", 1)
    assert not [line for line in said if "where no variant" in line]
    export(relu_with_bn.folder, dataset, models, default="relu_with_bn", say=said.append)
    assert answers(models) == ("relu_with_bn", 1)
    where = "answers where no variant is asked for"
    assert said[-1] == f"{models}: relu_with_bn {where}, not relu_without_bn"


def test_other_files_that_keep_the_service_from_starting_are_named(tiny: Path) -> None:
    path = tiny / "relu_with_bn/2/model.onnx"
    path.write_bytes(path.read_bytes() + b"x")
    done = run("relu_with_bn", 1, "--models", tiny)
    assert done.exit_code == 0
    assert f"the service will not start yet: {path}: sha256 is " in done.output.splitlines()[-1]


def test_what_the_manifest_says_of_a_version_is_checked_too(tiny: Path) -> None:
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["models"][0]["bytes"] += 1
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    before = contents(tiny)
    done = run("relu_with_bn", 1, "--models", tiny)
    assert done.exit_code == 1
    assert "manifest.json says" in done.output
    assert contents(tiny) == before


def test_a_kill_between_manifest_and_configuration_is_mended_by_what_comes_next(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "relu_with_bn/config.pbtxt"
    path.write_text(triton_config("relu_with_bn"))
    with monkeypatch.context() as patch:  # it dies once the manifest is written
        patch.setattr("training.promote.settle", lambda *_: None)
        promote(tiny, "relu_with_bn", 1)
    assert (load_repository(tiny).get().version, policy(tiny)) == (1, EVERY)
    with held(tiny):
        settle(tiny)
    assert policy(tiny) == FIRST


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu_with_bn", 3), "there is no relu_with_bn 3; there are relu_with_bn 1, relu_with_bn"),
        (("tanh", 1), "there is no tanh 1; there are relu_with_bn 1, relu_with_bn 2, sigmoid"),
        (("relu_with_bn", 0), "0 is not in the range x>=1"),
        (("relu_with_bn", "newest"), "'newest' is not a valid integer"),
    ],
)
def test_what_is_not_there_is_told_and_changes_nothing(
    arguments: tuple[str, int], message: str, tiny: Path
) -> None:
    before = contents(tiny)
    done = run(*map(str, arguments), "--models", tiny)
    assert done.exit_code != 0
    assert message in done.output
    assert contents(tiny) == before


def test_a_file_that_the_service_would_refuse_is_not_promoted(tiny: Path) -> None:
    path = tiny / "relu_with_bn/1/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    before = contents(tiny)
    done = run("relu_with_bn", 1, "--models", tiny)
    assert done.exit_code == 1
    assert f"{path}: sha256 is " in done.output
    assert contents(tiny) == before


def test_a_folder_without_models_is_told_and_left_empty(tmp_path: Path) -> None:
    done = run("relu_with_bn", 1, "--models", tmp_path / "none")
    assert done.exit_code == 1
    assert f"{tmp_path / 'none'}: holds no manifest.json; give the folder" in done.output
    assert list(tmp_path.iterdir()) == []


def test_to_replace_and_not_to_promote_exclude_one_another() -> None:
    done = CliRunner().invoke(main, ["export", "--replace", "--no-promote"])
    assert done.exit_code == 2
    assert "give one of them" in done.output
