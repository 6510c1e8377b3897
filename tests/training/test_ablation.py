"""The ablation of the freeze, held against float64 NumPy and against the freeze itself."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.ablation
import training.freeze
from tests.training import oracle
from training.ablation import KINDS, MOVING, ablate, markdown
from training.dataset import hold_out
from training.freeze import population_statistics
from training.nets import running_statistics
from training.recipes import Augmentation
from training.repository import ExportError
from training.trial import TrialError, read_record, write_record


@pytest.fixture(scope="module")
def content(relu_with_bn: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    to = tmp_path_factory.mktemp("ablation")
    content = ablate([relu_with_bn.folder], relu_with_bn.data, to, images=4_800)
    assert json.loads((to / "ablation.json").read_text()) == content
    assert (to / "ablation.md").read_text() == markdown(content)
    return content


def test_the_ends_of_the_way_are_the_records_figures(
    content: dict[str, Any], relu_with_bn: Any
) -> None:
    """Moving averages score as before the freeze; the last kind as after it, on the same pictures
    in batches of another size.
    """
    scores = content["trials"][0]["scores"]
    record = relu_with_bn.record["freeze"]
    assert scores[MOVING] == pytest.approx(record["before"])
    plain = scores["population, plain pictures, dropout off"]
    assert plain["loss"] == pytest.approx(record["after"]["loss"], abs=0.05)
    assert list(scores) == [MOVING, *KINDS]
    assert len({score["loss"] for score in scores.values()}) == 5  # five kinds, not one


def test_the_table_has_a_row_a_kind(content: dict[str, Any]) -> None:
    lines = [line for line in markdown(content).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5
    for line, (kind, score) in zip(lines[2:], content["trials"][0]["scores"].items(), strict=True):
        assert line == f"| {kind} | {100 * score['top1']:.2f} % / {score['loss']:.3f} |"


def test_the_pictures_that_were_used_are_stated(content: dict[str, Any]) -> None:
    """4,800 were asked for, of 1,000 that there are."""
    assert content["trials"][0]["images"] == 1_000
    assert "of the same 1,000 training pictures" in markdown(content)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, int | None]]:
    """The pictures that each population is taken from, in their order, and its dropout seed."""
    seen: list[tuple[np.ndarray, int | None]] = []

    def counted(net: Any, batches: Any, seed: int | None = None) -> Any:
        seen.append((np.concatenate(list(batches)), seed))
        return {
            layer.name: (layer.moving_mean.numpy(), layer.moving_variance.numpy())
            for layer in running_statistics(net)
        }

    monkeypatch.setattr(training.ablation, "population_statistics", counted)
    return seen


def with_tests(data: Any, count: int) -> Any:
    return replace(data, test_images=data.test_images[:count], test_labels=data.test_labels[:count])


@pytest.mark.parametrize(("asked", "used"), [(999, 980), (20, 20)])
def test_pictures_that_make_no_whole_batch_are_not_counted(
    asked: int, used: int, relu_with_bn: Any, tmp_path: Path, taken: list[Any]
) -> None:
    few = with_tests(relu_with_bn.data, 10)
    content = ablate([relu_with_bn.folder], few, tmp_path, images=asked)
    assert [len(pictures) for pictures, _ in taken] == [used] * 4
    assert content["trials"][0]["images"] == used


@pytest.mark.parametrize("held_out", [0, 900])
def test_a_row_is_of_the_pictures_and_the_dropout_that_it_names(
    held_out: int, relu_with_bn: Any, tmp_path: Path, taken: list[Any]
) -> None:
    """And of none that were held out from the fit, though as many as there are were asked for."""
    folder = copy_of(relu_with_bn, tmp_path, seed=0, held_out=held_out)
    data = with_tests(relu_with_bn.data, 10)
    content = ablate([folder], data, tmp_path / "to", images=1_000)
    held = set()
    if held_out:
        _, pictures, _ = hold_out(data, held_out)
        held = {picture.tobytes() for picture in pictures}
    allowed = {picture.tobytes() for picture in data.train_images} - held
    rows = [kind for kind in content["trials"][0]["scores"] if kind != MOVING]
    assert len(rows) == len(taken) == 4
    for kind, (pictures, dropout_seed) in zip(rows, taken, strict=True):
        assert len(pictures) == 1_000 - held_out
        plain = {picture.tobytes() for picture in pictures} == allowed
        assert plain == ("plain pictures" in kind)
        assert plain != ("augmented pictures" in kind)
        assert (dropout_seed is not None) == ("dropout on" in kind)
        assert (dropout_seed is None) == ("dropout off" in kind)


def test_every_picture_is_augmented_as_the_recipe_says_by_chance_of_its_own(
    relu_with_bn: Any, tmp_path: Path, taken: list[Any]
) -> None:
    """Of one picture 200 times, in batches of 20: most of the 81 places that it can be shifted to.

    And the row says after how many steps: here the fit stopped before the recipe's 60.
    """
    folder = copy_of(relu_with_bn, tmp_path, seed=0, held_out=0)
    record = read_record(folder)
    assert record is not None
    record["configuration"]["recipe"]["augmentation"] = asdict(
        Augmentation(shear=0.0, zoom=0.0, flip=False, shift=4)
    )
    record["outcome"]["steps"] = 40
    write_record(folder, record)
    data = with_tests(relu_with_bn.data, 10)
    picture = data.train_images[0]
    data = replace(data, train_images=np.repeat(picture[None], len(data.train_images), axis=0))
    content = ablate([folder], data, tmp_path / "to", images=200)
    assert content["trials"][0]["steps"] == 40
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    places = itertools.product(range(9), repeat=2)
    possible = {padded[row : row + 32, column : column + 32].tobytes() for row, column in places}
    assert len(possible) == 81
    for pictures, _ in taken[:2]:
        shown = {each.tobytes() for each in pictures}
        assert shown <= possible
        assert len(shown) > 60
    for pictures, _ in taken[2:]:
        assert {each.tobytes() for each in pictures} == {picture.tobytes()}


@pytest.mark.parametrize("of_the_second", [{"seed": 1}, {"held_out": 100}])
def test_the_note_says_where_columns_are_of_different_pictures(
    of_the_second: dict[str, int], relu_with_bn: Any, tmp_path: Path, taken: list[Any]
) -> None:
    folders = [
        copy_of(relu_with_bn, tmp_path / name, **{"seed": 0, "held_out": 0, **changes})
        for name, changes in (("one", {}), ("two", of_the_second), ("three", {}))
    ]
    data = with_tests(relu_with_bn.data, 10)
    content = ablate(folders, data, tmp_path / "to", images=40)
    one, two, three = ({each.tobytes() for each in taken[place][0]} for place in (3, 7, 11))
    assert one == three != two
    note = markdown(content).splitlines()[-1]
    assert (
        "every population of a column is of the same 40 training pictures; another column" in note
    )
    content["trials"].pop(1)
    note = markdown(content).splitlines()[-1]
    assert note.endswith("every population is of the same 40 training pictures.")


def copy_of(fitted: Any, runs: Path, *, seed: int, held_out: int) -> Path:
    """The trial's folder, as if it had been fitted from that seed and with that hold-out."""
    place = runs / "test" / fitted.folder.parent.name / f"seed-{seed}"
    folder = Path(shutil.copytree(fitted.folder, place))
    record = read_record(folder)
    assert record is not None
    record["configuration"].update(seed=seed, hold_out=held_out)
    write_record(folder, record)
    return folder


