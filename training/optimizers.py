"""What a recipe minimizes, with which optimizer and at which learning rate."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from training.recipes import Recipe

Tensor = Any


def build(recipe: Recipe) -> keras.optimizers.Optimizer:
    """The recipe's optimizer, for one run of the recipe's steps."""
    rate = recipe.learning_rate if recipe.schedule == "constant" else WarmUpAndDown.of(recipe)
    averaged = {"use_ema": True, "ema_momentum": recipe.average} if recipe.average else {}
    optimizer: keras.optimizers.Optimizer
    if recipe.optimizer == "rmsprop":
        optimizer = keras.optimizers.RMSprop(
            rate,
            rho=recipe.rho,
            epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay or None,
            **averaged,
        )
    else:
        optimizer = ConvolutionMuon(
            rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            adam_lr_ratio=recipe.adam_share,
            adam_weight_decay=recipe.weight_decay,
            **averaged,
        )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def loss(recipe: Recipe) -> Any:
    """Categorical cross-entropy of logits [N, classes] and labels [N], labels smoothed or not."""
    if not recipe.label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    smoothed = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )

    def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
        numbers = ops.cast(ops.reshape(labels, (-1,)), "int32")  # Keras hands them on as floats
        return smoothed(ops.one_hot(numbers, logits.shape[-1]), logits)

    return cross_entropy


@keras.saving.register_keras_serializable("training")
class WarmUpAndDown(keras.optimizers.schedules.LearningRateSchedule):
    """Linear up to the rate ``highest`` over ``rising`` of ``steps``, then linear down to zero.

    Zero would be the rate of the step after the last (Defazio et al. 2023, "When, why and how much?
    Adaptive learning rate scheduling by refinement": linear decay to zero is hard to beat).
    """

    def __init__(self, highest: float, steps: int, rising: int) -> None:
        self.highest, self.steps, self.rising = highest, steps, rising

    @classmethod
    def of(cls, recipe: Recipe) -> WarmUpAndDown:
        """The schedule of one run of the recipe's steps."""
        rising = min(max(round(recipe.warm_up * recipe.steps), 1), recipe.steps)
        return cls(recipe.learning_rate, recipe.steps, rising)

    def __call__(self, step: Tensor) -> Tensor:
        """The rate of ``step`` (from 0)."""
        step = ops.cast(step, "float32")
        up = (step + 1) / self.rising
        down = (self.steps - step) / max(self.steps - self.rising + 1, 1)
        return self.highest * ops.maximum(ops.minimum(up, down), 0.0)

    def get_config(self) -> dict[str, Any]:
        """What makes the schedule."""
        return {"highest": self.highest, "steps": self.steps, "rising": self.rising}


class ConvolutionMuon(keras.optimizers.Muon):
    """Muon for convolutions' kernels, as matrices [rows x columns x in, out]; Adam for the rest.

    The update of a kernel is the orthogonalized momentum times the learning rate, as in Jordan
    et al. 2024 (kellerjordan.github.io/posts/muon). Keras' own leaves kernels of four dimensions to
    Adam.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"rms_rate": None, **kwargs})

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x: Tensor, steps: int) -> Tensor:
        """The nearest (semi-)orthogonal matrix, roughly: singular values between 0.7 and 1.2."""
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)
