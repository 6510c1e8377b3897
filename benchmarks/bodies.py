"""What the benchmarks send: a picture, alone, in a form, and as a tensor of many."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOUNDARY = "benchmark"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def make_picture() -> bytes:
    """A 32x32 PNG of a photo's size, about 2.4 kB: smooth colours with some noise."""
    noise = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def multipart(picture: bytes) -> bytes:
    """The picture as the field ``image`` of a form."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"'
    return (
        f"{head}\r\nContent-Type: image/png\r\n\r\n".encode()
        + picture
        + (f"\r\n--{BOUNDARY}--\r\n".encode())
    )


def infer_request(pixels: NDArray[np.uint8], count: int) -> tuple[bytes, int]:
    """The body of an Open Inference Protocol request for ``count`` pictures, and its JSON's length.

    The tensor and the probabilities travel as bytes.
    """
    data = np.repeat(pixels[None], count, axis=0).tobytes()
    images: dict[str, Any] = {
        "name": "images",
        "datatype": "UINT8",
        "shape": [count, *pixels.shape],
    }
    images["parameters"] = {"binary_data_size": len(data)}
    request = {"inputs": [images], "parameters": {"binary_data_output": True}}
    head = json.dumps(request).encode()
    return head + data, len(head)
