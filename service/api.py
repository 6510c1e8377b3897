"""The service's own API: POST /predict and /compare, GET /models and /models/<variant>."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any, TypedDict

from flask import Blueprint

from service.answers import Comparison, Prediction, comparison, prediction_json
from service.compute import NOT_COMPUTED, compute
from service.messages import Response, current
from service.models.card import ModelCard
from service.models.model import Model
from service.operations import Answer, Tag, Text, Whole, operation
from service.problems import Refusals
from service.schema import Says, Without
from service.state import NO_MODELS, model_of, models_of, repository
from service.uploads import BAD_UPLOAD, UPLOAD, read_upload

MAX_TOP_K = 100

VARIANT = Text("variant", "The variant that answers; without it, the default one.", variant=True)
ONE_VARIANT = Text("variant", "The variant.", variant=True)
VERSION = Whole("version", "Its version; without it, the current one.", 10**9)
EVERY_VERSION = Whole(
    "version",
    "The version of every variant that answers; variants that lack it are left out. Without it, "
    "each answers by its current one.",
    VERSION.most,
)
TOP_K = Whole("top_k", "How many of the likeliest classes to name.", MAX_TOP_K, 5)

UNKNOWN_MODEL: Refusals = {
    HTTPStatus.NOT_FOUND: "no such variant or version; the detail lists those there are"
}
UNKNOWN_VERSION: Refusals = {
    HTTPStatus.NOT_FOUND: "no variant has such a version; the detail lists those there are"
}

DEFAULT = Says(
    "Whether it answers a request that names neither a variant nor a version: true of one model."
)
CURRENT = Says(
    "Whether it answers a request that names its variant alone: true of one of a variant, its "
    "newest unless another was promoted."
)

blueprint = Blueprint("api", __name__)


class WholeModel(TypedDict):
    """One model that is served, where it runs, its file, and its whole card."""

    variant: str
    version: int
    default: Annotated[bool, DEFAULT]
    current: Annotated[bool, CURRENT]
    provider: str
    file: str
    sha256: str
    bytes: int
    card: ModelCard


CUT = Without(("classes", "superclasses", "frozen.layers"))


class ListedModel(WholeModel):
    """One model that is served; its card lacks the class names and the tables by layer."""

    card: Annotated[ModelCard, CUT]


class ModelList(TypedDict):
    """Every model that is served, and whose variant is the default."""

    default: Annotated[str, Says("The variant that answers where none is asked for.")]
    models: list[ListedModel]


@blueprint.post("/predict")
@operation(
    Tag.PICTURES,
    Answer("the likeliest classes of every picture", Prediction),
    UNKNOWN_MODEL,
    BAD_UPLOAD,
    NOT_COMPUTED,
    NO_MODELS,
    query=(VARIANT, VERSION, TOP_K),
    body=UPLOAD,
)
def predict(variant: str | None, version: int | None, top_k: int) -> Response:
    """One variant's answer to every picture of the request."""
    model = model_of(variant, version)
    current().variant = model.variant
    upload = read_upload()
    (rows,) = compute((model, upload.images))
    text = prediction_json(model, upload.names, rows, top_k)
    return Response(text, mimetype="application/json")


@blueprint.post("/compare")
@operation(
    Tag.PICTURES,
    Answer("the likeliest classes of every picture, by variant", Comparison),
    UNKNOWN_VERSION,
    BAD_UPLOAD,
    NOT_COMPUTED,
    NO_MODELS,
    query=(EVERY_VERSION, TOP_K),
    body=UPLOAD,
)
def compare(version: int | None, top_k: int) -> Comparison:
    """Every variant's answer, by one version or by each one's current, to every picture.

    Each variant's version stands under `models`, with the recipe that it was trained by.
    """
    models = models_of(version)
    upload = read_upload()
    answers = compute(*((model, upload.images) for model in models.values()))
    return comparison(models, upload.names, dict(zip(models, answers, strict=True)), top_k)


@blueprint.get("/models")
@operation(Tag.MODELS, Answer("every model", ModelList), NO_MODELS, query=())
def list_models() -> dict[str, Any]:
    """Every model with its card, but for the class names and the tables by layer."""
    descriptions = [
        _description(model)
        for versions in repository().models.values()
        for model in versions.values()
    ]
    for description in descriptions:
        CUT.cut(description["card"])
    return {"default": repository().default, "models": descriptions}


@blueprint.get("/models/<variant>")
@operation(
    Tag.MODELS,
    Answer("the model", WholeModel),
    UNKNOWN_MODEL,
    NO_MODELS,
    path=(ONE_VARIANT,),
    query=(VERSION,),
)
def show_model(variant: str, version: int | None) -> dict[str, Any]:
    """One model with its whole card."""
    return _description(model_of(variant, version))


def _description(model: Model) -> dict[str, Any]:
    return {
        "variant": model.variant,
        "version": model.version,
        "default": model is repository().get(),
        "current": model is repository().get(model.variant),
        "provider": model.provider,
        "file": model.file,
        "sha256": model.sha256,
        "bytes": model.bytes,
        "card": asdict(model.card),
    }
