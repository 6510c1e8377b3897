"""What one worker holds between requests: its models, what runs them, or why it has none."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from flask import Flask, current_app

from service.decoding import Decoding
from service.drain import Drain
from service.engine import Engine
from service.gpu import Gpu
from service.journal import Journal
from service.models.model import Model
from service.models.repository import ModelError, Repository, UnknownModelError
from service.problems import Problem, Refusals
from service.settings import Settings

_KEY = "batchnorm-service"

NO_MODELS: Refusals = {HTTPStatus.SERVICE_UNAVAILABLE: "no model can be served"}
"""Where the models are needed."""


@dataclass(frozen=True)
class State:
    """``repository`` is None where it could not be loaded; ``fault`` then says why."""

    settings: Settings
    repository: Repository | None
    engine: Engine
    decoding: Decoding
    journal: Journal
    drain: Drain
    gpu: Gpu
    fault: ModelError | None


def init_app(app: Flask, state: State) -> None:
    """Give ``app`` its state."""
    app.extensions[_KEY] = state


def state_of(app: Flask) -> State:
    """The state that ``init_app`` gave."""
    state: State = app.extensions[_KEY]
    return state


def settings() -> Settings:
    """The current application's settings."""
    return state_of(current_app).settings


def repository() -> Repository:
    """The current application's models.

    Raises ``Problem`` 503 where they could not be loaded, or where the GPU has failed.
    """
    state = state_of(current_app)
    if state.repository is None or state.gpu.fault:
        why = state.gpu.fault or (state.fault.told if state.fault else "none was loaded")
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"no model can be served: {why}")
    return state.repository


def model_of(variant: str | None, version: int | None = None) -> Model:
    """The model that is asked for, as ``Repository.get`` has it.

    Raises ``Problem`` 404 with a list of those there are, and 503 as ``repository`` does.
    """
    try:
        return repository().get(variant, version)
    except UnknownModelError as error:
        raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None


def models_of(version: int | None) -> dict[str, Model]:
    """The models that are compared, by variant, as ``Repository.each`` has them.

    Raises ``Problem`` 404 with a list of the versions there are, and 503 as ``repository`` does.
    """
    try:
        return repository().each(version)
    except UnknownModelError as error:
        raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None


def engine() -> Engine:
    """The current application's engine."""
    return state_of(current_app).engine


def decoding() -> Decoding:
    """The current application's decoding of large pictures."""
    return state_of(current_app).decoding


def draining() -> bool:
    """Whether the server is about to end."""
    return state_of(current_app).drain.begun
