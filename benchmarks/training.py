"""Images/s of the training step, and seconds of the freeze, on this machine.

    python -m benchmarks.training

Four ways to train ``relu_with_bn`` in batches of 80, three of them by the article's recipe, each in
its own process, in turns, so that a busy moment of the machine affects all of them:

    a  this project's loop: uint8 pictures on the device, augmentation and the loop compiled
    b  the same step fed with ready-made float batches, no augmentation
    m  the same net by the recipe ``modern``: Muon, bfloat16 if there is, averaged weights
    c  the article's pipeline: ``ImageDataGenerator(...).flow`` into ``fit``, library defaults

The first step of each, which compiles, is not timed, nor is anything while another still compiles.
A round is ``--steps`` steps; the figure is the median of ``--rounds`` rounds, and the ratios are
medians of the rounds' own ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from typing import Any

import click
import numpy as np

from training.backend import import_quietly
from training.environment import arithmetic, hardware, versions
from training.recipes import RECIPES
from training.variants import VARIANTS

WAYS = {
    "a": "this project, augmentation included",
    "b": "the same net, ready-made batches",
    "m": "this project, recipe modern",
    "c": "ImageDataGenerator.flow into fit, library defaults",
}
ARTICLE = RECIPES["article"]
BATCH = ARTICLE.batch
MEAN = 121.9  # grey level that a net's first layer takes off


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--steps", default=20, show_default=True, help="Steps a round.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of each way.")
@click.option("--worker", type=click.Choice([*WAYS, "freeze"]), hidden=True)
def main(steps: int, rounds: int, worker: str | None) -> None:
    """Run the rounds and print the table; with ``--worker``, be one of the ways."""
    if worker:
        work(worker, steps)
        return
    workers = {way: start(way, steps) for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        for process in workers.values():
            answer(process)  # it is ready: the others would compile beside the first one's round
        for _ in range(rounds):
            for way, process in workers.items():
                rates[way].append(ask(process))
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
    import_quietly("keras")
    from training.nets import TRAINING_FLOP

    medians = {way: statistics.median(values) for way, values in rates.items()}
    print("| way | images/s | GFLOP/s | a / this |")
    print("| --- | ---: | ---: | ---: |")
    for way, label in WAYS.items():
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(rates["a"], rates[way], strict=True)
        )
        flops = TRAINING_FLOP * medians[way] / 1e9
        print(f"| {way}: {label} | {medians[way]:.0f} | {flops:.0f} | {ratio:.2f} |")
    freezer = start("freeze", steps)
    try:
        answer(freezer)
        seconds = ask(freezer)
    finally:
        freezer.kill()
        freezer.wait()
    pictures = ARTICLE.freeze_images
    print(f"\nOne freeze with {pictures:,} pictures, compilation included: {seconds:.1f} s")
    found = versions()
    print(
        f"{hardware()}; {rounds} rounds of {steps} steps of {BATCH} pictures; "
        f"Keras {found['keras']}, TensorFlow {found['tensorflow']}; modern in "
        f"{arithmetic(RECIPES['modern'].precision)}"
    )


def start(way: str, steps: int) -> subprocess.Popen[str]:
    """Start the worker for ``way``."""
    command = [sys.executable, "-m", "benchmarks.training", "--worker", way, "--steps", str(steps)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
        text=True,
    )


def ask(process: subprocess.Popen[str]) -> float:
    """Let the worker do one round and return its figure."""
    assert process.stdin is not None
    process.stdin.write("round\n")
    process.stdin.flush()
    return answer(process)


def answer(process: subprocess.Popen[str]) -> float:
    """What the worker says next: 0 once it is ready, and then each round's figure."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:  # what has ended it stands on stderr
        raise SystemExit(f"a worker has ended with status {process.wait()}")
    return float(json.loads(line))


def work(way: str, steps: int) -> None:
    """Serve rounds: a line on stdin is a round, a line on stdout its figure."""
    import_quietly("keras")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4_000, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 100, len(images))
    runners = {"a": fused, "b": ready_made, "m": modern, "c": article, "freeze": freezing}
    runner = runners[way]
    one_round = runner(images, labels, steps)
    print(0, flush=True)
    for _ in sys.stdin:
        print(json.dumps(one_round()), flush=True)


