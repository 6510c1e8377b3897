"""What schemathesis cannot know of the service: what a picture is, and what goes with a tensor.

Loaded by its name (``SCHEMATHESIS_HOOKS``) into schemathesis' own process. Requests that are meant
to be refused stay as they are generated.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext

from service.docs.examples import BINARY, file
from tests.service.hostile import PHOTO
from tests.service.tiny import encode

LENGTH = "Inference-Header-Content-Length"
TENSOR = file(BINARY)
JSON_BYTES = TENSOR.index(b"}]}") + 3

PICTURE = encode(PHOTO)
PIXELS = 32 * 32 * 3

for kind in ("png", "jpeg", "webp", "gif", "bmp"):
    schemathesis.openapi.media_type(f"image/{kind}", st.just(encode(PHOTO, kind)))
schemathesis.openapi.media_type("application/octet-stream", st.just(PICTURE))


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Make what is meant to be accepted acceptable where a schema cannot say how."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if case.media_type == "multipart/form-data":
        kwargs["files"] = [("image", ("a.png", PICTURE, "image/png"))]
    if case.path.endswith("/infer"):
        for name in (LENGTH, "Content-Encoding"):
            case.headers.pop(name, None)
        if case.media_type == "application/octet-stream":
            kwargs["data"] = TENSOR
            case.headers[LENGTH] = str(JSON_BYTES)
        elif isinstance(case.body, dict):
            _fit(case.body["inputs"][0])
            case.body = _whole(case.body)


def _fit(tensor: dict[str, Any]) -> None:
    """Give a tensor the shape of its pixels, which are flat or nested."""
    if not isinstance(tensor["data"][0], list):
        tensor["data"] = tensor["data"][: len(tensor["data"]) // PIXELS * PIXELS]
    count = len(tensor["data"])
    tensor["shape"][0] = count if isinstance(tensor["data"][0], list) else count // PIXELS


def _whole(value: Any) -> Any:
    """1.0 as 1: one number to JSON Schema, but the service goes by how it is written."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
