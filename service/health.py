"""Liveness and readiness, for orchestrators and load balancers.

GET /health/live answers 200 while the process answers at all. GET /health/ready answers 200 once
every model is loaded, checked and warmed up, and 503 with the reason where one could not be,
where the GPU that runs them has failed, or while the server drains.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, TypedDict

from flask import Blueprint

from service.keys import public
from service.operations import Answer, Tag, operation
from service.problems import Problem, Refusals
from service.state import NO_MODELS, draining, repository

_ENDING = "the server is about to end"

DRAINING: Refusals = {HTTPStatus.SERVICE_UNAVAILABLE: _ENDING}


class Live(TypedDict):
    """The process answers."""

    status: Literal["live"]


class Ready(TypedDict):
    """Every model answers."""

    status: Literal["ready"]


blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("/live")
@operation(Tag.OPERATION, Answer("it is", Live))
@public
def live() -> Live:
    """The process is alive."""
    return {"status": "live"}


@blueprint.get("/ready")
@operation(Tag.OPERATION, Answer("they do", Ready), NO_MODELS, DRAINING)
@public
def ready() -> Ready:
    """Every model answers."""
    repository()
    if draining():
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, _ENDING)
    return {"status": "ready"}
