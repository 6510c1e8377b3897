"""Liveness and readiness, for orchestrators and load balancers.

GET /health/live answers 200 while the process answers at all. GET /health/ready answers 200 once
every model is loaded, checked and warmed up, and 503 with the reason where one could not be, or
while the server drains.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint

from service.keys import public
from service.problems import Problem
from service.state import draining, repository

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("/live")
@public
def live() -> dict[str, str]:
    """The process is alive."""
    return {"status": "live"}


@blueprint.get("/ready")
@public
def ready() -> dict[str, str]:
    """Every model answers."""
    repository()
    if draining():
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the server is about to end")
    return {"status": "ready"}
