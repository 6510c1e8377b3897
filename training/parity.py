"""Whether the exported file computes what Keras does, within the rounding of float32.

In: a Keras net in inference mode, its file as the service runs it, and pictures. Out: the largest
difference of a probability, beside the error that Keras makes itself.

Both round, each summing in its own order. How much that moves an answer depends on the net: a
batch-norm layer with a small variance amplifies the rounding of the layers before it. So the same
net is also computed in float64, and a file may differ from Keras by ``TOLERANCE`` or by
``ROUNDINGS`` times Keras' own distance from float64, whichever is larger, up to ``MOST``.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from service.models.card import Parity
from service.models.model import Model
from training.dataset import Images
from training.evaluate import predict
from training.repository import ExportError

TOLERANCE = 1e-5
MOST = 1e-4
"""Beyond any rounding that may ship: the service refuses a net that moves by so much in a batch."""

ROUNDINGS = 3
"""Keras rounds, the file rounds, and the pictures are a sample."""


def measure_parity(net: keras.Model, model: Model, images: Images) -> Parity:
    """Compare Keras in inference mode with the exported file as the service runs it.

    ``images`` are uint8 [N, 32, 32, 3], at least 1,000. Raises ``ExportError`` where a probability
    differs by more than rounding explains.
    """
    if len(images) < 1000:
        raise ExportError(f"parity wants at least 1,000 pictures, not {len(images):,}")
    expected = predict(net, images)
    found = np.concatenate([model.run(part) for part in np.array_split(images, len(images) // 50)])
    error = float(np.abs(expected - found).max())
    own = float(np.abs(expected - predict(in_float64(net), images)).max())
    agreement = float((expected.argmax(axis=1) == found.argmax(axis=1)).mean())
    allowed = min(max(TOLERANCE, ROUNDINGS * own), MOST)
    if not error <= allowed:
        raise ExportError(
            f"{model.variant}: the exported file differs from Keras by up to {error:.2e} in a "
            f"probability (allowed: {allowed:.1e}; Keras' own rounding: {own:.1e}) on "
            f"{len(images):,} pictures and agrees on {agreement:.2%} of the answers; nothing was "
            "published"
        )
    return Parity(
        images=len(images),
        max_abs_error=error,
        top1_agreement=agreement,
        provider=model.provider,
        float32_error=own,
    )


def in_float64(net: keras.Model) -> keras.Model:
    """The same net, its weights as they are, computing in float64."""

    def wide(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float64"})

    copy: Any = keras.models.clone_model(net, clone_function=wide)
    copy.set_weights(net.get_weights())
    return copy
