"""Versions: which place a net takes among those that are published already."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import training.data
import training.export
import training.missing
from service.models.manifest import Entry
from service.models.repository import load_repository
from tests.training.export.published import contents, keras_answers, listed
from training.cli import main
from training.dataset import Dataset
from training.export import export
from training.repository import with_entry
from training.trial import read_record, write_record


def test_a_net_that_is_published_already_is_left_as_it_is(
    own: Path, relu_with_bn: Any, dataset: Dataset
) -> None:
    before = contents(own)
    said: list[str] = []
    entry = export(relu_with_bn.folder, dataset, own, say=said.append)
    assert entry == Entry(**listed(own)["relu_with_bn", 1])
    assert said == ["relu_with_bn: version 1 is this very net, nothing to publish"]
    assert contents(own) == before


def test_another_net_becomes_the_next_version(own: Path, nudged: Path, dataset: Dataset) -> None:
    before = contents(own)
    said: list[str] = []
    entry = export(nudged, dataset, own, say=said.append)
    assert (entry.version, entry.file) == (2, "relu_with_bn/2/model.onnx")
    first = listed(own)["relu_with_bn", 1]["top1"]
    assert said[-1] == (
        f"relu_with_bn: version 2 answers now where none is asked for ({entry.top1:.2%} of the "
        f"test pictures), instead of version 1 ({first:.2%}); "
        f'"python -m training promote relu_with_bn 1 --models {own}" takes that back'
    )
    assert set(listed(own)) == {("relu_with_bn", 1), ("relu_with_bn", 2)}
    assert contents(own)["relu_with_bn/1/model.onnx"] == before["relu_with_bn/1/model.onnx"]
    served = load_repository(own).get("relu_with_bn")
    assert served.version == 2
    net = keras.saving.load_model(nudged / "frozen.keras", compile=False)
    images = dataset.test_images[:5]
    np.testing.assert_allclose(served.run(images), keras_answers(net, images), atol=1e-5)


def test_the_same_fit_frozen_otherwise_is_another_net(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    record = read_record(nudged)
    assert record is not None
    record["outcome"]["seconds"] -= 1  # as of the net that is published: it answers otherwise
    write_record(nudged, record)
    assert export(nudged, dataset, own).version == 2


def test_another_net_takes_the_last_ones_place_if_asked_to(
    own: Path, nudged: Path, dataset: Dataset
) -> None:
    before = contents(own)
    entry = export(nudged, dataset, own, replace_last=True)
    assert entry.version == 1
    assert set(contents(own)) == set(before)
    assert contents(own)["relu_with_bn/1/model.onnx"] != before["relu_with_bn/1/model.onnx"]
    assert load_repository(own).get("relu_with_bn").sha256 == entry.sha256


def test_a_net_takes_the_place_of_none_of_another_recipe(
    own: Path, nudged: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """Version 2 is by another recipe: it is not replaced, and goes on answering."""
    record = read_record(nudged)
    assert record is not None
    other = Path(shutil.copytree(nudged, tmp_path / "other/relu_with_bn/seed-0"))
    record["configuration"]["recipe"]["name"] = "other"
    write_record(other, record)
    before = contents(own)
    assert export(other, dataset, own, replace_last=True).version == 2
    second = contents(own)["relu_with_bn/2/model.onnx"]
    assert contents(own)["relu_with_bn/1/model.onnx"] == before["relu_with_bn/1/model.onnx"]

    record["configuration"]["recipe"]["name"] = "test"
    record["outcome"]["seconds"] += 1.0  # else this very net is version 2 already
    write_record(nudged, record)
    said: list[str] = []
    entry = export(nudged, dataset, own, replace_last=True, say=said.append)
    assert entry.version == 1
    assert said[-1].endswith(
        '; version 2 answers where none is asked for, until "python -m training promote '
        f'relu_with_bn 1 --models {own}"'
    )
    assert contents(own)["relu_with_bn/1/model.onnx"] != before["relu_with_bn/1/model.onnx"]
    assert contents(own)["relu_with_bn/2/model.onnx"] == second
    assert load_repository(own).get("relu_with_bn").version == 2


def test_other_variants_stay_as_they_are(own: Path, relu_without_bn: Any, dataset: Dataset) -> None:
    before, entries = contents(own), listed(own)
    entry = export(relu_without_bn.folder, dataset, own, default="relu_without_bn")
    assert (entry.variant, entry.version) == ("relu_without_bn", 1)
    after = contents(own)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert listed(own)["relu_with_bn", 1] == entries["relu_with_bn", 1]
    repository = load_repository(own)
    assert repository.default == "relu_without_bn"
    assert repository.get().card.frozen.kind == "none"
    assert repository.get().card.normalization is None
    assert repository.get("relu_with_bn").card.normalization == "batch"


def test_a_net_that_an_older_version_holds_is_not_published_again(
    own: Path, relu_with_bn: Any, nudged: Path, dataset: Dataset
) -> None:
    """Whoever goes back to the first net learns which version it is, and who answers."""
    export(nudged, dataset, own)
    before, said = contents(own), []
    for replace_last in (False, True):
        entry = export(
            relu_with_bn.folder, dataset, own, replace_last=replace_last, say=said.append
        )
        assert entry.version == 1
    assert said == 2 * [
        "relu_with_bn: version 1 is this very net, nothing to publish; version 2 answers where "
        f'none is asked for, until "python -m training promote relu_with_bn 1 --models {own}"'
    ]
    assert contents(own) == before


def entry(variant: str, version: int) -> Entry:
    file = f"{variant}/{version}/model.onnx"
    return Entry(variant, version, file, "0" * 64, 1, "test", "synthetic", 0.5)


def test_versions_are_listed_by_their_numbers() -> None:
    """The tenth comes after the ninth, and answers; the second goes between in its place."""
    manifest = None
    for version in (9, 10, 2):
        manifest = with_entry(manifest, entry("relu_with_bn", version), None)
    assert manifest is not None
    assert [each.version for each in manifest.models] == [2, 9, 10]
    assert manifest.answering("relu_with_bn") == 2  # the newest export, which is to answer
    after = with_entry(manifest, entry("relu_with_bn", 10), None)
    assert (after.answering("relu_with_bn"), after.models) == (2, manifest.models)


def test_who_answers_by_default_goes_on_until_the_studys_own_variant_appears() -> None:
    first = with_entry(None, entry("sigmoid_with_bn", 1), None)
    second = with_entry(first, entry("relu_without_bn", 1), None)
    assert (first.default, second.default) == ("sigmoid_with_bn", "sigmoid_with_bn")
    own = entry("relu_with_bn", 1)
    assert with_entry(second, own, None, promote=False).default == "sigmoid_with_bn"
    third = with_entry(second, own, None)
    assert third.default == "relu_with_bn"
    chosen = with_entry(third, entry("relu_without_bn", 2), "relu_without_bn")
    assert chosen.default == "relu_without_bn"  # and goes on when relu_with_bn comes again
    assert with_entry(chosen, entry("relu_with_bn", 2), None).default == "relu_without_bn"


def test_whoever_shall_answer_by_default_is_exported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it is published when the others, which name it too, are."""
    order = []
    monkeypatch.setattr(
        training.export, "export", lambda folder, *_, **__: order.append(folder.parent.name)
    )
    monkeypatch.setattr(training.missing, "refuse_missing", lambda *_: None)
    monkeypatch.setattr(training.data, "load", lambda *_: None)
    done = CliRunner().invoke(main, ["export", "--runs", "x", "--default", "relu_without_bn"])
    assert done.exit_code == 0, done.output
    assert order == ["relu_without_bn", "sigmoid_without_bn", "sigmoid_with_bn", "relu_with_bn"]
