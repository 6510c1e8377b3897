"""How a net is fitted, as data: every setting in one place; the command line may override some.

``article`` is Harrison Jansma's "Intuit and Implement: Batch Normalization" (2018):
2,000 steps of 80 pictures make an "epoch", 20 of them a run, so 64 passes over the 50,000 training
pictures. It should reach, on the 10,000 test pictures with the moving averages as trained, 56.8 %
(ReLU with BN), 51.3 % (sigmoid with BN), 28.3 % (ReLU without) and 1.0 % (sigmoid without: chance).
About 1.10 PFLOP a net.

``modern`` fits the same nets with Muon, a schedule and bfloat16, 64 passes again. Frozen, they
should then reach 68.3 % (ReLU with BN), 67.6 % (sigmoid with BN), 65.6 % (ReLU without) and 65.5 %
(sigmoid without), means of two seeds each.

``demo`` fits the drawn pictures of ``training.synthetic`` in about a minute on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

WORDS = {  # what a recipe's words may be
    "dataset": ("cifar100", "synthetic"),
    "optimizer": ("rmsprop", "muon"),
    "schedule": ("constant", "linear"),
    "initialization": ("glorot", "scaled"),
    "precision": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transform of every training picture (see ``training.augment``)."""

    shear: float = 0.2  # degrees, uniform in [-shear, shear]
    zoom: float = 0.2  # x and y independently, uniform in [1 - zoom, 1 + zoom]
    flip: bool = True  # left to right, for one picture in two
    shift: int = 0  # pixels, x and y independently, uniform in -shift..shift; mirrored outside

    def __post_init__(self) -> None:
        if self.shift and (self.shear or self.zoom):
            raise ValueError(
                f"a shift of {self.shift} pixels goes without shear and zoom; set those to 0"
            )


@dataclass(frozen=True)
class Recipe:
    """One way to fit any of the variants."""

    name: str
    dataset: str  # of ``training.data.LOADERS``
    steps: int  # optimizer steps of a whole run
    steps_per_epoch: int  # an "epoch" is what a row of the history covers, not a pass over the data
    batch: int  # pictures a step
    learning_rate: float  # the highest, where there is a schedule
    optimizer: str = "rmsprop"  # or "muon": Muon for the convolutions' kernels, Adam for the rest
    rho: float = 0.9  # RMSprop's decay of the squared gradient
    # Keras 2.2 divided by sqrt(v) + 1e-7, Keras 3 divides by sqrt(v + epsilon): 1e-14 puts the
    # same floor of 1e-7 under the denominator.
    epsilon: float = 1e-14
    momentum: float = 0.95  # Muon's, Nesterov's way
    adam_share: float = 0.05  # Adam's learning rate, of Muon's
    # Of kernels only, decoupled: a step takes this times the rate off. Where Adam steps, it is this
    # times Muon's rate too.
    weight_decay: float = 0.0
    schedule: str = "constant"  # or "linear": up over the warm-up, then down to zero at the end
    warm_up: float = 0.0  # share of the steps
    label_smoothing: float = 0.0  # share of a label that is spread over all classes
    average: float = 0.0  # decay of the moving average of the weights that is kept; 0: the last
    dropout: float = 0.15
    augmentation: Augmentation = Augmentation()
    pixel_scale: float = 1.0  # grey levels that are 1 to the first convolution
    initialization: str = "glorot"  # or "scaled" (see ``training.nets``)
    # Or "bfloat16": of the fit alone, and where the machine has it (``environment.arithmetic``);
    # what it leaves is float32.
    precision: str = "float32"
    freeze_images: int = 8_000  # training pictures the population statistics are taken from
    freeze_batch: int = 80

    def __post_init__(self) -> None:
        for field, known in WORDS.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"recipe {self.name}: unknown {field} {getattr(self, field)!r}; it is "
                    f"{' or '.join(map(repr, known))}"
                )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="article",
            dataset="cifar100",
            steps=40_000,
            steps_per_epoch=2_000,
            batch=80,
            learning_rate=1e-3,
        ),
        Recipe(
            name="modern",
            dataset="cifar100",
            steps=32_000,
            steps_per_epoch=1_000,
            batch=100,
            optimizer="muon",
            learning_rate=0.05,
            weight_decay=0.025,
            schedule="linear",
            warm_up=0.03,
            label_smoothing=0.1,
            average=0.99,
            dropout=0.0,
            augmentation=Augmentation(shear=0.0, zoom=0.0, flip=True, shift=4),
            pixel_scale=64.0,
            initialization="scaled",
            precision="bfloat16",
            freeze_images=20_000,
            freeze_batch=200,
        ),
        Recipe(
            name="demo",
            dataset="synthetic",
            steps=280,
            steps_per_epoch=70,
            batch=40,
            learning_rate=1e-3,
            freeze_images=2_000,
        ),
    )
}

LEARNING_RATES: dict[tuple[str, str], float] = {("modern", "relu_without_bn"): 0.015}
"""Of variants that do not stand their recipe's: selected on 5,000 training pictures held out."""
