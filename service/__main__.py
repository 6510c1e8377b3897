"""The service's command line.

python -m service                        serve the models over HTTP
python -m service predict cat.png        classify pictures without a server
python -m service models                 list the models
python -m service settings               the settings as a Markdown table
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__" and len(sys.argv) == 1:  # to serve: the imports below take their time
    # Process 1, as in every container, is not even sent a signal that nobody handles. There is
    # nothing to tidy up yet, and an exception would be lost in a callback of the import system.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.settings import SETTINGS, Settings, SettingsError, settings_table

if TYPE_CHECKING:
    from service.models.repository import Repository


def _settings_help() -> str:
    rows = [f"{s.name} (default {s.default}): {s.help}" for s in SETTINGS]
    return "\b\nSettings, from the environment:\n" + "\n".join(f"  {row}" for row in rows)


@click.group(invoke_without_command=True, epilog=_settings_help())
@click.pass_context
def cli(context: click.Context) -> None:
    """Classify pictures with the exported models: over HTTP (no command), or from here."""
    if context.invoked_subcommand is None:
        settings = _settings()
        from service.metric_files import FolderError
        from service.models.runtime import GpuError
        from service.server import AddressError, serve

        try:
            serve(settings)
        except (AddressError, FolderError, GpuError) as error:
            raise click.ClickException(str(error)) from None


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--variant", help="The variant that answers. Default: the repository's default.")
@click.option("--version", type=click.IntRange(1), help="Its version. Default: the current one.")
@click.option(
    "--top-k",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="How many classes a picture, the likeliest first.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, one line a file.")
def predict(
    files: tuple[Path, ...], variant: str | None, version: int | None, top_k: int, as_json: bool
) -> None:
    """Classify FILES with a model of MODELS_DIR, without a server.

    A file that cannot be used is named, and the exit status is 1.
    """
    from service.answers import answered_by, top
    from service.models.repository import UnknownModelError

    try:
        model = _repository().get(variant, version)
    except UnknownModelError as error:
        raise click.ClickException(str(error)) from None
    if not as_json:
        facts = answered_by(model)
        click.echo(f"{model.variant} " + ", ".join(f"{key} {fact}" for key, fact in facts.items()))
    failed = False
    for path, pixels in _pictures(files):
        if isinstance(pixels, str):
            failed = True
            click.echo(f"{click.format_filename(path)}: {pixels}", err=True)
            continue
        answer = top(model.run(pixels[None])[0], model.card, top_k)
        if as_json:
            line = {"variant": model.variant, **answered_by(model), "name": str(path)}
            click.echo(json.dumps({**line, "top": answer}))
        else:
            click.echo(f"\n{click.format_filename(path)}")
            for guess in answer:
                click.echo(
                    f"  {guess['probability']:7.2%}  {guess['label']:<16} {guess['superclass']}"
                )
    if failed:
        raise SystemExit(1)


@cli.command()
def models() -> None:
    """List the models of MODELS_DIR, checked and warmed up.

    + marks the current version of each variant, which answers where none is asked for, and * that
    of the default variant.
    """
    repository = _repository()
    click.echo("  variant               version  top-1   top-5   dataset     recipe      provider")
    marks = {**dict.fromkeys(repository.each().values(), "+"), repository.get(): "*"}
    for versions in repository.models.values():
        for model in versions.values():
            card = model.card
            score = card.evaluation.after_freeze
            click.echo(
                f"{marks.get(model, ' ')} {model.variant:<21} "
                f"{model.version:>7}  {score.top1:.4f}  {score.top5:.4f}  "
                f"{card.dataset.name:<11} {card.recipe:<11} {model.provider}"
            )


@cli.command()
def settings() -> None:
    """Print the settings as a Markdown table, as in the README."""
    click.echo(settings_table())


def _settings() -> Settings:
    try:
        return Settings.from_environment(os.environ)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _repository() -> Repository:
    from service.models.repository import ModelError, open_repository
    from service.models.runtime import GpuError

    try:
        return open_repository(_settings())
    except (ModelError, GpuError) as error:
        raise click.ClickException(str(error)) from None


def _pictures(files: tuple[Path, ...]) -> Iterator[tuple[Path, Any]]:
    """Each file with its pixels, uint8 [32, 32, 3], or with what is wrong with it."""
    from service.pictures import PictureError, decode

    limit = _settings().max_pixels
    for path in files:
        try:
            yield path, decode(path.read_bytes(), max_pixels=limit)
        except PictureError as error:
            yield path, str(error)
        except OSError as error:
            yield path, error.strerror or str(error)


if __name__ == "__main__":
    cli(prog_name="python -m service")
