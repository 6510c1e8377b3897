"""The model card: what a model file says about itself, inside its ONNX ``metadata_props``.

Batch normalization folds into the convolutions, so a graph cannot tell which variant it is, how
it was trained or which statistics were frozen. The card can, and a model without one is refused.

    card = ModelCard(
        schema_version=SCHEMA_VERSION, variant="relu_with_bn", activation="relu",
        normalization="batch", recipe="article", seed=0,
        training=Training(steps=40000, epochs=20, batch=80, learning_rate=1e-3, images=3200000,
                          seconds=1234.5, hardware="...", backend="tensorflow"),
        dataset=DatasetCard(name="cifar100", checksum="<sha256>", train_images=50000,
                            test_images=10000),
        classes=(...,), superclasses=(...,),        # one superclass for every class, aligned
        training_mean=121.936,
        frozen=Frozen(kind="population", images=8000, batches=100, layers=(FrozenLayer(...),)),
        evaluation=Evaluation(split="test", images=10000, before_freeze=Score(top1, top5, loss),
                              after_freeze=Score(top1, top5, loss)),
        parity=Parity(images=2000, max_abs_error=1e-7, top1_agreement=1.0, provider="..."),
        tools={"keras": "..."}, created="2026-01-01T00:00:00+00:00",
    )
    metadata_props[CARD_KEY] = card.to_json()       # the exporter writes
    card = ModelCard.from_json(text)                # the loader reads; CardError names the field

Every dataclass also checks itself when constructed: ``CardError`` for a value that makes no
sense (an accuracy above 1, a name list of another length), so no bad card is ever written. What
a field may hold stands beside its type, where the service's OpenAPI document takes it from too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from service.models.records import RecordError, parse, read
from service.models.rules import Between, Items, Matches, Moment, NotEmpty, OneOf, complaint

CARD_KEY = "model_card"
SCHEMA_VERSION = 1
QUANTILES = 5
"""Quantiles of a per-channel figure: minimum, lower quartile, median, upper quartile, maximum."""


class CardError(ValueError):
    """A model card is missing something or says something that cannot be."""


@dataclass(frozen=True)
class Training:
    """How the weights came about: ``images`` seen in all, wall-clock ``seconds`` of the fit.

    ``precision`` is what the fit computed in; weights, scores and the file are float32 always.
    ``kept_step`` is the step whose weights these are, where it is not the last of the ``steps``;
    ``hold_out`` is how many of the training pictures the fit validated on and did not see.
    """

    steps: int
    epochs: int
    batch: int
    learning_rate: float
    images: int
    seconds: float
    hardware: str
    backend: str
    precision: str = "float32"
    kept_step: int | None = None
    hold_out: int | None = None


@dataclass(frozen=True)
class DatasetCard:
    """What was trained and tested on; ``checksum`` is the SHA-256 of pixels and labels."""

    name: str
    checksum: Annotated[str, Matches("[0-9a-f]{64}", "a SHA-256 in hex")]
    train_images: int
    test_images: int

    def __post_init__(self) -> None:
        _obey(self, "dataset.")


@dataclass(frozen=True)
class FrozenLayer:
    """How far one layer's moving averages stood from the population, as quantiles over channels.

    ``mean_shift_sd`` is (moving mean - population mean) / population standard deviation;
    ``variance_ratio`` is moving variance / population variance; the layer's epsilon is added to
    every variance, as the layer itself does.
    """

    name: str
    channels: int
    mean_shift_sd: Annotated[tuple[float, ...], Items(QUANTILES)]
    variance_ratio: Annotated[tuple[float, ...], Items(QUANTILES)]

    def __post_init__(self) -> None:
        _obey(self, f"frozen.layers: {self.name}.")


@dataclass(frozen=True)
class Frozen:
    """Which statistics the graph normalizes with, and the training pictures they came from.

    ``kind`` is "population", or "none" for a net without batch normalization.
    """

    kind: Annotated[str, OneOf(("population", "none"))]
    images: int
    batches: int
    layers: tuple[FrozenLayer, ...]

    def __post_init__(self) -> None:
        _obey(self, "frozen.")


@dataclass(frozen=True)
class Score:
    """``top1`` and ``top5`` are shares of the pictures, 0..1; ``loss`` is cross-entropy in nats."""

    top1: Annotated[float, Between(0, 1)]
    top5: Annotated[float, Between(0, 1)]
    loss: float

    def __post_init__(self) -> None:
        _obey(self, "evaluation: ")


@dataclass(frozen=True)
class Evaluation:
    """The same pictures scored with the moving averages and with the population statistics."""

    split: str
    images: int
    before_freeze: Score
    after_freeze: Score


@dataclass(frozen=True)
class Parity:
    """How closely ONNX Runtime, on ``provider``, repeats the trained net's probabilities.

    ``float32_error`` is how far the trained net's own are from those of the same net in float64,
    where that was measured: a difference of a few times as much is rounding.
    """

    images: int
    max_abs_error: float
    top1_agreement: float
    provider: str
    float32_error: float | None = None


@dataclass(frozen=True)
class ModelCard:
    """One model, from its pixels to its parity.

    ``training_mean`` is the scalar that the graph subtracts from pixels 0..255. ``parity`` is
    None only while the exporter is still proving it. ``created`` is ISO 8601 with a time zone.
    """

    schema_version: Annotated[int, OneOf((SCHEMA_VERSION,))]
    variant: Annotated[str, NotEmpty()]
    activation: str
    normalization: str | None
    recipe: str
    seed: int
    training: Training
    dataset: DatasetCard
    classes: Annotated[tuple[str, ...], Items()]
    superclasses: tuple[str, ...]
    training_mean: Annotated[float, Between(0, 255)]
    frozen: Frozen
    evaluation: Evaluation
    parity: Parity | None
    tools: dict[str, str]
    created: Annotated[str, Moment()]

    def __post_init__(self) -> None:
        _check_schema(self.schema_version)
        _obey(self)
        if len(self.superclasses) != len(self.classes):
            raise CardError(
                f"superclasses has {len(self.superclasses)} names for {len(self.classes)} classes"
            )

    @property
    def passes(self) -> float:
        """How often the fit has seen each of its training pictures."""
        return self.training.images / (self.dataset.train_images - (self.training.hold_out or 0))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card. Raises ``CardError`` naming the field that is missing or wrong."""
        try:
            value = parse(text)
            if isinstance(value, dict) and "schema_version" in value:
                _check_schema(value["schema_version"])
            return read(cls, value)
        except RecordError as error:
            raise CardError(str(error)) from None

    def to_json(self) -> str:
        """The card as JSON, its fields in this file's order.

        Raises ``CardError`` for a number that JSON cannot hold (NaN or infinity).
        """
        value = asdict(self)
        for name in ("kept_step", "hold_out"):  # older software reads a card that lacks them
            if value["training"][name] is None:
                del value["training"][name]
        try:
            return json.dumps(value, allow_nan=False, ensure_ascii=False)
        except ValueError as error:
            raise CardError(f"{self.variant}: the card holds NaN or infinity: {error}") from None


def _obey(record: object, where: str = "") -> None:
    """Raises ``CardError`` where a field of ``record`` breaks its rule."""
    found = complaint(record)
    if found:
        raise CardError(where + found)


def _check_schema(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise CardError(f"schema_version is {version}, but this software reads {SCHEMA_VERSION}")
