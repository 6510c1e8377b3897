"""The Open Inference Protocol v2 over REST, as ``tritonclient.http`` and KServe's clients speak it.

GET  /v2                                              the server
GET  /v2/health/live, /v2/health/ready                the probes
GET  /v2/models/<m>[/versions/<v>]                    a model's tensors
GET  /v2/models/<m>[/versions/<v>]/ready              whether it answers
GET  /v2/models/<m>[/versions/<v>]/config             Triton's configuration of it
POST /v2/models/<m>[/versions/<v>]/infer              inference
POST /v2/repository/index                             every model and version

A model is a variant; without a version, its current one. Extensions: binary tensor data,
classification and model configuration. The index is there without the rest of Triton's model
repository extension, as nothing is loaded or unloaded at run time; so the server does not name
that extension. Errors are ``{"error": text}`` (``service.problems``).
"""

from __future__ import annotations

import zlib
from http import HTTPStatus

from flask import Blueprint, Response, request

from service import __version__, health
from service.compute import NOT_COMPUTED, compute
from service.files import read_body
from service.headers import HEADER_LENGTH
from service.keys import public
from service.messages import current
from service.models.model import IMAGE_SHAPE, Model
from service.models.records import RecordError, parse
from service.oip.protocol import (
    BAD_TENSOR,
    BAD_WISH,
    ENCODING,
    INFER,
    JSON_LENGTH,
    NAME,
    UNKNOWN_MODEL,
    VERSION,
    WISH,
    WISH_BYTES,
    IndexEntry,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    Server,
    ServerLive,
    ServerReady,
)
from service.oip.tensors import (
    INPUT,
    INPUT_SHAPE,
    INPUT_TYPE,
    OUTPUT,
    OUTPUT_TYPE,
    InferAnswer,
    TensorError,
    TooLargeError,
    read_request,
    write_response,
)
from service.operations import AS_IT_IS, Answer, Tag, encoding_of, operation
from service.problems import Problem
from service.state import NO_MODELS, model_of, repository, settings

SERVER = "batchnorm-service"
PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration")

_MODEL, _VERSION = "/models/<name>", "/models/<name>/versions/<version>"
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

blueprint = Blueprint("oip", __name__, url_prefix="/v2")


@blueprint.get("")
@blueprint.get("/")
@operation(Tag.PROTOCOL, Answer("the metadata", Server))
def server() -> Server:
    """The server's metadata."""
    return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}


@blueprint.get("/health/live")
@operation(Tag.PROTOCOL, Answer("it is", ServerLive))
@public
def live() -> ServerLive:
    """The process is alive."""
    return {"live": True}


@blueprint.get("/health/ready")
@operation(Tag.PROTOCOL, Answer("they do", ServerReady), NO_MODELS, health.DRAINING)
@public
def ready() -> ServerReady:
    """Every model answers; 503 otherwise."""
    health.ready()
    return {"ready": True}


@blueprint.get(_MODEL)
@blueprint.get(_VERSION)
@operation(
    Tag.PROTOCOL,
    Answer("the metadata", ModelMetadata),
    UNKNOWN_MODEL,
    NO_MODELS,
    path=(NAME, VERSION),
)
def model_metadata(name: str, version: str | None = None) -> ModelMetadata:
    """A model's versions and tensors."""
    model = _model(name, version)
    return {
        "name": model.variant,
        "versions": [str(each) for each in sorted(repository().models[model.variant])],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": INPUT_TYPE, "shape": list(INPUT_SHAPE)}],
        "outputs": [
            {"name": OUTPUT, "datatype": OUTPUT_TYPE, "shape": [-1, len(model.card.classes)]}
        ],
    }


@blueprint.get(f"{_MODEL}/ready")
@blueprint.get(f"{_VERSION}/ready")
@operation(
    Tag.PROTOCOL,
    Answer("it does", ModelReady),
    UNKNOWN_MODEL,
    NO_MODELS,
    health.DRAINING,
    path=(NAME, VERSION),
)
def model_ready(name: str, version: str | None = None) -> ModelReady:
    """Whether a model answers; 404 where there is none, 503 where the service is not ready."""
    model = _model(name, version)
    health.ready()
    return {"name": model.variant, "ready": True}


