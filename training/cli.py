"""``python -m training``: train, freeze, export and compare from the command line."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from training.lists import FirstSeed, Words
from training.options import (
    PATH,
    Finite,
    data_option,
    models_option,
    recipe_option,
    runs_option,
    seeds_option,
    told,
    variants_option,
)
from training.recipes import RECIPES
from training.variants import VARIANTS

LEAST_SHARE = 1e-4  # of a GPU: what Ray counts them in
_EPOCHS = ", ".join(f"{each.steps_per_epoch:,} ({name})" for name, each in RECIPES.items())


@click.group()
def main() -> None:
    """Train, freeze, export and compare the four nets of the batch-normalization study.

    Every step continues from what the previous one left under --runs, and can be repeated: finished
    work is skipped, interrupted work resumes.
    """


@main.command()
@recipe_option
@variants_option
@seeds_option
@data_option
@runs_option
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Optimizer steps of a whole run. Default: the recipe's.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help=f"Instead of --steps; an epoch is {_EPOCHS} steps.",
)
@click.option(
    "--batch", type=click.IntRange(min=2), help="Pictures per step. Default: the recipe's."
)
@click.option(
    "--learning-rate",
    type=Finite(min=0, min_open=True),
    help="With a schedule, its peak. Default: the recipe's.",
)
@click.option(
    "--hold-out",
    type=click.IntRange(min=0),
    default=0,
    help="Training pictures held out to validate and select on. Default: none; the curves then "
    "show the test pictures, as the article's did.",
)
@click.option(
    "--keep-best", is_flag=True, help="Keep the weights of the best epoch on the hold-out."
)
@click.option(
    "--patience",
    type=click.IntRange(min=0),
    default=0,
    help="Stop after this many epochs without a new best on the hold-out. 0: never.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trials at a time, each in a process of its own, on this machine; not with --ray.",
)
@click.option(
    "--ray",
    "cluster",
    metavar="ADDRESS",
    help="Run the trials on this Ray cluster: auto, or host:port.",
)
@click.option(
    "--gpus",
    type=Finite(min=0),
    default=0.0,
    show_default=True,
    help="Share of a GPU per trial, with --ray: 0.25 puts four on one.",
)
@click.option(
    "--index",
    type=click.IntRange(min=0),
    envvar="JOB_COMPLETION_INDEX",
    show_envvar=True,
    help="Run only this trial, counted from 0: ordered by seed, then by variant.",
)
@told
def train(
    recipe: str,
    variants: list[str],
    seeds: list[int],
    data: Path | None,
    runs: Path,
    steps: int | None,
    epochs: int | None,
    batch: int | None,
    learning_rate: float | None,
    hold_out: int,
    keep_best: bool,
    patience: int,
    jobs: int,
    cluster: str | None,
    gpus: float,
    index: int | None,
) -> None:
    """Fit and freeze every variant with every seed, one trial after another or several at once."""
    if _given("gpus") and cluster is None:
        raise click.UsageError(
            "--gpus shares out a Ray cluster's GPUs: give --ray ADDRESS as well, or leave it out; "
            "without a cluster a fit takes the GPU that Keras sees"
        )
    if _given("jobs") and cluster is not None:
        raise click.UsageError(
            "--jobs counts processes on this machine, and --ray runs a trial on every free CPU of "
            "the cluster: give one of them"
        )
    if (gpus > 1 and not gpus.is_integer()) or 0 < gpus < LEAST_SHARE:
        raise click.UsageError(
            f"--gpus {gpus:g}: a share of one GPU, from {LEAST_SHARE:.4f} to 1, or a whole number"
        )
    from training.cluster import run_on_ray
    from training.spread import run_in_processes, run_in_turn
    from training.trial import Trial, TrialError, override

    changes = {"steps": steps, "epochs": epochs, "batch": batch, "learning_rate": learning_rate}
    try:
        chosen = {name: override(recipe, name, **changes) for name in variants}
        trials = [
            Trial(chosen[name], VARIANTS[name], seed, runs, hold_out, keep_best, patience)
            for seed in seeds
            for name in variants
        ]
    except TrialError as error:  # of options that do not go together
        raise click.UsageError(str(error)) from error
    if index is not None:
        if index >= len(trials):
            raise click.UsageError(
                f"--index {index}: there are {len(trials)} trials, 0 to {len(trials) - 1}; "
                "ask for as many completions as there are trials"
            )
        trials = [trials[index]]
    if cluster is not None:
        return run_on_ray(trials, data, cluster, gpus, click.echo)
    if jobs > 1:
        return run_in_processes(trials, data, jobs, click.echo)
    return run_in_turn(trials, data, click.echo)


@main.command()
@recipe_option
@variants_option
@seeds_option
@data_option
@runs_option
@click.option(
    "--images", type=click.IntRange(min=1), help="Training pictures to use. Default: the recipe's."
)
@told
def freeze(
    recipe: str,
    variants: list[str],
    seeds: list[int],
    data: Path | None,
    runs: Path,
    images: int | None,
) -> None:
    """Freeze fitted trials (again), with population statistics of training pictures."""
    from training.data import load
    from training.freeze import freeze as freeze_trial
    from training.missing import refuse_missing

    folders = _folders(runs, recipe, variants, seeds)
    refuse_missing(folders, "fitted", data)
    dataset = load(RECIPES[recipe].dataset, data)
    for folder in folders:
        freeze_trial(folder, dataset, images=images, say=click.echo)


@main.command()
@recipe_option
@variants_option
@click.option(
    "--seed",
    type=FirstSeed(),
    default=0,
    show_default=True,
    help="The seed of the trials to export; of a list (0,1 or 0-4), the first.",
)
@data_option
@runs_option
@models_option
@click.option(
    "--replace",
    "replace_last",
    is_flag=True,
    help="Put the net in place of its recipe's newest version. Default: it becomes a new one.",
)
@click.option(
    "--default",
    "default",
    type=click.Choice(list(VARIANTS)),
    help="The variant that answers when none is named.",
)
@click.option(
    "--no-promote",
    is_flag=True,
    help="Leave unchanged which version answers when none is named; not with --replace.",
)
@told
def export(
    recipe: str,
    variants: list[str],
    seed: int,
    data: Path | None,
    runs: Path,
    models: Path,
    replace_last: bool,
    default: str | None,
    no_promote: bool,
) -> None:
    """Export frozen trials to ONNX, each proved against Keras before it is published."""
    if replace_last and no_promote:
        raise click.UsageError(
            "--replace puts a net in the place of one that may answer already, and --no-promote "
            "publishes one that does not: give one of them"
        )
    from training.data import load
    from training.export import export as export_trial
    from training.missing import refuse_missing

    # Whoever shall answer by default goes first, so that it is there when the others are listed.
    variants = sorted(variants, key=lambda name: name != default)
    folders = _folders(runs, recipe, variants, [seed])
    refuse_missing(folders, "frozen", data)
    dataset = load(RECIPES[recipe].dataset, data)
    for folder in folders:
        export_trial(
            folder,
            dataset,
            models,
            replace_last=replace_last,
            default=default,
            promote=not no_promote,
            say=click.echo,
        )


@main.command()
@click.argument("variant")
@click.argument("version", type=click.IntRange(1))
@models_option
@click.option("--default", is_flag=True, help="Also make VARIANT answer when none is named.")
def promote(variant: str, version: int, models: Path, default: bool) -> None:
    """Make VERSION of VARIANT answer when no version is named; an older one is a way back."""
    from service.models.repository import ModelError
    from training.promote import promote as promote_version
    from training.repository import ExportError

    try:
        promote_version(models, variant, version, default=default, say=click.echo)
    except (ExportError, ModelError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@recipe_option
@runs_option
@click.option(
    "--to",
    type=PATH,
    default=Path("exported_models"),
    show_default=True,
    help="Where the figure and the table go.",
)
@told
def compare(recipe: str, runs: Path, to: Path) -> None:
    """Draw the study's figure and write its table, for whatever trials there are."""
    from training.compare import compare as compare_trials
    from training.table import markdown

    click.echo(markdown(compare_trials(runs, recipe, to, say=click.echo)))


