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
        frozen=Frozen(kind="population", images=8000, batches=80, layers=(FrozenLayer(...),)),
        evaluation=Evaluation(split="test", images=10000, before_freeze=Score(top1, top5, loss),
                              after_freeze=Score(top1, top5, loss)),
        parity=Parity(images=1000, max_abs_error=1e-7, top1_agreement=1.0, provider="..."),
        tools={"keras": "..."}, created="2026-01-01T00:00:00+00:00",
    )
    metadata_props[CARD_KEY] = card.to_json()       # the exporter writes
    card = ModelCard.from_json(text)                # the loader reads; CardError names the field

Every dataclass also checks itself when constructed: ``CardError`` for a value that makes no
sense (an accuracy above 1, a name list of another length), so no bad card is ever written.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime

from service.records import RecordError, parse, read

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


@dataclass(frozen=True)
class DatasetCard:
    """What was trained and tested on; ``checksum`` is the SHA-256 of pixels and labels."""

    name: str
    checksum: str
    train_images: int
    test_images: int

    def __post_init__(self) -> None:
        _check(
            re.fullmatch("[0-9a-f]{64}", self.checksum) is not None,
            f"dataset.checksum is {self.checksum!r}, not a SHA-256 in hex",
        )


@dataclass(frozen=True)
class FrozenLayer:
    """How far one layer's moving averages stood from the population, as quantiles over channels.

    ``mean_shift_sd`` is (moving mean - population mean) / population standard deviation;
    ``variance_ratio`` is moving variance / population variance; the layer's epsilon is added to
    every variance, as the layer itself does.
    """

    name: str
    channels: int
    mean_shift_sd: tuple[float, ...]
    variance_ratio: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in ("mean_shift_sd", "variance_ratio"):
            count = len(getattr(self, field))
            _check(
                count == QUANTILES,
                f"frozen.layers: {self.name}.{field} has {count} quantiles, not {QUANTILES}",
            )


@dataclass(frozen=True)
class Frozen:
    """Which statistics the graph normalizes with, and the training pictures they came from.

    ``kind`` is "population", or "none" for a net without batch normalization.
    """

    kind: str
    images: int
    batches: int
    layers: tuple[FrozenLayer, ...]

    def __post_init__(self) -> None:
        _check(
            self.kind in ("population", "none"),
            f'frozen.kind is "{self.kind}", not "population" or "none"',
        )


@dataclass(frozen=True)
class Score:
    """``top1`` and ``top5`` are shares of the pictures, 0..1; ``loss`` is cross-entropy in nats."""

    top1: float
    top5: float
    loss: float

    def __post_init__(self) -> None:
        for field in ("top1", "top5"):
            share = getattr(self, field)
            _check(0 <= share <= 1, f"evaluation: {field} is {share}, not between 0 and 1")


@dataclass(frozen=True)
class Evaluation:
    """The same pictures scored with the moving averages and with the population statistics."""

    split: str
    images: int
    before_freeze: Score
    after_freeze: Score


@dataclass(frozen=True)
class Parity:
    """How closely ONNX Runtime, on ``provider``, repeats the trained net's probabilities."""

    images: int
    max_abs_error: float
    top1_agreement: float
    provider: str


@dataclass(frozen=True)
class ModelCard:
    """One model, from its pixels to its parity; see the module's docstring for an example.

    ``training_mean`` is the scalar that the graph subtracts from pixels 0..255. ``parity`` is
    None only while the exporter is still proving it. ``created`` is ISO 8601 with a time zone.
    """

    schema_version: int
    variant: str
    activation: str
    normalization: str | None
    recipe: str
    seed: int
    training: Training
    dataset: DatasetCard
    classes: tuple[str, ...]
    superclasses: tuple[str, ...]
    training_mean: float
    frozen: Frozen
    evaluation: Evaluation
    parity: Parity | None
    tools: dict[str, str]
    created: str

    def __post_init__(self) -> None:
        _check_schema(self.schema_version)
        _check(bool(self.variant), "variant is empty")
        _check(bool(self.classes), "classes is empty")
        _check(len(set(self.classes)) == len(self.classes), "classes names a class twice")
        _check(
            len(self.superclasses) == len(self.classes),
            f"superclasses has {len(self.superclasses)} names for {len(self.classes)} classes",
        )
        _check(
            0 <= self.training_mean <= 255,
            f"training_mean is {self.training_mean}, not between 0 and 255",
        )
        try:
            zone = datetime.fromisoformat(self.created).tzinfo
        except ValueError:
            raise CardError(f"created is {self.created!r}, not an ISO 8601 time") from None
        _check(zone is not None, f"created is {self.created!r}, without a time zone")

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
        try:
            return json.dumps(asdict(self), allow_nan=False, ensure_ascii=False)
        except ValueError as error:
            raise CardError(f"{self.variant}: the card holds NaN or infinity: {error}") from None


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise CardError(message)


def _check_schema(version: object) -> None:
    _check(
        version == SCHEMA_VERSION,
        f"schema_version is {version}, but this software reads {SCHEMA_VERSION}",
    )
