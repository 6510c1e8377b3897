"""WSGI's environment, as far as a connection and a request's headers make it. Source: PEP 3333."""

from __future__ import annotations

import asyncio
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from service.http.wsgi import GONE

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def of_connection(transport: asyncio.Transport) -> WSGIEnvironment:
    """What the environments of a connection's requests have in common."""
    server, client = (transport.get_extra_info(name) for name in ("sockname", "peername"))
    environ: WSGIEnvironment = {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server[0] if server else "",
        "SERVER_PORT": str(server[1] if server else 80),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        GONE: transport.is_closing,
    }
    if client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    return environ


def spelt(name: bytes) -> str | None:
    """The environment's key for a header; None for one that is let go.

    X_Y and X-Y would become the same variable, and a proxy strips only one of them.
    """
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def variable(name: bytes) -> str | None:
    """The same; of names that are short, those that come again and again are remembered."""
    return _remembered(name) if len(name) < 64 else spelt(name)


_remembered = lru_cache(maxsize=256)(spelt)
