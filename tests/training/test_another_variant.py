"""A further row among the variants is enough: it is fitted, frozen, exported, compared, served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from service.app import create_app
from service.models.repository import load_model
from service.settings import Settings
from tests.training.export.published import keras_answers
from training.compare import ARTICLE, compare
from training.dataset import Dataset
from training.export import export
from training.freeze import population_statistics
from training.table import markdown
from training.variants import VARIANTS, Variant

ROWS = {
    "group": Variant("relu_with_gn", "relu", "group"),
    "layer": Variant("sigmoid_with_ln", "sigmoid", "layer"),
    "instance": Variant("relu_with_in", "relu", "instance"),
    "batch, behind": Variant("tanh_then_bn", "tanh", "batch", behind_activation=True),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_further_variant_goes_the_whole_way(
    row: Variant,
    fit_and_freeze: Callable[..., Any],
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(VARIANTS, row.name, row)
    fitted = fit_and_freeze(row.name, dataset, steps=6)
    with_statistics = row.normalization == "batch"
    freeze = fitted.record["freeze"]
    assert freeze["kind"] == ("population" if with_statistics else "none")
    assert len(freeze["layers"]) == (10 if with_statistics else 0)
    shutil.copytree(fitted.folder, tmp_path.joinpath("runs", *fitted.folder.parts[-3:]))
    models = tmp_path / "models"
    entry = export(fitted.folder, dataset, models)
    assert (entry.variant, entry.version) == (row.name, 1)
    served = load_model(models / entry.file, sha256=None).run(dataset.test_images[:20])
    expected = keras_answers(fitted.frozen, dataset.test_images[:20])
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    content = compare(tmp_path / "runs", "test", models, lambda _: None)
    assert [each["variant"] for each in content["recipes"][0]["summary"]] == [row.name]
    assert f"| `{row.name}` | 1 |" in markdown(content)
    of_cifar100 = markdown(content | {"article": ARTICLE})  # whose nets were four
    assert of_cifar100.splitlines()[2].endswith(" | — |")

    client = create_app(Settings.from_environment({"MODELS_DIR": str(models)})).test_client()
    page = client.get("/")
    assert page.status_code == 200
    assert f"<code>{row.name}</code>" in page.text
    (model,) = client.get("/models").get_json()["models"]
    card = model["card"]
    assert (card["activation"], card["normalization"]) == (row.activation, row.normalization)


def test_statistics_behind_the_activation_are_of_what_it_lets_through(
    fit_and_freeze: Callable[..., Any], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS["batch, behind"]
    monkeypatch.setitem(VARIANTS, row.name, row)
    net = fit_and_freeze(row.name, dataset, steps=6).net
    batch = dataset.train_images[:50]
    mean, variance = population_statistics(net, iter([batch]))["block1_norm1"]
    inner = keras.Model(net.input, net.get_layer("block1_tanh1").output)
    values = keras.ops.convert_to_numpy(inner(batch.astype(np.float32))).astype(np.float64)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2), ddof=1), rtol=1e-3)
