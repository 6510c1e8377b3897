"""Accuracy and loss of a net in inference mode."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from training.dataset import Images, Labels
from training.nets import logits_of

BATCH = 100  # pictures a forward pass: large enough for the cores, small enough for the caches


@dataclass(frozen=True)
class Scores:
    """Shares of right answers (0..1) and the mean categorical cross-entropy in nats."""

    top1: float
    top5: float
    loss: float


def evaluate(net: keras.Model, images: Images, labels: Labels) -> Scores:
    """Score ``net`` (inference mode) on uint8 ``images`` [N, 32, 32, 3] and int ``labels`` [N]."""
    return score(predict(logits_of(net), images), labels)


def predict(model: keras.Model, images: Images) -> NDArray[np.float32]:
    """What ``model`` answers in inference mode for uint8 ``images``: float32 [N, ...]."""
    answers: NDArray[np.float32] = model.predict(images, batch_size=BATCH, verbose=0)
    return answers


def score(logits: NDArray[np.floating], labels: Labels) -> Scores:
    """Score logits [N, classes] against labels [N], in float64.

    A class ranks before another with the same logit only where its index is lower, so a net that
    answers the same for everything scores chance. What is not a number ranks behind nothing: a net
    that has diverged scores 0, with a loss that is not a number either.
    """
    wide = logits.astype(np.float64)
    rows = np.arange(len(labels))
    own = wide[rows, labels][:, None]
    classes = np.arange(wide.shape[1])
    tied_after = (wide == own) & (classes > labels[:, None])
    before = ~(wide < own) & ~tied_after & (classes != labels[:, None])
    rank = before.sum(axis=1)
    top = wide.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # logits that overflowed have no loss
        log_sum = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0]
    return Scores(
        top1=float((rank == 0).mean()),
        top5=float((rank < 5).mean()),
        loss=float((log_sum - own[:, 0]).mean()),
    )