def test_too_few_pictures_and_a_place_that_is_no_folder_are_refused(
    relu_with_bn: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrialError, match="19 pictures make no batch of 20; ask for 20"):
        ablate([relu_with_bn.folder], relu_with_bn.data, tmp_path, images=19)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ExportError, match="file: is no folder"):
        ablate([relu_with_bn.folder], relu_with_bn.data, tmp_path / "file", 20)


def test_dropout_on_is_dropout_on(relu_with_bn: Any) -> None:
    """What reaches the first layer behind a dropout keeps its mean and gains the variance that
    dropping adds: E[(m x / q)^2] = E[x^2] / q.
    """
    net, data = relu_with_bn.net, relu_with_bn.data
    batches = [data.train_images[start : start + 50] for start in range(0, 500, 50)]
    off = population_statistics(net, batches)
    on = population_statistics(net, batches, dropout_seed=3)
    for half in (1, 2):  # before any dropout
        for one, two in zip(off[f"block1_norm{half}"], on[f"block1_norm{half}"], strict=True):
            np.testing.assert_array_equal(one, two)
    mean_off, variance_off = off["block2_norm1"]
    mean_on, variance_on = on["block2_norm1"]
    assert np.abs(mean_on - mean_off).max() < 0.05 * np.sqrt(variance_off).max()
    weights = oracle.weights_of(net)
    kernel = weights["block2_conv1"][0].astype(np.float64)
    inputs = _behind_block1(weights, relu_with_bn, np.concatenate(batches[:2]))
    squares = (inputs**2).mean(axis=(0, 1, 2))
    inside = (15 / 16 * np.ones(3) + 1 / 48) @ np.ones(3) / 3  # share of taps inside a 16x16 map
    added = 0.15 / 0.85 * (kernel**2 * squares[:, None]).sum(axis=(0, 1, 2)) * inside**2
    np.testing.assert_allclose(variance_on - variance_off, added, rtol=0.15)


def _behind_block1(weights: oracle.Weights, fitted: Any, images: np.ndarray) -> np.ndarray:
    x = images.astype(np.float64) - fitted.training_mean
    for half in (1, 2):
        x = oracle.convolve(x, *weights[f"block1_conv{half}"])
        gamma, beta, *_ = (w.astype(np.float64) for w in weights[f"block1_norm{half}"])
        mean, variance, _ = oracle.two_pass_moments(x)
        x = oracle.relu(oracle.normalize(x, gamma, beta, mean, variance))
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def test_no_two_layers_drop_alike(relu_with_bn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the fit; with one seed they would drop the same places of every block."""
    seeds: list[int] = []
    dropout = training.freeze._ConstantDropout

    def watched(rate: float, seed: int) -> Any:
        seeds.append(seed)
        return dropout(rate, seed)

    monkeypatch.setattr(training.freeze, "_ConstantDropout", watched)
    population_statistics(relu_with_bn.net, [relu_with_bn.data.train_images[:2]], dropout_seed=3)
    assert len(seeds) == len(set(seeds)) == 4


def test_other_data_than_it_was_fitted_on_is_refused(
    relu_with_bn: Any, small_dataset: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrialError, match="give the data it was fitted on"):
        ablate([relu_with_bn.folder], small_dataset, tmp_path, 20)
    assert list(tmp_path.iterdir()) == []


def test_a_net_without_statistics_has_nothing_to_take_apart(
    relu_without_bn: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(TrialError, match="choose a variant with BN"):
        ablate([relu_without_bn.folder], relu_without_bn.data, tmp_path, 20, said.append)
    assert "keeps no running statistics" in said[0]


def test_what_is_not_fitted_is_refused_by_name(relu_with_bn: Any, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="seed-1: no fitted net there; run the training"):
        ablate([relu_with_bn.folder.with_name("seed-1")], relu_with_bn.data, tmp_path, 20)
