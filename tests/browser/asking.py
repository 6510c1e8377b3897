"""What a page shows of its answers, and what the API says of the same picture."""

from __future__ import annotations

from typing import Any

import requests
from playwright.sync_api import Page, expect

Answers = dict[str, list[tuple[str, str, float]]]


def shown(page: Page) -> Answers:
    """By variant: label, superclass and full probability of every guess, as the page has them."""
    found: Answers = page.evaluate(
        """() => Object.fromEntries(
          [...document.querySelectorAll("#answers [data-variant]")].map((net) => [
            net.dataset.variant,
            [...net.querySelectorAll(".guesses li")].map((guess) => [
              guess.querySelector(".label").title.split(", of ")[0],
              guess.querySelector(".label").title.split(", of ")[1],
              Number(guess.querySelector("data").value),
            ]),
          ]),
        )"""
    )
    return {name: [tuple(each) for each in guesses] for name, guesses in found.items()}  # type: ignore[misc]


def told(url: str, picture: bytes, query: str = "", **headers: str) -> Answers:
    """The same, by ``POST /compare``."""
    address = f"{url}/compare{query}"
    answer = requests.post(address, data=picture, headers=headers, timeout=30).json()
    variants: dict[str, list[dict[str, Any]]] = answer["images"][0]["variants"]
    return {
        name: [
            (
                each["label"].replace("_", " "),
                each["superclass"].replace("_", " "),
                each["probability"],
            )
            for each in guesses
        ]
        for name, guesses in variants.items()
    }


def expect_answers(page: Page, caption: str) -> None:
    """Wait for the answers to the picture that is called so."""
    expect(page.locator("#answers figcaption").first).to_have_text(caption)
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")


def drop(
    page: Page, name: str, kind: str, data: bytes, *, paste: bool = False, copies: int = 1
) -> None:
    """Drop a file on the page, or paste it, by the events that a browser sends."""
    page.evaluate(
        """([name, kind, data, paste, copies]) => {
          const transfer = new DataTransfer();
          for (let copy = 0; copy < copies; copy += 1) {
            transfer.items.add(new File([new Uint8Array(data)], name, { type: kind }));
          }
          if (paste) {
            const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
            document.body.dispatchEvent(event);
            return;
          }
          const target = document.querySelector(".drop");
          for (const type of ["dragenter", "dragover", "drop"]) {
            target.dispatchEvent(
              new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }),
            );
          }
        }""",
        [name, kind, list(data), paste, copies],
    )
