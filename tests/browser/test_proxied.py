"""The pages behind a proxy that ends TLS, of which the service knows nothing."""

from __future__ import annotations

import requests
from playwright.sync_api import Browser, Route

from tests.browser.conftest import WATCH

HOST = "api.example.org"


def test_behind_a_proxy_that_ends_tls_the_pages_have_their_style(
    browser: Browser, url: str
) -> None:
    strangers = []

    def proxy(route: Route) -> None:
        asked = route.request.url
        if not asked.startswith(f"https://{HOST}/"):
            strangers.append(asked)
            route.abort()
            return
        answer = requests.get(
            url + asked.removeprefix(f"https://{HOST}"),
            headers={"Host": HOST, "X-Forwarded-Proto": "https"},
            timeout=30,
        )
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("content-encoding", "content-length")  # as requests unpacked it
        }
        route.fulfill(status=answer.status_code, headers=headers, body=answer.content)

    with browser.new_context() as context:
        context.add_init_script(WATCH)
        page = context.new_page()
        page.route("**/*", proxy)
        for path, styled, name, value in (
            ("/docs", "nav", "position", "fixed"),
            ("/", ".bench", "display", "grid"),
        ):
            page.goto(f"https://{HOST}{path}", wait_until="networkidle")
            assert page.evaluate("window.violations") == []
            sheets = page.evaluate("[...document.styleSheets].map((sheet) => sheet.href)")
            assert [each for each in sheets if each.startswith(f"https://{HOST}/static/")] == sheets
            assert len(sheets) == 1
            shown = f"getComputedStyle(document.querySelector('{styled}')).{name}"
            assert page.evaluate(shown) == value
        assert strangers == []
