"""What a request's head alone says: which route it asks for, and whether its body is needed.

In: WSGI's environment, before the body has been read and before Flask sees it. A large body is read
only for a route that takes a body in this encoding, from a client that may use it; a request that
will be refused anyway costs only its head. Flask then answers it: 401, 404, 405 or 415.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.exceptions import HTTPException

from service.keys import brings_key, is_public
from service.operations import encoding_of, operation_of
from service.state import state_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from werkzeug.routing import Map, Rule

_KEY = "batchnorm-routes"


class Routes:
    """Which URL rule matches a request, without the rest of Flask."""

    def __init__(self, rules: Map) -> None:
        self._rules = rules.bind("localhost")
        self._known: dict[tuple[str, str], Rule] = {}

    def rule(self, environ: WSGIEnvironment) -> Rule | None:
        """The rule that answers the request; None where there is none."""
        asked = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        rule = self._known.get(asked)
        if rule is None:
            method, path = asked
            try:
                rule = self._rules.match(path, method, return_rule=True)[0]
            except HTTPException:
                return None
            if rule.rule == path:  # of any other a stranger may make as many as he likes
                self._known[asked] = rule
        return rule

    def name(self, environ: WSGIEnvironment) -> str | None:
        """The rule as it is written, as logs and metrics have it."""
        rule = self.rule(environ)
        return rule.rule if rule else None


def routes_of(app: Flask) -> Routes:
    """The routes of ``app``: made once, as they remember what they have found."""
    routes: Routes = app.extensions.setdefault(_KEY, Routes(app.url_map))
    return routes


class Heads:
    """Tells of a request by its head whether ``app`` would read its body."""

    def __init__(self, app: Flask) -> None:
        self._routes = routes_of(app)
        self._views = app.view_functions
        self._digests = state_of(app).settings.api_keys

    def want_body(self, environ: WSGIEnvironment) -> bool:
        """Whether there is a view that reads it as it is encoded, for whoever sends it."""
        rule = self._routes.rule(environ) if environ["REQUEST_METHOD"] == "POST" else None
        if rule is None:
            return False
        view = self._views[rule.endpoint]
        operation = operation_of(view)
        body = operation.body if operation else None
        if body and encoding_of(environ) not in body.encodings:
            return False
        return not self._digests or is_public(view) or brings_key(environ, self._digests)
