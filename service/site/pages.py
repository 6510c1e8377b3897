"""The page: GET / shows the nets at work, POST /answers is its form, for browsers without a script.

    GET  /[?version=<v>]                            the page, with the answers to one example
    GET  /answers?example=<name>[&version=<v>]      the answers to an example
    POST /answers[?version=<v>]                     the answers to an uploaded picture
    GET  /models/<variant>/<version>/model.onnx     the file that is being served

``version`` chooses which nets answer, as for ``/compare``, and is part of every address; without
it, each variant's current version answers. Everything is HTML made here; the page's script requests
the same answers, inserts them, and puts the chosen version into the address. Pictures are read,
decoded and computed as for ``/predict``, and problems are shown as a page. If keys are set, these
routes require one like all others: the page is then a field for the key (see ``service.keys``).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

import numpy as np
from flask import Blueprint, Flask, current_app, redirect, render_template, url_for
from numpy.typing import NDArray
from werkzeug.wrappers import Response as AnyResponse

from service.api import EVERY_VERSION, UNKNOWN_VERSION
from service.compute import NOT_COMPUTED, compute
from service.files import FIELD
from service.messages import Response, current
from service.models.model import Model
from service.models.study import StudyError, read_studies
from service.operations import Answer, Tag, Text, operation
from service.problems import Problem
from service.site import wording
from service.site.assets import address, packed_response
from service.site.charts import curves, shifts
from service.site.kept import ROOT, Page, kept, origin_of, page_of
from service.site.looks import Choice, Look, choice_of, choices, first_look, look_of, pixels_of
from service.site.samples import examples, find
from service.state import NO_MODELS, model_of, models_of, repository, settings, state_of
from service.uploads import BAD_UPLOAD, UPLOAD, read_upload

POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'"
)

HTML, FILE = "text/html", "application/octet-stream"

blueprint = Blueprint("pages", __name__)


def init_app(app: Flask) -> None:
    """Show the page at ``app``'s root."""
    app.register_blueprint(blueprint)
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}


@blueprint.get("/")
@operation(
    Tag.PAGES,
    Answer("the page", others=(HTML,)),
    UNKNOWN_VERSION,
    NO_MODELS,
    query=(EVERY_VERSION,),
    told=True,
    tolerant=True,
)
def index(version: int | None) -> Response:
    """The page."""
    choice = _choice(version)
    response = _html(kept(f"/?version={choice.version}", lambda: _opening(choice)))
    if not settings().api_keys:  # going back to it, a browser then has the picture that was asked
        response.headers["Cache-Control"] = "no-cache"
    return response


def _opening(choice: Choice) -> str:
    """The page as it stays: like the models, the study beside them is read once."""
    models = list(repository().each().values())
    datasets = frozenset(model.card.dataset.name for model in models)
    shown = examples(datasets)
    look = first_look(repository(), choice, shown[0])
    try:
        studies, fault = read_studies(settings().models_dir), None
    except StudyError as error:
        studies, fault = (), str(error)
    served = [model for versions in repository().models.values() for model in versions.values()]
    frozen = sorted(
        (model for model in served if model.card.frozen.layers), key=_lost_by_the_freeze
    )
    return _written(
        "page.html",
        origin=ROOT,
        look=look,
        latencies={
            (each.model.card.recipe, each.model.variant): each.milliseconds for each in look.answers
        },
        examples=shown,
        studies=[(study, curves(study, len(models[0].card.classes))) for study in studies],
        study_fault=fault,
        frozen=list(zip(frozen, shifts(m.card.frozen.layers for m in frozen), strict=True)),
        models=served,
        current=models,
        datasets=datasets,
        choices=choices(repository()),
        variants=list(repository().models),
    )