@blueprint.get(f"{_MODEL}/config")
@blueprint.get(f"{_VERSION}/config")
@operation(
    Tag.PROTOCOL,
    Answer("the configuration", ModelConfig),
    UNKNOWN_MODEL,
    NO_MODELS,
    path=(NAME, VERSION),
)
def model_config(name: str, version: str | None = None) -> ModelConfig:
    """What the model's ``config.pbtxt`` says, as JSON; the largest batch is this service's own."""
    model = _model(name, version)
    classes = len(model.card.classes)
    return {
        "name": model.variant,
        "platform": PLATFORM,
        "max_batch_size": settings().max_images,
        "input": [{"name": INPUT, "data_type": f"TYPE_{INPUT_TYPE}", "dims": list(IMAGE_SHAPE)}],
        "output": [
            {
                "name": OUTPUT,
                "data_type": f"TYPE_{OUTPUT_TYPE}",
                "dims": [classes],
                "label_filename": "labels.txt",
            }
        ],
        "version_policy": {"all": {}},
        "dynamic_batching": {},
    }


@blueprint.post("/repository/index")
@operation(
    Tag.PROTOCOL,
    Answer("every version of every model", list[IndexEntry]),
    BAD_WISH,
    NO_MODELS,
    body=WISH,
)
def repository_index() -> list[IndexEntry]:
    """Every model and version; all of them are ready, or the service is not."""
    body = read_body(current(), min(settings().max_body_bytes, WISH_BYTES))
    try:
        wish = parse(body.decode()) if body else {}
    except (RecordError, UnicodeDecodeError):
        wish = None
    if not isinstance(wish, dict) or type(wish.get("ready", False)) is not bool:
        raise Problem(HTTPStatus.BAD_REQUEST, 'the body is not an object like {"ready": true}')
    return [
        {"name": variant, "version": str(version), "state": "READY", "reason": ""}
        for variant, versions in repository().models.items()
        for version in sorted(versions)
    ]


@blueprint.post(f"{_MODEL}/infer")
@blueprint.post(f"{_VERSION}/infer")
@operation(
    Tag.PROTOCOL,
    Answer(
        "the probabilities, or the likeliest classes",
        InferAnswer,
        others=("application/octet-stream",),
        headers={HEADER_LENGTH: "The bytes of the JSON, where a tensor follows it as bytes."},
    ),
    UNKNOWN_MODEL,
    BAD_TENSOR,
    NOT_COMPUTED,
    NO_MODELS,
    path=(NAME, VERSION),
    headers=(JSON_LENGTH, ENCODING),
    body=INFER,
)
def infer(name: str, version: str | None = None) -> Response:
    """A tensor of pictures in, a tensor of probabilities, or of the likeliest classes, out."""
    model = _model(name, version)
    current().variant = model.variant
    limit = settings().max_body_bytes
    body = _decoded(read_body(current(), limit), encoding_of(request.environ), limit)
    try:
        wish = read_request(body, header_length=_header_length(), max_images=settings().max_images)
    except TooLargeError as error:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from None
    except TensorError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from None
    (rows,) = compute((model, wish.images))
    answer, header_length = write_response(
        wish, rows, model.card.classes, model=model.variant, version=model.version
    )
    if header_length is None:
        return Response(answer, content_type="application/json")
    headers = {HEADER_LENGTH: str(header_length)}
    return Response(answer, headers=headers, content_type="application/octet-stream")


def _model(name: str, version: str | None) -> Model:
    """The model of a path. Raises ``Problem`` 404 with a list of those there are."""
    if version is None or VERSION.allows(version):
        return model_of(name, None if version is None else int(version))
    known = ", ".join(str(each) for each in sorted(repository().models[model_of(name).variant]))
    raise Problem(HTTPStatus.NOT_FOUND, f"no version {version[:80]!r} of {name}: there are {known}")


def _header_length() -> int | None:
    """How much of the body is JSON, where the header says so. Raises ``Problem`` 400."""
    text = request.headers.get(HEADER_LENGTH)
    return None if text is None else JSON_LENGTH.read(text)


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, at most ``limit`` bytes.

    Raises ``Problem`` 400 (cut off or damaged) and 413 (too large).
    """
    if encoding == AS_IT_IS:
        return body
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body is not valid {encoding}") from None
    if len(content) > limit:
        raise Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than the {limit:,} bytes allowed, once it is inflated",
        )
    if not inflater.eof or inflater.unused_data:
        raise Problem(
            HTTPStatus.BAD_REQUEST, f"the body is not one whole {encoding} stream, and no more"
        )
    return content
