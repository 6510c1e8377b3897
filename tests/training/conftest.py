"""Fixtures of the trainer's tests: a few trials that were really fitted and frozen, once a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Helpers whose assertions say as much as the tests' own where they fail.
pytest.register_assert_rewrite(
    *(f"tests.training.{name}" for name in ("commands", "nodes", "resumed", "trials"))
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            # Keras' own Variable.__array__, on every read of a variable, saving a net included.
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
                )
            )


@dataclass(frozen=True)
class Fitted:
    """A trial that was fitted and frozen: its data, its folder, and what it left there."""

    data: Any
    folder: Path
    record: dict[str, Any]
    net: Any  # as fitted, with moving averages
    frozen: Any  # as frozen, with population statistics

    @property
    def activation(self) -> str:
        return self.record["configuration"]["variant"]["activation"]

    @property
    def training_mean(self) -> float:
        return self.record["configuration"]["training_mean"]


@pytest.fixture(scope="session")
def dataset() -> Any:
    """1,000 training and 1,000 test pictures: the exporter proves parity on no fewer."""
    from training import synthetic

    return synthetic.load(seed=5, train=1000, test=1000)


@pytest.fixture(scope="session")
def small_dataset() -> Any:
    """200 training and 100 test pictures."""
    from training import synthetic

    return synthetic.load(seed=6, train=200, test=100)


@pytest.fixture(scope="session")
def fit_and_freeze(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Fitted]:
    """Fit a variant for so many steps of 20 pictures, and freeze it on all training pictures."""
    runs = tmp_path_factory.mktemp("runs")

    def run(variant: str, data: Any, steps: int) -> Fitted:
        import keras

        from training.fit import fit
        from training.freeze import freeze
        from training.recipes import Recipe
        from training.trial import Trial
        from training.variants import VARIANTS

        recipe = Recipe(
            name="test",
            dataset="synthetic",
            steps=steps,
            steps_per_epoch=100,
            batch=20,
            learning_rate=1e-3,
            freeze_images=1000,
            freeze_batch=50,
        )
        trial = Trial(recipe, VARIANTS[variant], seed=0, runs=runs)
        fit(trial, data)
        record = freeze(trial.folder, data)
        return Fitted(
            data=data,
            folder=trial.folder,
            record=record,
            net=keras.saving.load_model(trial.folder / "model.keras", compile=False),
            frozen=keras.saving.load_model(trial.folder / "frozen.keras", compile=False),
        )

    return run


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any, int], None]:
    """Fit a trial and die once the checkpoint of that step is written."""
    import training.fit
    from tests.training.resumed import Killed

    def run(trial: Any, data: Any, step: int) -> None:
        save = training.fit._Run.save

        def dying(run: Any) -> None:
            save(run)
            if run.progress.step == step:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(training.fit, "CHECKPOINT_SECONDS", 0)
            patch.setattr(training.fit, "EXECUTION_SECONDS", 0)
            patch.setattr(training.fit._Run, "save", dying)
            with pytest.raises(Killed):
                training.fit.fit(trial, data)

    return run


@pytest.fixture(scope="session")
def relu_with_bn(fit_and_freeze: Callable[..., Fitted], dataset: Any) -> Fitted:
    return fit_and_freeze("relu_with_bn", dataset, steps=60)


@pytest.fixture(scope="session")
def sigmoid_with_bn(fit_and_freeze: Callable[..., Fitted], dataset: Any) -> Fitted:
    return fit_and_freeze("sigmoid_with_bn", few_tests(dataset), steps=40)


@pytest.fixture(scope="session")
def relu_without_bn(fit_and_freeze: Callable[..., Fitted], dataset: Any) -> Fitted:
    return fit_and_freeze("relu_without_bn", few_tests(dataset), steps=3)


def few_tests(dataset: Any) -> Any:
    """The same data, scored on 100 test pictures only: quicker to fit and to freeze again."""
    return replace(
        dataset, test_images=dataset.test_images[:100], test_labels=dataset.test_labels[:100]
    )


@pytest.fixture(scope="session", params=["relu_with_bn", "sigmoid_with_bn"])
def with_bn(request: pytest.FixtureRequest) -> Fitted:
    """Both nets that normalize, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Fitted], Path]:
    """A copy of a fitted trial's folder that a test may change."""

    def copy(fitted: Any) -> Path:
        target = tmp_path.joinpath(*fitted.folder.parts[-3:])
        return Path(shutil.copytree(fitted.folder, target))

    return copy
