"""Whenever an export is killed, the service can load what is there, and the next export mends it;
and of several at once none loses what another published.
"""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest

import training.export
import training.files
from service.models.manifest import Entry
from service.models.repository import load_repository
from tests.training.export.published import contents, listed
from training.dataset import Dataset
from training.export import export
from training.repository import held, publish, settle


class Killed(BaseException):
    """What nothing in the exporter catches, as nothing can catch a kill."""


@pytest.fixture
def other(graph: onnx.ModelProto) -> bytes:
    """Another file that the service takes for the same variant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    copy.doc_string = "another"
    return copy.SerializeToString()


def entry_of(models: Path, data: bytes, version: int) -> Entry:
    return replace(
        Entry(**listed(models)["relu_with_bn", 1]),
        version=version,
        file=f"relu_with_bn/{version}/model.onnx",
        sha256=sha256(data).hexdigest(),
        bytes=len(data),
    )


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many files be put in their place, and kill in the midst of the next."""
    write, written = training.files.write_atomically, []

    def counted(path: Path, how: Any) -> None:
        if len(written) == count:
            path.with_name(f".partial-1-{path.name}").write_bytes(b"half of i")
            raise Killed
        write(path, how)
        written.append(path)

    monkeypatch.setattr(training.files, "write_atomically", counted)


@pytest.mark.parametrize(("version", "files"), [(1, 5), (2, 3)], ids=["replaced", "new"])
def test_a_kill_at_any_step_leaves_what_can_be_served(
    version: int,
    files: int,
    models: Path,
    other: bytes,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels, file, manifest; where a version is replaced, file and manifest again.

    Up to the first manifest the old net is served, from then on the new one.
    """
    old, entry = listed(models)["relu_with_bn", 1]["sha256"], entry_of(models, other, version)
    for count in range(files + 1):
        own = Path(shutil.copytree(models, tmp_path / str(count)))
        with monkeypatch.context() as patch:
            kill_after(count, patch)
            try:
                with held(own):
                    publish(own, entry, other, dataset.class_names, None)
            except Killed:
                assert count < files
            else:
                assert count == files
        served = load_repository(own).get("relu_with_bn").sha256
        assert served == (old if count < 3 else entry.sha256)
        with held(own):
            settle(own)
        assert load_repository(own).get("relu_with_bn").sha256 == served
        assert listed(own)["relu_with_bn", 1]["file"] == "relu_with_bn/1/model.onnx"
        assert not [name for name in contents(own) if name.rpartition("/")[2].startswith(".")]


@pytest.mark.parametrize("replace_last", [False, True])
def test_a_file_that_is_not_as_listed_is_published_again(
    replace_last: bool, own: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    """As where a replacement was killed between the file and the manifest."""
    manifest = json.loads((own / "manifest.json").read_text())
    manifest["models"][0]["sha256"] = "0" * 64
    (own / "manifest.json").write_text(json.dumps(manifest))
    entry = export(relu_with_bn.folder, dataset, own, replace_last=replace_last)
    assert entry.version == 1
    assert load_repository(own).get("relu_with_bn", 1).sha256 == entry.sha256


def test_an_older_version_that_is_not_as_listed_is_mended_in_its_own_place(
    own: Path, relu_with_bn: Any, nudged: Path, dataset: Dataset
) -> None:
    """Not in the last one's, even where that may be replaced."""
    second = export(nudged, dataset, own)
    manifest = json.loads((own / "manifest.json").read_text())
    manifest["models"][0]["sha256"] = "0" * 64
    (own / "manifest.json").write_text(json.dumps(manifest))
    first = export(relu_with_bn.folder, dataset, own, replace_last=True)
    served = load_repository(own).models["relu_with_bn"]
    assert {version: model.sha256 for version, model in served.items()} == {
        1: first.sha256,
        2: second.sha256,
    }


def test_a_file_that_is_lost_is_published_again_in_its_place(
    own: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    (own / "relu_with_bn/1/model.onnx").unlink()
    assert export(relu_with_bn.folder, dataset, own).version == 1
    assert list(load_repository(own).models["relu_with_bn"]) == [1]


def test_what_killed_exports_left_is_swept_and_nothing_else(own: Path) -> None:
    before = contents(own)
    left = (".partial-1-manifest.json", "relu_with_bn/1/.partial-1-x")
    kept = {
        "relu_with_bn/.hidden": b"",
        "elsewhere/relu_with_bn/seed-0/.partial-1-x": b"",
        ".export-x1/model.onnx": b"",  # no export makes such a folder: it is somebody's own
    }
    for name in (*left, *kept):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_bytes(b"")
    with held(own):
        pass
    assert contents(own) == before | kept


def test_of_two_exports_at_once_each_variant_is_published(
    own: Path, nudged: Path, relu_without_bn: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first, which has looked at the repository already, proves."""
    measure = training.export.measure_parity

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(training.export, "measure_parity", measure)
        export(relu_without_bn.folder, dataset, own)
        return measure(*arguments)

    monkeypatch.setattr(training.export, "measure_parity", meanwhile)
    export(nudged, dataset, own)
    assert set(listed(own)) == {
        ("relu_with_bn", 1),
        ("relu_with_bn", 2),
        ("relu_without_bn", 1),
    }
    assert len(load_repository(own).models) == 2


def test_who_finds_the_folder_held_says_so_and_waits(own: Path) -> None:
    said, order = [], []
    told = threading.Event()

    def second() -> None:
        def say(line: str) -> None:
            said.append(line)
            told.set()

        with held(own, say):
            order.append("second")

    with held(own):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert said == [f"{own}: another export or comparison is writing there, waiting for it"]
