"""The Flask application: settings in, a WSGI application out, its models loaded and warmed up."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import flask
from flask import Flask
from flask.json.provider import DefaultJSONProvider
from werkzeug.routing import MapAdapter

from service import api, headers, health, keys, metrics, problems, state
from service.capacity import decoding_share, engine_batch, engine_threads
from service.decoding import Decoding
from service.docs import routes as docs
from service.drain import Drain
from service.engine import Engine
from service.finish import Finish
from service.gate import Gate, put_before
from service.gpu import Gpu
from service.heads import routes_of
from service.journal import Journal
from service.messages import NoSessions, Request, Response
from service.models.repository import ModelError, Repository, open_repository
from service.models.runtime import CPU
from service.oip import routes as oip
from service.settings import Settings
from service.site import assets, pages
from service.state import State

log = logging.getLogger(__name__)


class _Json(DefaultJSONProvider):
    """Fields in the order in which the documentation names them, without spaces."""

    sort_keys = False
    _encoder = json.JSONEncoder(separators=(",", ":"), default=DefaultJSONProvider.default)

    def dumps(self, obj: Any, **options: Any) -> str:
        """As Flask has it; without options, by an encoder that is made once."""
        return super().dumps(obj, **options) if options else self._encoder.encode(obj)

    def response(self, *arguments: Any, **fields: Any) -> Response:
        """As Flask has it, without the newline at the end."""
        text = self.dumps(self._prepare_response_obj(arguments, fields))
        return Response(text, mimetype=self.mimetype)


class ServiceApp(Flask):
    """Flask with the service's requests, answers and JSON, and without sessions."""

    request_class = Request
    response_class = Response
    session_interface = NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Nothing here is a coroutine: no need to look."""
        return func

    json_provider_class = _Json

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """Routes by the path alone: there is one host, without subdomains, whatever it is called.

        Flask's own would look at the host three times.
        """
        if request is None:
            return None
        environ = request.environ
        return MapAdapter(
            self.url_map,
            environ.get("HTTP_HOST") or environ["SERVER_NAME"],
            environ.get("SCRIPT_NAME") or "/",
            "",
            environ["wsgi.url_scheme"],
            request.path,
            environ["REQUEST_METHOD"],
            environ.get("QUERY_STRING", ""),
        )


def create_app(settings: Settings, repository: Repository | None = None) -> Flask:
    """The service, with the models of ``settings.models_dir`` or those given.

    Models that cannot be served are logged and leave the application alive but not ready, so that
    whoever runs it can ask it why. Raises ``GpuError`` where a GPU is required and none works.
    Call it after the process has forked; models of one thread on CPUs may be loaded before.
    """
    fault, drain, gpu = None, Drain(), Gpu()
    if repository is None:
        try:
            repository = open_repository(settings)
        except ModelError as error:
            fault = error
            log.error("no model can be served: %s", error)
    app = ServiceApp(__name__, static_folder=None)
    # Else /models//x would be sent to /models/x, by an address that is wrong behind a proxy.
    app.url_map.merge_slashes = False
    # One byte more than is allowed: a chunked body is cut at this length without a word, so that
    # the extra byte is what tells a body that is too large from one that just fits.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.config["MAX_FORM_PARTS"] = settings.max_images
    on_gpu = repository is not None and repository.get().provider != CPU
    journal = Journal()
    counted = metrics.Metrics(repository, journal)
    engine = Engine(
        max_batch=engine_batch(settings, gpu=on_gpu),
        queue_images=settings.queue_images,
        threads=engine_threads(gpu=on_gpu),
        observer=counted,
        failed=gpu.failed,
    )
    decoding = Decoding(settings.queue_images, decoding_share(settings), counted.decoding)
    state.init_app(app, State(settings, repository, engine, decoding, journal, drain, gpu, fault))
    metrics.init_app(app, counted)
    headers.init_app(app)
    keys.init_app(app)
    problems.init_app(app)
    origins = settings.cors_origins
    answers = Finish(
        app.wsgi_app,
        journal,
        count=counted.read,
        origins=origins,
        max_body_bytes=settings.max_body_bytes,
    )
    gate = Gate(
        answers,
        engine,
        drain,
        route=routes_of(app).name,
        origins=origins,
        on_refusal=counted.refused,
        tell=answers.tell,
    )
    put_before(app, gate)
    app.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(oip.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(assets.blueprint)
    pages.init_app(app)
    return app
