"""The four nets of the study, as data: another normalization, or place for it, takes a new row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """What sets one net apart from the others; everything else is shared (see ``training.nets``).

    ``normalization`` is one of ``training.nets.NORMALIZATIONS``, or None. It stands between every
    convolution and its activation, as in Ioffe & Szegedy 2015, or behind the activation.
    """

    name: str
    activation: str
    normalization: str | None
    behind_activation: bool = False


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("sigmoid_without_bn", activation="sigmoid", normalization=None),
        Variant("sigmoid_with_bn", activation="sigmoid", normalization="batch"),
        Variant("relu_without_bn", activation="relu", normalization=None),
        Variant("relu_with_bn", activation="relu", normalization="batch"),
    )
}