@main.command()
@recipe_option
@click.option(
    "--variants",
    type=Words(list(VARIANTS)),
    default="relu_with_bn,sigmoid_with_bn",
    show_default=True,
    help="Which nets; those without batch normalization are skipped.",
)
@seeds_option
@data_option
@runs_option
@click.option(
    "--images",
    type=click.IntRange(min=2),
    default=4_800,
    show_default=True,
    help="Training pictures to take each kind of statistics from.",
)
@click.option("--to", type=PATH, help="Where ablation.json and .md go. Default: runs/<recipe>.")
@told
def ablate(
    recipe: str,
    variants: list[str],
    seeds: list[int],
    data: Path | None,
    runs: Path,
    images: int,
    to: Path | None,
) -> None:
    """Show where the freeze's gain comes from: lag, augmentation or dropout."""
    from training.ablation import ablate as ablate_trials
    from training.ablation import markdown
    from training.data import load
    from training.missing import refuse_missing

    folders = _folders(runs, recipe, variants, seeds)
    refuse_missing(folders, "fitted", data)
    dataset = load(RECIPES[recipe].dataset, data)
    click.echo(markdown(ablate_trials(folders, dataset, to or runs / recipe, images, click.echo)))


@main.command()
@click.option(
    "--to", type=PATH, default=Path("demo"), show_default=True, help="The folder for all of it."
)
@told
def demo(to: Path) -> None:
    """Fit, freeze, export, serve and ask: the whole way, on drawn pictures, in minutes."""
    from training.demo import demo as run

    run(to, say=click.echo)


def _given(name: str) -> bool:
    """Whether the option was given to this command, be it as its default says."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not ParameterSource.DEFAULT


def _folders(runs: Path, recipe: str, variants: list[str], seeds: list[int]) -> list[Path]:
    return [runs / recipe / name / f"seed-{seed}" for seed in seeds for name in variants]
