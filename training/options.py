"""What the commands of ``training.cli`` share: options, types of values, and error messages."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from training.backend import BACKENDS, import_quietly
from training.lists import Seeds, Words
from training.recipes import RECIPES
from training.variants import VARIANTS

PATH = click.Path(path_type=Path)


recipe_option = click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="article",
    show_default=True,
    help="Which recipe.",
)
variants_option = click.option(
    "--variants",
    type=Words(list(VARIANTS)),
    default="all",
    show_default=True,
    help=f"Which nets: all, or some of {', '.join(VARIANTS)}.",
)
seeds_option = click.option(
    "--seeds", type=Seeds(), default="0", show_default=True, help="Which seeds: 0, 0,1,2 or 0-4."
)
_data_option = click.option(
    "--data",
    type=PATH,
    help="CIFAR-100: its folder, its .tar.gz, or a folder that holds either. Default: "
    "CIFAR100_DIR, else the cache, else a download (169 MB).",
)
runs_option = click.option(
    "--runs", type=PATH, default=Path("runs"), show_default=True, help="Where trials live."
)
models_option = click.option(
    "--models",
    type=PATH,
    default=Path("exported_models"),
    show_default=True,
    help="The model repository.",
)


def data_option(command: Callable[..., None]) -> Callable[..., None]:
    """``--data``, for a command with ``--recipe``: refused with one that draws its pictures."""

    @_data_option
    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        recipe = RECIPES[kwargs["recipe"]]
        if kwargs["data"] is not None and recipe.dataset == "synthetic":
            raise click.UsageError(
                f"--data {kwargs['data']}: recipe {recipe.name} draws its pictures and reads none; "
                "leave --data out, or choose another --recipe"
            )
        command(*args, **kwargs)

    return wrapper


class Finite(click.FloatRange):
    """A range of numbers; neither nan, which is in none and passes all, nor inf is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def told(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that the user can mend into a message and exit status 1."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        _import_keras()
        from service.models.card import CardError
        from service.models.repository import ModelError
        from training.cifar100 import DataError
        from training.dataset import HoldOutError
        from training.demo import DemoError
        from training.repository import ExportError
        from training.trial import TrialError

        try:
            command(*args, **kwargs)
        except (
            CardError,
            DataError,
            DemoError,
            ExportError,
            HoldOutError,
            ModelError,
            TrialError,
        ) as error:
            raise click.ClickException(str(error)) from error

    return wrapper


def _import_keras() -> None:
    """Import Keras, and its backend with it; say which ones there are where that is not there."""
    try:
        import_quietly("keras")
    except (ImportError, ValueError) as error:
        if getattr(error, "name", None) == "keras":
            raise click.ClickException(
                "Keras is not installed here; make setup installs all that training needs"
            ) from error
        chosen = os.environ.get("KERAS_BACKEND") or "not set"
        raise click.ClickException(
            f"Keras' backend cannot be loaded ({error}); KERAS_BACKEND is {chosen}: set it to "
            f"{' or '.join(BACKENDS)}"
        ) from error
