"""Lists in one word of the command line."""

from __future__ import annotations

import click
import pytest

from training.lists import FirstSeed, Seeds, Words


def test_seeds_are_numbers_and_ranges() -> None:
    assert Seeds().convert("0", None, None) == [0]
    assert Seeds().convert("0,3 5-7", None, None) == [0, 3, 5, 6, 7]
    assert Seeds().convert("1,0-2", None, None) == [1, 0, 2]


@pytest.mark.parametrize("word", ["", "a", "-1", "1-", "²", "0-²", "5-3"])
def test_what_is_no_list_of_seeds_is_refused(word: str) -> None:
    with pytest.raises(click.BadParameter):
        Seeds().convert(word, None, None)


@pytest.mark.parametrize(
    ("seeds", "first"),
    [("0", 0), ("10", 10), ("0,1", 0), (" 3 1", 3), ("2-4", 2), ("0\n1\n", 0), (7, 7)],
)
def test_of_several_seeds_one_is_the_first(seeds: str | int, first: int) -> None:
    assert FirstSeed().convert(seeds, None, None) == first


@pytest.mark.parametrize("seeds", ["", "-1", "0,x", "0-"])
def test_of_what_is_no_list_of_seeds_none_is_the_first(seeds: str) -> None:
    with pytest.raises(click.BadParameter):
        FirstSeed().convert(seeds, None, None)


def test_all_stands_for_every_name_also_among_others() -> None:
    words = Words(["a", "b", "c"])
    assert words.convert("all", None, None) == ["a", "b", "c"]
    assert words.convert("all,b", None, None) == ["a", "b", "c"]
    assert words.convert("b all b", None, None) == ["b", "a", "c"]


@pytest.mark.parametrize("word", ["", "d", "all,d", "a,ALL"])
def test_what_is_no_list_of_the_names_is_refused(word: str) -> None:
    with pytest.raises(click.BadParameter):
        Words(["a", "b", "c"]).convert(word, None, None)
