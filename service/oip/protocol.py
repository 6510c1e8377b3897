"""The Open Inference Protocol's requests and answers, declared for its views and the document.

In: nothing but the constants of ``service.oip.tensors``. Out: the parameters that the views read
by, the types that they answer with, the problems that they raise, and their bodies as JSON Schema.
"""

from __future__ import annotations

from http import HTTPStatus
from math import prod
from typing import Any, Literal, TypedDict

from service.headers import HEADER_LENGTH
from service.models.model import IMAGE_SHAPE
from service.oip.tensors import INPUT, INPUT_TYPE, OUTPUT, SHARED_MEMORY
from service.operations import AS_IT_IS, Body, Text, Whole
from service.problems import Refusals
from service.schema import Schema
from service.settings import Settings

NAME = Text("name", "A variant.", variant=True)
VERSION = Text("version", "One of its versions.", pattern="[0-9]{1,19}")
ENCODING = Text(
    "Content-Encoding",
    "How the whole body is compressed.",
    values=("gzip", "deflate", AS_IT_IS),
)
JSON_LENGTH = Whole(
    HEADER_LENGTH, "Where a tensor follows the JSON as bytes: the bytes of the JSON.", 1 << 30
)

WISH_BYTES = 65_536
"""Of what may be asked of the index; nobody has more to say than one word."""

UNKNOWN_MODEL: Refusals = {HTTPStatus.NOT_FOUND: "no such model or version"}
BAD_TENSOR: Refusals = {
    HTTPStatus.BAD_REQUEST: "a request that is not what the protocol, or the model, has it to be",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "more than {max_body_bytes:,} bytes or {max_images} pictures, or JSON longer than they need"
    ),
}
BAD_WISH: Refusals = {
    HTTPStatus.BAD_REQUEST: "a body that is not an object",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        f"more than {WISH_BYTES:,} bytes, or than `MAX_BODY_BYTES` where that is less"
    ),
}


class Server(TypedDict):
    """The server, and the extensions of the protocol that it has."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(TypedDict):
    """The process answers."""

    live: Literal[True]


class ServerReady(TypedDict):
    """Every model answers."""

    ready: Literal[True]


class ModelReady(TypedDict):
    """The model answers."""

    name: str
    ready: Literal[True]


class Tensor(TypedDict):
    """A tensor that a model takes or gives; -1 is as many as there are pictures."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """A model's versions and tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class ConfiguredInput(TypedDict):
    """An input in Triton's configuration of a model."""

    name: str
    data_type: str
    dims: list[int]


class ConfiguredOutput(ConfiguredInput):
    """An output in Triton's configuration of a model."""

    label_filename: str


class ModelConfig(TypedDict):
    """What Triton's `config.pbtxt` says of a model."""

    name: str
    platform: str
    max_batch_size: int
    input: list[ConfiguredInput]
    output: list[ConfiguredOutput]
    version_policy: dict[str, dict[str, str]]
    dynamic_batching: dict[str, str]


class IndexEntry(TypedDict):
    """A version of a model."""

    name: str
    version: str
    state: Literal["READY"]
    reason: str


def _wish(settings: Settings) -> dict[str, Any]:
    """What ``repository_index`` reads; every version is ready, so that the wish changes nothing."""
    schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    return {"application/json": {"schema": schema}}


def _infer(settings: Settings) -> dict[str, Any]:
    """What ``infer`` reads."""
    binary = {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "maxLength": settings.max_body_bytes,
    }
    return {
        "application/json": {"schema": _request(settings.max_images)},
        "application/octet-stream": {"schema": binary},
    }


def _request(max_images: int) -> Schema:
    """The JSON of a request without binary data, as ``tensors.read_request`` reads it."""
    pixel = {"type": "integer", "minimum": 0, "maximum": 255}
    flat = {
        "type": "array",
        "items": pixel,
        "minItems": prod(IMAGE_SHAPE),
        "maxItems": prod(IMAGE_SHAPE) * max_images,
    }
    nested: Schema = pixel
    for length in reversed(IMAGE_SHAPE):
        nested = {"type": "array", "items": nested, "minItems": length, "maxItems": length}
    nested = {"type": "array", "items": nested, "minItems": 1, "maxItems": max_images}
    count = {"type": "integer", "minimum": 1, "maximum": max_images}
    shape = {
        "type": "array",
        "prefixItems": [count, *({"const": length} for length in IMAGE_SHAPE)],
        "minItems": 1 + len(IMAGE_SHAPE),
        "maxItems": 1 + len(IMAGE_SHAPE),
    }
    tensor = {
        "type": "object",
        "properties": {
            "name": {"const": INPUT},
            "datatype": {"const": INPUT_TYPE},
            "shape": shape,
            "data": {
                "description": "Row by row, flat or nested as the shape.",
                "anyOf": [flat, nested],
            },
            "parameters": _parameters(
                binary_data_size={
                    "type": ["integer", "null"],
                    "description": "Only where the tensor follows the JSON, in place of `data`: "
                    "how many bytes it has.",
                }
            ),
        },
        "required": ["name", "datatype", "shape", "data"],
        "not": _with_bytes(),
    }
    output = {
        "type": "object",
        "properties": {
            "name": {"const": OUTPUT},
            "parameters": _parameters(
                binary_data={"type": "boolean", "description": "Answer in bytes."},
                classification={
                    "type": "integer",
                    "minimum": 0,
                    "description": "Name so many of the likeliest classes, as `value:index:label`.",
                },
            ),
        },
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": _parameters(
                binary_data_output={"type": "boolean", "description": "Answer in bytes."}
            ),
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {"type": ["array", "null"], "items": output, "maxItems": 1},
        },
        "required": ["inputs"],
    }


def _with_bytes() -> Schema:
    """A tensor whose bytes follow the JSON, which is no JSON alone."""
    size = {"properties": {"binary_data_size": {"type": "integer"}}}
    parameters = {"type": "object", **size, "required": ["binary_data_size"]}
    return {"properties": {"parameters": parameters}, "required": ["parameters"]}


def _parameters(**known: Schema) -> Schema:
    """An object of which unknown fields are ignored; there is no shared memory here."""
    return {"type": ["object", "null"], "properties": {**known, SHARED_MEMORY: {"not": {}}}}


INFER = Body(
    "A JSON object; or, with the binary tensor extension, one whose input has `binary_data_size` "
    "in place of `data`, and the tensor's bytes behind it.",
    _infer,
    encodings=ENCODING.values,
)
WISH = Body("Nothing, or an object.", _wish, required=False)
