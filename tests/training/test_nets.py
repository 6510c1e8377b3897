"""The four nets: what they are made of, and that they compute what the article describes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.training import oracle
from training.nets import build, logits_of, running_statistics
from training.recipes import RECIPES
from training.variants import VARIANTS, Variant

ARTICLE, MEAN = RECIPES["article"], 121.936


@pytest.fixture(scope="module")
def nets() -> dict[str, keras.Model]:
    return {name: build(ARTICLE, variant, MEAN, seed=1) for name, variant in VARIANTS.items()}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def sizes(weights: list[keras.Variable]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def test_there_are_four_variants() -> None:
    assert {(each.activation, each.normalization) for each in VARIANTS.values()} == set(
        itertools.product(("sigmoid", "relu"), (None, "batch"))
    )
    assert list(VARIANTS) == [
        "sigmoid_without_bn",
        "sigmoid_with_bn",
        "relu_without_bn",
        "relu_with_bn",
    ]
    assert all(name == variant.name for name, variant in VARIANTS.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_number_of_parameters_is_the_articles(name: str, nets: dict[str, keras.Model]) -> None:
    net = nets[name]
    trainable, fixed = (414_560, 1_360) if name.endswith("with_bn") else (413_200, 0)
    assert sizes(net.trainable_weights) == trainable
    assert sizes(net.non_trainable_weights) == fixed


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_stand_in_the_articles_order(name: str, nets: dict[str, keras.Model]) -> None:
    half = ["Conv2D", "BatchNormalization", "Activation"]
    if name.endswith("without_bn"):
        half.remove("BatchNormalization")
    block = [*half, *half, "MaxPooling2D", "Dropout"]
    layers = nets[name].layers
    assert [type(layer).__name__ for layer in layers] == [
        *("InputLayer", "Rescaling"),
        *block * 4,
        *half * 2,
        *("Flatten", "Dense", "Softmax"),
    ]
    for before, after in itertools.pairwise(layers[1:]):
        assert after.input is before.output  # one chain, nothing beside it
    assert layers[1].input is nets[name].input


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_are_set_as_in_the_article(name: str, nets: dict[str, keras.Model]) -> None:
    of_kind: dict[str, list[keras.layers.Layer]] = {}
    for layer in nets[name].layers:
        of_kind.setdefault(type(layer).__name__, []).append(layer)
    convolutions = of_kind["Conv2D"]
    assert [layer.filters for layer in convolutions] == [60] * 8 + [100] * 2
    for layer in convolutions:
        assert (layer.kernel_size, layer.strides) == ((3, 3), (1, 1))
        assert (layer.padding, layer.use_bias, layer.activation.__name__) == (
            "same",
            True,
            "linear",
        )
    for layer in of_kind["Activation"]:
        assert layer.activation.__name__ == name.split("_")[0]
    for layer in of_kind.get("BatchNormalization", []):
        assert (layer.momentum, layer.epsilon, layer.axis) == (0.99, 1e-3, -1)
        assert layer.center
        assert layer.scale
    for layer in of_kind["MaxPooling2D"]:
        assert (layer.pool_size, layer.strides) == ((2, 2), (2, 2))
    assert [layer.rate for layer in of_kind["Dropout"]] == [0.15] * 4


def test_a_picture_costs_57_million_multiply_adds(nets: dict[str, keras.Model]) -> None:
    total = 0
    for layer in nets["relu_with_bn"].layers:
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    assert total == pytest.approx(57.2e6, abs=0.05e6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_net_computes_the_articles_formulas(
    name: str, nets: dict[str, keras.Model], pictures: np.ndarray
) -> None:
    net = nets[name]
    expected = oracle.forward(oracle.weights_of(net), name.split("_")[0], MEAN, pictures)
    answers = keras.ops.convert_to_numpy(net(pictures.astype(np.float32), training=False))
    assert answers.dtype == np.float32
    assert answers.shape == (4, 100)
    np.testing.assert_allclose(answers, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    logits = keras.ops.convert_to_numpy(logits_of(net)(pictures.astype(np.float32)))
    scale = np.abs(expected.logits).max()
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-4, atol=1e-5 * scale)


def test_the_first_layer_subtracts_the_training_mean(pictures: np.ndarray) -> None:
    for mean in (0.0, 97.25):
        net = build(ARTICLE, VARIANTS["relu_with_bn"], mean, seed=1)
        first = keras.Model(net.input, net.layers[1].output)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(first(pictures.astype(np.float32))),
            pictures.astype(np.float64) - mean,
            atol=1e-4,
        )


def test_a_seed_gives_the_same_weights_and_another_seed_gives_others() -> None:
    variant = VARIANTS["relu_with_bn"]
    first, again, other = (build(ARTICLE, variant, MEAN, seed) for seed in (1, 1, 2))
    for one, two in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [layer.name for layer in first.layers if hasattr(layer, "kernel")]
    assert len(kernels) == 11
    drawn = {}
    for net in (first, other):
        for name in kernels:
            kernel = net.get_layer(name).get_weights()[0]
            drawn[kernel.tobytes()[:64]] = name  # the first 16 weights
    assert len(drawn) == 22  # no kernel starts as another one, of this seed or of the other


def test_all_variants_start_from_the_same_kernels(nets: dict[str, keras.Model]) -> None:
    first, *others = nets.values()
    for layer in first.layers:
        if hasattr(layer, "kernel"):
            for other in others:
                np.testing.assert_array_equal(
                    other.get_layer(layer.name).get_weights()[0], layer.get_weights()[0]
                )


def test_kernels_start_glorot_uniform_and_biases_at_zero(nets: dict[str, keras.Model]) -> None:
    for layer in nets["sigmoid_with_bn"].layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel, bias = layer.get_weights()
        taps = int(np.prod(kernel.shape[:-2]))
        limit = np.sqrt(6 / (taps * (kernel.shape[-2] + kernel.shape[-1])))
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
        assert not bias.any()


@pytest.mark.parametrize(("name", "gain"), [("relu", 2**0.5), ("sigmoid", 20 / 3)])
def test_a_scaled_start_is_of_the_gain_that_the_activation_wants(name: str, gain: float) -> None:
    """He et al. 2015 for ReLU. A sigmoid is half a tanh, whose gain is 5/3, of half its input, and
    1/2: what that half makes of the kernel behind it, the bias takes off.
    """
    scaled = replace(ARTICLE, initialization="scaled")
    net = build(scaled, VARIANTS[f"{name}_without_bn"], MEAN, seed=1)
    first, *behind, logits = (layer for layer in net.layers if layer.weights)
    for layer in (first, *behind, logits):
        kernel, bias = (each.astype(np.float64) for each in layer.get_weights())
        fan_in = kernel.size // kernel.shape[-1]
        fan_out = kernel.size // kernel.shape[-2]
        glorot = layer in (first, logits)  # no activation before the one, none behind the other
        spread = np.sqrt(2 / (fan_in + fan_out)) if glorot else gain / np.sqrt(fan_in)
        assert kernel.std() == pytest.approx(spread, rel=0.03)
        assert np.abs(kernel).max() == pytest.approx(np.sqrt(3) * spread, rel=0.01)  # uniform
        half = kernel.reshape(fan_in, -1).sum(axis=0) / 2
        shifted = name == "sigmoid" and layer is not first
        np.testing.assert_allclose(bias, -half if shifted else 0 * half, atol=1e-5)


def test_dropout_is_the_recipes(pictures: np.ndarray) -> None:
    net = build(replace(ARTICLE, dropout=0.0), VARIANTS["relu_without_bn"], MEAN, seed=1)
    x = pictures.astype(np.float32)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(net(x, training=True)),
        keras.ops.convert_to_numpy(net(x, training=False)),
    )


def test_running_statistics_are_found_in_the_order_of_the_data(
    nets: dict[str, keras.Model],
) -> None:
    names = [f"block{block}_norm{half}" for block in range(1, 6) for half in (1, 2)]
    assert [layer.name for layer in running_statistics(nets["relu_with_bn"])] == names
    assert running_statistics(nets["relu_without_bn"]) == []


def test_an_unknown_normalization_is_refused_by_name() -> None:
    variant = replace(VARIANTS["relu_with_bn"], normalization="spectral")
    assert isinstance(variant, Variant)
    with pytest.raises(ValueError, match="unknown normalization 'spectral'"):
        build(ARTICLE, variant, MEAN, seed=0)


@pytest.mark.parametrize(("kind", "groups"), [("group", 20), ("layer", 1), ("instance", 60)])
def test_other_normalizations_are_of_one_picture_alone(
    kind: str, groups: int, pictures: np.ndarray
) -> None:
    """Over a group of channels and all places of a picture, in training as in inference."""
    net = build(replace(ARTICLE, dropout=0.0), Variant("other", "relu", kind), MEAN, seed=1)
    assert running_statistics(net) == []
    before = keras.Model(net.input, net.get_layer("block1_conv1").output)
    after = keras.Model(net.input, net.get_layer("block1_norm1").output)
    x = keras.ops.convert_to_numpy(before(pictures.astype(np.float32))).astype(np.float64)
    grouped = x.reshape(4, 32, 32, groups, 60 // groups)
    centred = grouped - grouped.mean(axis=(1, 2, 4), keepdims=True)
    expected = centred / np.sqrt(grouped.var(axis=(1, 2, 4), keepdims=True) + 1e-3)
    for training in (False, True):
        found = keras.ops.convert_to_numpy(after(pictures.astype(np.float32), training=training))
        np.testing.assert_allclose(found, expected.reshape(x.shape), atol=1e-4)


def test_a_normalization_may_stand_behind_the_activation(nets: dict[str, keras.Model]) -> None:
    variant = replace(VARIANTS["relu_with_bn"], behind_activation=True)
    net = build(ARTICLE, variant, MEAN, seed=1)
    assert [type(layer).__name__ for layer in net.layers[2:5]] == [
        *("Conv2D", "Activation", "BatchNormalization"),
    ]
    usual = nets["relu_with_bn"]
    assert {layer.name for layer in net.layers} == {layer.name for layer in usual.layers}
    assert [each.shape for each in net.weights] == [each.shape for each in usual.weights]
