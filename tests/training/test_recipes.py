"""The recipes' numbers, and that their optimizer steps as Keras 2.2's RMSprop did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from training import nets
from training.data import LOADERS
from training.recipes import RECIPES, WORDS, Augmentation
from training.step import compiled
from training.trial import override, recipe_of
from training.variants import VARIANTS

SHIPPED = Path(__file__).parents[2] / "exported_models"
GRADIENTS = np.array([0.0, 1e-12, -1e-9, 1e-7, 3e-7, -1e-6, 1e-4, -1e-2, 1.0, -30.0, 1e4])


def test_the_article_recipe_is_the_articles() -> None:
    recipe = RECIPES["article"]
    assert recipe.dataset == "cifar100"
    assert (recipe.steps_per_epoch, recipe.batch) == (2_000, 80)
    assert recipe.steps == 20 * recipe.steps_per_epoch == 40_000
    assert recipe.steps * recipe.batch == 3_200_000
    assert recipe.steps * recipe.batch / 50_000 == 64  # passes over CIFAR-100's training set
    assert (recipe.learning_rate, recipe.rho, recipe.dropout) == (1e-3, 0.9, 0.15)
    assert recipe.augmentation == Augmentation(shear=0.2, zoom=0.2, flip=True)


def test_the_modern_recipe_sees_as_much_as_the_articles() -> None:
    article, modern = RECIPES["article"], RECIPES["modern"]
    assert modern.dataset == article.dataset
    assert modern.steps * modern.batch == article.steps * article.batch
    assert modern.steps_per_epoch * modern.batch % 50_000 == 0  # an epoch is so many whole passes


def test_the_recipes_are_those_that_the_published_nets_were_fitted_by() -> None:
    """Up to the number of steps where the learning rate is constant: those nets had fewer."""
    published = json.loads((SHIPPED / "comparison.json").read_text())
    trials = [trial for section in published["recipes"] for trial in section["trials"]]
    assert {each["configuration"]["recipe"]["name"] for each in trials} == {"article", "modern"}
    for trial in trials:
        fitted = recipe_of(trial)
        recipe = override(fitted.name, trial["variant"])
        if recipe.schedule == "constant":
            recipe = replace(recipe, steps=fitted.steps)
        assert fitted == recipe


def test_the_demo_recipe_fits_the_embedded_data() -> None:
    assert RECIPES["demo"].dataset == "synthetic"


def test_every_data_set_that_a_recipe_may_name_can_be_loaded() -> None:
    """Another name would have been taken for CIFAR-100's."""
    assert set(LOADERS) == set(WORDS["dataset"])


@pytest.mark.parametrize("other", [{"shear": 0.2, "zoom": 0.0}, {"shear": 0.0, "zoom": 0.2}])
def test_a_shift_beside_shear_or_zoom_is_refused(other: dict[str, float]) -> None:
    """The transform would leave them out, and nobody would be told."""
    with pytest.raises(ValueError, match="a shift of 4 pixels goes without shear and zoom"):
        Augmentation(shift=4, **other)


@pytest.mark.parametrize("field", WORDS)
def test_a_word_that_means_nothing_is_refused(field: str) -> None:
    """It would be taken for one of those that do, and nobody would be told."""
    with pytest.raises(ValueError, match=f"recipe article: unknown {field} 'adam'; it is '"):
        replace(RECIPES["article"], **{field: "adam"})


@pytest.fixture(scope="module")
def updates() -> np.ndarray:
    """What the recipe's own compiled optimizer takes off weights in three steps: [3, gradients]."""
    recipe = RECIPES["article"]
    net = nets.build(recipe, VARIANTS["relu_without_bn"], 0.0, seed=0)
    optimizer = compiled(net, recipe, seed=0).optimizer
    weights = keras.Variable(np.zeros(len(GRADIENTS), np.float32))
    positions = [np.zeros(len(GRADIENTS))]
    for scale in (1.0, 0.5, -2.0):
        gradient = keras.ops.convert_to_tensor((scale * GRADIENTS).astype(np.float32))
        optimizer.apply([gradient], [weights])
        positions.append(keras.ops.convert_to_numpy(weights).astype(np.float64))
    return -np.diff(positions, axis=0)


def rmsprop(*, inside: float, outside: float) -> np.ndarray:
    """Three steps in float64: lr * g / (sqrt(v + inside) + outside)."""
    squares, taken = np.zeros_like(GRADIENTS), []
    for scale in (1.0, 0.5, -2.0):
        gradient = scale * GRADIENTS
        squares = 0.9 * squares + 0.1 * gradient**2
        taken.append(1e-3 * gradient / (np.sqrt(squares + inside) + outside))
    return np.array(taken)


def test_the_optimizer_is_rmsprop_with_a_floor_of_1e_7(updates: np.ndarray) -> None:
    np.testing.assert_allclose(updates, rmsprop(inside=1e-14, outside=0), rtol=1e-5, atol=1e-9)


def test_the_optimizer_steps_as_keras_2_2_did(updates: np.ndarray) -> None:
    """Keras 2.2 divided by sqrt(v) + 1e-7. Where the root of v is far above 1e-7, or far below, no
    float32 step tells the two apart; nowhere is the step smaller, or more than sqrt(2) as large.
    """
    article = rmsprop(inside=0, outside=1e-7)
    usual = np.abs(GRADIENTS) >= 1
    np.testing.assert_allclose(updates[:, usual], article[:, usual], rtol=1e-6, atol=1e-9)
    tiny = np.abs(GRADIENTS) <= 1e-12
    np.testing.assert_allclose(updates[:, tiny], article[:, tiny], rtol=1e-5, atol=1e-9)
    small = np.abs(GRADIENTS) >= 1e-4
    np.testing.assert_allclose(updates[:, small], article[:, small], rtol=4e-3, atol=1e-9)
    ratio = updates[:, GRADIENTS != 0] / article[:, GRADIENTS != 0]
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < np.sqrt(2) * (1 + 1e-5)


def test_keras_3s_own_floor_would_not_do(updates: np.ndarray) -> None:
    """Its default epsilon, 1e-7, stands inside the root: gradients of 1e-4 would hardly step."""
    default = rmsprop(inside=1e-7, outside=0)
    place = int(np.flatnonzero(GRADIENTS == 1e-4)[0])
    assert updates[0, place] > 9 * default[0, place]
