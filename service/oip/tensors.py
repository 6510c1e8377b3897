"""Tensors of the Open Inference Protocol v2, as JSON and as bytes; nothing here knows HTTP.

    wish = read_request(body, header_length=None, max_images=64)
    wish.images                          # uint8 [N, 32, 32, 3]
    body, header_length = write_response(wish, rows, classes, model="relu_with_bn", version=1)

A request's body is a JSON object and, with the binary tensor extension, a tensor's bytes behind
it; ``header_length`` is then the length of the JSON (``Inference-Header-Content-Length``). Pixels
that come as bytes are not copied. Unknown parameters are ignored, as the protocol says; those
that would move a tensor elsewhere (shared memory) are refused.

Sources: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; and
github.com/triton-inference-server/server, docs/protocol/extension_{binary_data,classification}.md.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Final, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from service.models.model import IMAGE_SHAPE
from service.models.records import RecordError, parse

INPUT, INPUT_TYPE, INPUT_SHAPE = "images", "UINT8", (-1, *IMAGE_SHAPE)
OUTPUT: Final = "probabilities"
OUTPUT_TYPE: Final = "FP32"

JSON_BYTES = 65_536
JSON_BYTES_OF_A_VALUE = 8  # "255, " and some room
"""What the JSON of a request may take: reading more than it needs would keep all others waiting."""

SHARED_MEMORY = "shared_memory_region"
_WANTED = f"{INPUT_TYPE} {list(INPUT_SHAPE)}"


class TensorError(ValueError):
    """A request is not what the protocol, or the model, has it to be."""


_MISSING = object()
"""What stands for a field that a request does not have."""


class TooLargeError(TensorError):
    """A tensor holds more pictures than one request may, or its JSON is longer than they need."""


class BinarySize(TypedDict):
    """How many bytes of a tensor follow the JSON."""

    binary_data_size: int


class OutputTensor(TypedDict):
    """Probabilities (FP32), or `value:index:label` of the likeliest classes (BYTES).

    A row for every picture; `data` is flat, and absent where the tensor follows as bytes.
    """

    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    parameters: NotRequired[BinarySize]
    data: NotRequired[list[float] | list[str]]


class InferAnswer(TypedDict):
    """What a version of a model says to the tensor that was sent."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class InferRequest:
    """What one request asks for.

    ``images`` is uint8 [N, 32, 32, 3], perhaps read-only. ``classes`` is how many of the likeliest
    classes to name (classification extension), or None for all probabilities as they are.
    """

    id: str | None
    images: NDArray[np.uint8]
    binary: bool
    classes: int | None


def read_request(body: bytes, *, header_length: int | None, max_images: int) -> InferRequest:
    """Read an inference request. Raises ``TensorError`` and ``TooLargeError``."""
    if header_length is not None and header_length > len(body):
        raise TensorError(
            f"the header's length is {header_length}, but the body has {len(body)} bytes"
        )
    end = len(body) if header_length is None else header_length
    longest = JSON_BYTES + max_images * prod(IMAGE_SHAPE) * JSON_BYTES_OF_A_VALUE
    if end > longest:
        raise TooLargeError(
            f"the request's JSON has {end} bytes, more than the {longest} that {max_images} "
            "pictures need; leave out spaces, or send the tensor as bytes behind it"
        )
    document = _object(_json(body[:end]), "the request")
    parameters = _parameters(document, "the request")
    identity = document.get("id")
    if identity is not None and type(identity) is not str:
        raise TensorError(f"id is {_shown(identity)}, not a text")
    (tensor,) = _named(document.get("inputs", _MISSING), "input", INPUT)
    outputs = document.get("outputs")
    output = _named(outputs, "output", OUTPUT)[0] if outputs not in (None, []) else {}
    binary, classes = _read_output(output, parameters)
    return InferRequest(identity, _read_input(tensor, body, end, max_images), binary, classes)


