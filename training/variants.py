"""The four nets of the study, as data: a further normalization is a new row, not new code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """What sets one net apart from the others; everything else is shared (see ``training.nets``).

    ``normalization`` is ``"batch"`` or None; it stands between the convolution and the activation.
    """

    name: str
    activation: str
    normalization: str | None


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("sigmoid_without_bn", activation="sigmoid", normalization=None),
        Variant("sigmoid_with_bn", activation="sigmoid", normalization="batch"),
        Variant("relu_without_bn", activation="relu", normalization=None),
        Variant("relu_with_bn", activation="relu", normalization="batch"),
    )
}
