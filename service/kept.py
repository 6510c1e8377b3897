"""Pages that are the same as long as the process lives: made once, for each address of theirs.

In: a page's name, the address that it is asked for at, and how to make its text. Out: the page, as
it is sent. A page of a hundred kilobytes takes tens of milliseconds to write and to pack, and its
first time, with the models' answers in it, ten times that: the event loop has no time for either.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass

from flask import current_app

from service.waiting import in_thread

_KEY = "batchnorm-pages"

MOST = 16
"""Pages that are kept. A request may name any host, which a page repeats in its commands."""


@dataclass(frozen=True)
class Page:
    """A page, and the same packed by gzip."""

    content: bytes
    packed: bytes


def page_of(text: str) -> Page:
    """The page that is written so."""
    content = text.encode()
    return Page(content, gzip.compress(content, 6, mtime=0))


def kept(name: str, root: str, write: Callable[[], str]) -> Page:
    """The current application's page ``name`` as seen from ``root``; ``write`` is its text.

    What ``write`` depends on besides must not change. It runs in another thread, though for the
    request in progress; two requests may both have it run, and keep the same.
    """
    pages: dict[tuple[str, str], Page] = current_app.extensions.setdefault(_KEY, {})
    page = pages.get((name, root))
    if page is None:
        context = copy_context()
        page = in_thread(lambda: page_of(context.run(write)))
        if len(pages) >= MOST:
            pages.clear()
        pages[name, root] = page
    return page