def fused(images: Any, labels: Any, steps: int, recipe: str = "article") -> Any:
    """(a, m) ``training.loop``, a round an execution, with its picking of pictures."""
    from training import nets
    from training.loop import inner_loop
    from training.step import batch_indices, compiled

    asked = RECIPES[recipe]
    chosen = replace(asked, batch=BATCH, precision=arithmetic(asked.precision))
    fitter = compiled(nets.build(chosen, VARIANTS["relu_with_bn"], MEAN, 0), chosen, 0)
    fitter.optimizer.build(fitter.trainable_variables)
    run = inner_loop(fitter, images, labels)
    number = 0

    def several(count: int) -> None:
        nonlocal number
        places = [batch_indices(0, number + n, BATCH, len(images)) for n in range(count)]
        run(np.stack(places), number)
        number += count

    several(2)

    def one_round() -> float:
        started = time.perf_counter()
        several(steps)
        return steps * BATCH / (time.perf_counter() - started)

    return one_round


def modern(images: Any, labels: Any, steps: int) -> Any:
    """(m) The same with the other recipe."""
    return fused(images, labels, steps, "modern")


def ready_made(images: Any, labels: Any, steps: int) -> Any:
    """(b) The same optimizer, loss and metric on float batches that wait in memory."""
    import keras

    from training import nets, optimizers

    net = nets.logits_of(nets.build(ARTICLE, VARIANTS["relu_with_bn"], MEAN, 0))
    net.compile(
        optimizer=optimizers.build(ARTICLE),
        loss=optimizers.loss(ARTICLE),
        metrics=[keras.metrics.SparseCategoricalAccuracy("accuracy")],
        jit_compile=False,
    )
    ready = images[:BATCH].astype(np.float32)

    def step(_: int) -> None:
        net.train_on_batch(ready, labels[:BATCH], return_dict=True)

    return timed(step, steps)


def article(images: Any, labels: Any, steps: int) -> Any:
    """(c) The article's own lines, with what the libraries do by default."""
    import keras

    # Keras 3 keeps the generator for old models only, and gives it no public name.
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    from training import nets

    warnings.simplefilter("ignore")  # SciPy, about what the generator imports
    net = nets.build(ARTICLE, VARIANTS["relu_with_bn"], MEAN, 0)
    net.compile(
        optimizer=keras.optimizers.RMSprop(1e-3),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    generator = ImageDataGenerator(shear_range=0.2, zoom_range=0.2, horizontal_flip=True)
    one_hot = keras.utils.to_categorical(labels, 100)
    flow = generator.flow(images.astype(np.float32), one_hot, batch_size=BATCH)
    net.fit(flow, steps_per_epoch=2, epochs=1, verbose=0)

    def one_round() -> float:
        started = time.perf_counter()
        net.fit(flow, steps_per_epoch=steps, epochs=1, verbose=0)
        return steps * BATCH / (time.perf_counter() - started)

    return one_round


def freezing(images: Any, labels: Any, steps: int) -> Any:
    """The article's population statistics, in seconds."""
    from training import nets
    from training.freeze import population_statistics

    net = nets.build(ARTICLE, VARIANTS["relu_with_bn"], MEAN, 0)
    batch = ARTICLE.freeze_batch

    def one_round() -> float:
        started = time.perf_counter()
        starts = [start % len(images) for start in range(0, ARTICLE.freeze_images, batch)]
        population_statistics(net, (images[start : start + batch] for start in starts))
        return time.perf_counter() - started

    return one_round


def timed(step: Any, steps: int) -> Any:
    """A function that runs ``steps`` steps and returns images/s; the first two are run here."""
    number = 0
    for _ in range(2):
        step(number)
        number += 1

    def one_round() -> float:
        nonlocal number
        started = time.perf_counter()
        for _ in range(steps):
            step(number)
            number += 1
        return steps * BATCH / (time.perf_counter() - started)

    return one_round


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.training")
