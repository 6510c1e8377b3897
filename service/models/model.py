"""One model in memory, ready to run: pixels in, probabilities out, in batches of any size.

    model.run(images)                    # uint8 [N, 32, 32, 3] RGB -> float32 [N, classes]
    model.variant, .version, .file, .card, .sha256, .bytes, .provider

``service.models.repository`` makes them of files. Nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.models.card import ModelCard

IMAGE_SHAPE = (32, 32, 3)

GPU_BATCH = 64
"""The largest batch on a GPU, where the settings do not say."""

GPU_BATCHES = (1, 8)
"""Smaller ones there: a GPU takes hardly longer for a few pictures more."""


class Model:
    """One model in memory and the ONNX Runtime session that runs it; safe to share by threads.

    Where there are ``sized`` sessions, for batches of just that many pictures, they run all.
    """

    def __init__(
        self,
        session: Any,
        sized: Mapping[int, Any],
        *,
        card: ModelCard,
        file: str,
        version: int,
        sha256: str,
        size: int,
    ) -> None:
        self._session = session
        self._sized = sized
        self.card = card
        self.variant = card.variant
        self.file = file
        self.version = version
        self.sha256 = sha256
        self.bytes = size
        self.provider: str = session.get_providers()[0]
        self.batch_sizes = tuple(sorted(sized))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of every class: uint8 [N, 32, 32, 3] RGB 0..255 -> float32 [N, classes].

        Raises ``ValueError`` for another shape or dtype.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != IMAGE_SHAPE:
            raise ValueError(
                f"images are {images.dtype} {list(images.shape)}, not uint8 [N, 32, 32, 3]"
            )
        if not self.batch_sizes:
            return _run(self._session, images)
        most = self.batch_sizes[-1]
        parts = [self._run_padded(images[i : i + most]) for i in range(0, len(images), most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_padded(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(images)
        size = next(size for size in self.batch_sizes if size >= count)
        if size > count:
            padded = np.zeros((size, *IMAGE_SHAPE), np.uint8)
            padded[:count] = images
            images = padded
        return _run(self._sized[size], images)[:count]


def batch_sizes(most: int) -> tuple[int, ...]:
    """The few sizes to which batches of up to ``most`` pictures are padded."""
    return (*(size for size in GPU_BATCHES if size < most), most)


def _run(session: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = session.run(["probabilities"], {"images": images})[0]
    return probabilities
