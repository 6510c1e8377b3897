"""Lists in one option of the command line: known names, and seeds."""

from __future__ import annotations

from typing import Any

import click


class Words(click.ParamType[list[str]]):
    """A list in one word: ``a,b`` or ``a b``; ``all``, alone or among others, stands for everything
    that is known. What comes twice counts once.
    """

    name = "list"

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:
        """Split and check."""
        if isinstance(value, list):
            return value
        words = value.replace(",", " ").split()
        for word in words:
            if word not in ("all", *self.known):
                self.fail(f"{word!r} is not one of: all, {', '.join(self.known)}", param, ctx)
        if not words:
            self.fail("the list is empty", param, ctx)
        names = [name for word in words for name in (self.known if word == "all" else [word])]
        return list(dict.fromkeys(names))


class Seeds(click.ParamType[list[int]]):
    """Seeds as ``0``, ``0,1,2``, ``0 1 2`` or ``0-4``."""

    name = "seeds"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """Split and check."""
        if isinstance(value, list):
            return value
        seeds: list[int] = []
        for word in value.replace(",", " ").split():
            first, dash, last = word.partition("-")
            # isdecimal, not isdigit: ² is a digit that int() cannot read
            if not first.isdecimal() or (dash and not last.isdecimal()):
                self.fail(
                    f"{word!r} is not a seed (0, 1, …) nor a range of seeds (0-4)", param, ctx
                )
            if dash and int(last) < int(first):
                self.fail(f"{word!r} is a range that ends before it begins", param, ctx)
            seeds.extend(range(int(first), int(last or first) + 1))
        if not seeds:
            self.fail("the list is empty", param, ctx)
        return list(dict.fromkeys(seeds))


class FirstSeed(click.ParamType[int]):
    """One seed: the first of a list as ``Seeds`` has it, which may be of one."""

    name = "seed"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The first, of a list that is right to its end."""
        return value if isinstance(value, int) else Seeds().convert(value, param, ctx)[0]
