"""Pages that stay the same while the process lives: made once, for any address.

In: a page's name, and how to make its text. Out: the page, as it is sent. A page of a hundred
kilobytes takes tens of milliseconds to render, and ten times that the first time, with the models'
answers in it: the event loop has no time for this. A page's commands contain the address that it
was requested at; since clients may name any host, the page is not rendered again for each: the
address replaces ``ROOT``. This, and compressing the page, takes 2 or 3 ms.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache

from flask import current_app
from markupsafe import escape

from service.http.waiting import in_thread
from service.messages import Request, current

_KEY = "batchnorm-pages"

ROOT = "http://the-address-of-this-page.invalid"
"""Where a page is written as if it were; no host is called so (RFC 6761, section 6.4)."""

MOST_OF_A_HOST = 259
"""A name of 253 characters, the longest there is, with a port."""

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

ADDRESSES = 8
"""A page is kept ready, packed, for so many of the addresses that the service is reached by."""


@dataclass(frozen=True)
class Page:
    """A page, and the same packed by gzip."""

    content: bytes
    packed: bytes


def page_of(text: str) -> Page:
    """The page that is written so."""
    return _packed(text.encode())


def _packed(content: bytes) -> Page:
    return Page(content, gzip.compress(content, 6, mtime=0))


class _Kept:
    """A page as it was written; ``seen_from`` is the page of each of the last few addresses."""

    def __init__(self, text: str) -> None:
        self._content = text.encode()
        self.seen_from = lru_cache(ADDRESSES)(self._seen_from)

    def _seen_from(self, root: str) -> Page:
        return _packed(self._content.replace(ROOT.encode(), str(escape(root)).encode()))


def kept(name: str, write: Callable[[], str]) -> Page:
    """The current application's page ``name`` as seen from where it is asked for.

    ``write`` is its text, seen from ``ROOT``; what else it depends on must not change, but for
    the path below which the application is mounted. It runs in another thread, though for the
    request in progress; two requests may both have it run, and keep the same.
    """
    pages: dict[tuple[str, str], _Kept] = current_app.extensions.setdefault(_KEY, {})
    request = current()
    key = name, request.script_root
    page = pages.get(key)
    if page is None:
        context = copy_context()
        page = pages[key] = _Kept(in_thread(lambda: context.run(write)))
    return page.seen_from(origin_of(request))


def origin_of(request: Request) -> str:
    """Where a request was sent to: "http://localhost:8000".

    A name that is none, or is longer than there are, is not repeated: the server's own stands for
    it.
    """
    host = request.environ.get("HTTP_HOST", "")
    if len(host) > MOST_OF_A_HOST or not _HOST.fullmatch(host):
        name, port = request.environ["SERVER_NAME"], request.environ["SERVER_PORT"]
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    return f"{request.scheme}://{host}"