@blueprint.get("/answers")
@operation(
    Tag.PAGES,
    Answer("the answers", others=(HTML,)),
    {HTTPStatus.NOT_FOUND: "no such example"},
    UNKNOWN_VERSION,
    NOT_COMPUTED,
    NO_MODELS,
    query=(
        Text("example", "One of the page's examples; without it, the page itself.", example="sea"),
        EVERY_VERSION,
    ),
    bare={HTTPStatus.SEE_OTHER: "the page is at /"},
    told=True,
)
def example_answers(example: str | None, version: int | None) -> AnyResponse:
    """Every net's answer to an example picture."""
    if example is None:
        return redirect(url_for("pages.index", version=version), HTTPStatus.SEE_OTHER)
    picture = find(example)
    if picture is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no example {example[:80]!r}")
    choice = _choice(version)
    look = look_of(repository(), choice, pixels_of(picture), _compute, example=picture)
    return _answered(look)


@blueprint.post("/answers")
@operation(
    Tag.PAGES,
    Answer("the answers", others=(HTML,)),
    UNKNOWN_VERSION,
    BAD_UPLOAD,
    NOT_COMPUTED,
    NO_MODELS,
    query=(EVERY_VERSION,),
    body=UPLOAD,
    told=True,
)
def answers(version: int | None) -> Response:
    """Every net's answer to the uploaded picture; of several, the first."""
    choice = _choice(version)
    upload = read_upload()
    look = look_of(repository(), choice, upload.images[0], _compute, name=upload.names[0])
    return _answered(look)


@blueprint.get("/models/<variant>/<int:version>/model.onnx")
@operation(
    Tag.MODELS,
    Answer("the file", others=(FILE,)),
    {HTTPStatus.NOT_FOUND: "no such model, or its file has changed since it was loaded"},
    NO_MODELS,
    path=(
        Text("variant", "The variant.", variant=True),
        Text("version", "Its version.", pattern="[0-9]+"),
    ),
    told=True,
)
def download(variant: str, version: int) -> Response:
    """The model's file, byte for byte as it is served."""
    model = model_of(variant, version)
    path = settings().models_dir.joinpath(*Path(model.file).parts[1:])
    try:
        content = _content(path, model.sha256)
    except LookupError:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"{model.file} is no longer the file that was loaded; start the service again",
        ) from None
    response = Response(content, mimetype=FILE)
    response.headers["Content-Disposition"] = f'attachment; filename="{variant}-{version}.onnx"'
    return response


@blueprint.errorhandler(Problem)
def _tell(problem: Problem) -> Response:
    """A problem in words; without a key, the field for one."""
    response = _html(page_of(_written("problem.html", problem=problem, version=_version_asked())))
    response.status_code = problem.status
    response.headers.update(problem.headers)
    return response


def _version_asked() -> int | None:
    """The version that the address names; None where it names none that there is."""
    models = state_of(current_app).repository
    known = [choice.version for choice in choices(models)] if models else []
    return next((each for each in known if str(each) == current().args.get("version")), None)


@lru_cache
def _content(path: Path, sha256: str) -> bytes:
    """What the file held, the same bytes for all who ask. Raises ``LookupError`` for another."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LookupError(path)
    return content


def _answered(look: Look) -> Response:
    return _html(page_of(_written("answers.html", look=look, choices=choices(repository()))))


def _choice(version: int | None) -> Choice:
    models_of(version)  # or a problem
    return choice_of(repository(), version)


def _lost_by_the_freeze(model: Model) -> float:
    score = model.card.evaluation
    return score.before_freeze.top1 - score.after_freeze.top1


def _compute(model: Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return compute((model, images))[0]


def _written(template: str, **context: object) -> str:
    for each in wording.FILTERS:
        context[each.__name__] = each
    return render_template(
        template,
        **{
            "address": address,
            "field": FIELD,
            "origin": origin_of(current()),
            "keyed": bool(settings().api_keys),
            "max_bytes": settings().max_body_bytes,
            **context,
        },
    )


def _html(page: Page) -> Response:
    response = packed_response(current(), page.content, page.packed, HTML)
    response.headers["Content-Security-Policy"] = POLICY
    return response
