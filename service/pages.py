"""The page: GET / shows the nets at work, POST /answers is its form, for browsers without a script.

    GET  /                                          the page, with the answers to one example
    GET  /answers?example=<name>                    the answers to an example
    POST /answers                                   the answers to an uploaded picture
    GET  /models/<variant>/<version>/model.onnx     the file that is being served

Everything is HTML made here; the page's script asks for the same answers and puts them in place.
Pictures are read, decoded and computed as for ``/predict``, and its problems are told in words.
Where keys are set, all of it asks for one, as every route does: the page's answer is then a field
for the key (see ``service.keys``).
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path

import numpy as np
from flask import Blueprint, Flask, redirect, render_template
from numpy.typing import NDArray
from werkzeug.wrappers import Response as AnyResponse

from service import wording
from service.assets import address, packed_response
from service.charts import curves, shifts
from service.compute import NOT_COMPUTED, compute
from service.kept import ROOT, Page, kept, page_of
from service.looks import first_look, look_of, newest, pixels_of
from service.messages import Response, current
from service.model import Model
from service.operations import Answer, Tag, Text, operation
from service.problems import Problem
from service.samples import examples, find
from service.state import NO_MODELS, model_of, repository, settings
from service.study import StudyError, read_studies
from service.uploads import BAD_UPLOAD, FIELD, UPLOAD, read_upload

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
@operation(Tag.PAGES, Answer("the page", others=(HTML,)), NO_MODELS, told=True)
def index() -> Response:
    """The page."""
    return _html(kept("/", _opening))


def _opening() -> str:
    """The page as it stays: like the models, the study beside them is read once."""
    models = newest(repository())
    datasets = frozenset(model.card.dataset.name for model in models)
    shown = examples(datasets)
    look = first_look(repository(), shown[0])
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
        latencies={each.model.variant: each.milliseconds for each in look.answers},
        examples=shown,
        studies=[(study, curves(study, len(models[0].card.classes))) for study in studies],
        study_fault=fault,
        frozen=list(zip(frozen, shifts(m.card.frozen.layers for m in frozen), strict=True)),
        models=served,
        newest=models,
        datasets=datasets,
    )


@blueprint.get("/answers")
@operation(
    Tag.PAGES,
    Answer("the answers", others=(HTML,)),
    {HTTPStatus.NOT_FOUND: "no such example"},
    NOT_COMPUTED,
    NO_MODELS,
    query=(
        Text("example", "One of the page's examples; without it, the page itself.", example="sea"),
    ),
    bare={HTTPStatus.SEE_OTHER: "the page is at /"},
    told=True,
)
def example_answers(example: str | None) -> AnyResponse:
    """Every net's answer to an example picture."""
    if example is None:
        return redirect("/", HTTPStatus.SEE_OTHER)
    picture = find(example)
    if picture is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no example {example[:80]!r}")
    look = look_of(repository(), pixels_of(picture), _compute, example=picture)
    return _html(page_of(_written("answers.html", look=look)))


@blueprint.post("/answers")
@operation(
    Tag.PAGES,
    Answer("the answers", others=(HTML,)),
    BAD_UPLOAD,
    NOT_COMPUTED,
    NO_MODELS,
    body=UPLOAD,
    told=True,
)
def answers() -> Response:
    """Every net's answer to the uploaded picture; of several, the first."""
    upload = read_upload()
    look = look_of(repository(), upload.images[0], _compute, name=upload.names[0])
    return _html(page_of(_written("answers.html", look=look)))


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
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            f"{model.file} is no longer the file that was loaded; start the service again",
        )
    response = Response(content, mimetype=FILE)
    response.headers["Content-Disposition"] = f'attachment; filename="{variant}-{version}.onnx"'
    return response


@blueprint.errorhandler(Problem)
def _tell(problem: Problem) -> Response:
    """A problem in words; without a key, the field for one."""
    response = _html(page_of(_written("problem.html", problem=problem)))
    response.status_code = problem.status
    response.headers.update(problem.headers)
    return response


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
            "origin": current().host_url.rstrip("/"),
            "keyed": bool(settings().api_keys),
            "max_bytes": settings().max_body_bytes,
            **context,
        },
    )


def _html(page: Page) -> Response:
    response = packed_response(current(), page.content, page.packed, HTML)
    response.headers["Content-Security-Policy"] = POLICY
    return response