def write_response(
    wish: InferRequest,
    rows: NDArray[np.float32],
    classes: Sequence[str],
    *,
    model: str,
    version: int,
) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON where bytes follow it.

    ``rows`` are the probabilities, float32 [N, len(classes)].
    """
    shown: OutputTensor
    data: bytes | list[float] | list[str]
    if wish.classes is None:
        shown = {"name": OUTPUT, "datatype": OUTPUT_TYPE, "shape": list(rows.shape)}
        data = rows.astype("<f4", copy=False).tobytes() if wish.binary else rows.ravel().tolist()
    else:
        texts = classify(rows, classes, wish.classes)
        shape = [len(rows), min(wish.classes, len(classes))]
        shown = {"name": OUTPUT, "datatype": "BYTES", "shape": shape}
        data = _as_bytes(texts) if wish.binary else texts
    identity: dict[str, str] = {} if wish.id is None else {"id": wish.id}
    answer = {"model_name": model, "model_version": str(version), **identity, "outputs": [shown]}
    if isinstance(data, bytes):
        shown["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps(answer).encode()
        return head + data, len(head)
    shown["data"] = data
    return json.dumps(answer).encode(), None


def classify(rows: NDArray[np.float32], classes: Sequence[str], count: int) -> list[str]:
    """``value:index:label`` of each row's ``count`` likeliest classes, likeliest first.

    A value is the shortest text that is this float32. Where there are fewer classes, all of them,
    as Triton has it.
    """
    return [
        f"{row[index]!s}:{index}:{classes[index]}"
        for row in rows
        for index in np.argsort(-row, kind="stable")[:count]
    ]


def _read_output(output: dict[str, Any], request: dict[str, Any]) -> tuple[bool, int | None]:
    """Whether the output comes as bytes, and how many classes it names, if any."""
    where = f"output {OUTPUT}"
    parameters = _parameters(output, where)
    binary = _flag(request, "binary_data_output", False, "the request")
    binary = _flag(parameters, "binary_data", binary, where)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise TensorError(
            f"{where}: classification is {_shown(classes)}, not how many classes to name"
        )
    return binary, classes or None


def _read_input(
    tensor: dict[str, Any], body: bytes, end: int, max_images: int
) -> NDArray[np.uint8]:
    """The pictures, uint8 [N, 32, 32, 3], of the JSON or of the bytes from ``end`` on."""
    where = f"input {INPUT}"
    parameters = _parameters(tensor, where)
    kind = tensor.get("datatype", _MISSING)
    if kind != INPUT_TYPE:
        raise TensorError(f"{where}: datatype is {_shown(kind)}; it takes {_WANTED}")
    shape = _shape(tensor.get("shape", _MISSING), where, max_images)
    size, count = parameters.get("binary_data_size"), prod(shape)
    extra = len(body) - end
    if size is None:
        if extra:
            raise TensorError(
                f"{where}: {extra} bytes follow the JSON, but there is no binary_data_size"
            )
        return _flat(tensor.get("data", _MISSING), shape, where).reshape(shape)
    if tensor.get("data") is not None:
        raise TensorError(f"{where}: has both data and binary_data_size")
    if type(size) is not int or size != count:
        raise TensorError(
            f"{where}: binary_data_size is {_shown(size)}, but shape {list(shape)} takes {count}"
        )
    if extra != size:
        raise TensorError(
            f"{where}: binary_data_size is {size}, but {extra} bytes follow the JSON, whose "
            "length the header Inference-Header-Content-Length gives"
        )
    return np.frombuffer(body, np.uint8, count, end).reshape(shape)


def _shape(shape: Any, where: str, max_images: int) -> tuple[int, ...]:
    if type(shape) is not list or any(type(length) is not int for length in shape):
        raise TensorError(f"{where}: shape is {_shown(shape)}, not a list of whole numbers")
    if tuple(shape[1:]) != IMAGE_SHAPE or shape[0] < 1:
        short = ", ".join(_shown(length) for length in shape[:6])
        raise TensorError(f"{where}: shape is [{short}]; it takes {_WANTED}, at least one picture")
    if shape[0] > max_images:
        raise TooLargeError(
            f"{where}: {_shown(shape[0])} pictures are more than the {max_images} that one "
            "request may hold"
        )
    return tuple(shape)


def _flat(data: Any, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """The pixels of JSON that is flat, or nested as ``shape`` is: uint8 [pixels]."""
    values = data
    if type(data) is list and data and type(data[0]) is list:
        rows = [data]
        for length in shape[:-1]:
            rows = _opened(rows, length, shape, where)
        values = _opened(rows, shape[-1], shape, where)
    elif type(data) is not list or len(data) != prod(shape):
        found = f"{len(data)} values" if type(data) is list else _shown(data)
        raise TensorError(
            f"{where}: data is {found}, but shape {list(shape)} takes {prod(shape)} values"
        )
    odd = set(map(type, values)) - {int}
    try:
        if not odd:
            return np.frombuffer(bytes(values), np.uint8)
    except ValueError:
        pass
    raise TensorError(f"{where}: data has values that are not whole numbers from 0 to 255")


def _opened(rows: list[Any], length: int, shape: tuple[int, ...], where: str) -> list[Any]:
    """The lists in ``rows``, each of ``length``, one behind the other."""
    if any(type(row) is not list or len(row) != length for row in rows):
        raise TensorError(f"{where}: data is nested, but not as shape {list(shape)} is")
    return list(chain.from_iterable(rows))


def _as_bytes(texts: list[str]) -> bytes:
    """BYTES elements: each its length, 4 bytes, little-endian, and its UTF-8."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _json(data: bytes) -> Any:
    try:
        return parse(data.decode())
    except UnicodeDecodeError as error:
        raise TensorError(f"the JSON is not UTF-8: byte {error.start}") from None
    except RecordError as error:
        raise TensorError(f"the request {error}") from None


def _named(tensors: Any, kind: str, name: str) -> list[dict[str, Any]]:
    """The one tensor that the model has of this kind, as the list that the request gives."""
    if type(tensors) is not list:
        raise TensorError(f"{kind}s is {_shown(tensors)}, not a list")
    for tensor in tensors:
        given = _object(tensor, f"one of the {kind}s").get("name", _MISSING)
        if given != name:
            said = "the name is missing" if given is _MISSING else f"unknown {kind} {_shown(given)}"
            raise TensorError(f"{said}: the model's {kind} is {name}")
    if len(tensors) != 1:
        raise TensorError(f"{kind} {name} is given {len(tensors)} times, not once")
    return tensors


def _object(value: Any, where: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise TensorError(f"{where} is {_shown(value)}, not an object")
    return value


def _parameters(owner: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    parameters = _object(parameters, f"{where}: parameters")
    if SHARED_MEMORY in parameters:
        raise TensorError(f"{where}: there is no shared memory here; send the tensor itself")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool, where: str) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise TensorError(f"{where}: {name} is {_shown(value)}, not true or false")
    return value


def _shown(value: object) -> str:
    """A stranger's value, fit for a message; what is nested may be too deep to be written out."""
    if value is _MISSING:
        return "missing"
    if isinstance(value, (list, dict)):
        return f"a list of {len(value)}" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
