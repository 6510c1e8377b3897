"""The model card (``service.models.card``) of a frozen trial.

In: the trial's record and its data set. Out: the card, to which the export adds the parity.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from service.models.card import (
    SCHEMA_VERSION,
    DatasetCard,
    Evaluation,
    Frozen,
    FrozenLayer,
    ModelCard,
    Score,
    Training,
)
from training.dataset import Dataset
from training.environment import versions
from training.trial import precision_of


def card_of(record: Mapping[str, Any], dataset: Dataset) -> ModelCard:
    """The model card of a frozen trial, parity still to be measured."""
    configuration, outcome, freeze = record["configuration"], record["outcome"], record["freeze"]
    recipe, variant = configuration["recipe"], configuration["variant"]
    return ModelCard(
        schema_version=SCHEMA_VERSION,
        variant=variant["name"],
        activation=variant["activation"],
        normalization=variant["normalization"],
        recipe=recipe["name"],
        seed=configuration["seed"],
        training=Training(
            steps=outcome["steps"],
            epochs=outcome["epochs"],
            batch=recipe["batch"],
            learning_rate=recipe["learning_rate"],
            images=outcome["images"],
            seconds=round(outcome["seconds"], 1),
            hardware=record["hardware"],
            backend=record["backend"],
            precision=precision_of(record),
            kept_step=outcome["kept_step"] if outcome["kept_step"] != outcome["steps"] else None,
            hold_out=configuration["hold_out"] or None,
        ),
        dataset=DatasetCard(**configuration["dataset"]),
        classes=dataset.class_names,
        superclasses=dataset.superclasses,
        training_mean=configuration["training_mean"],
        frozen=Frozen(
            kind=freeze["kind"],
            images=freeze["images"],
            batches=freeze["batches"],
            layers=tuple(
                FrozenLayer(
                    name=layer["name"],
                    channels=layer["channels"],
                    mean_shift_sd=tuple(round(value, 5) for value in layer["mean_shift_sd"]),
                    variance_ratio=tuple(round(value, 5) for value in layer["variance_ratio"]),
                )
                for layer in freeze["layers"]
            ),
        ),
        evaluation=Evaluation(
            split=freeze["split"],
            images=freeze["split_images"],
            before_freeze=Score(**freeze["before"]),
            after_freeze=Score(**freeze["after"]),
        ),
        parity=None,
        tools=tools_of(record["versions"], versions()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def tools_of(fit: Mapping[str, str], exported: Mapping[str, str]) -> dict[str, str]:
    """Versions by tool: the fit's, and the exporter's beside it where it is another."""
    return dict(exported) | {
        tool: version
        if exported.get(tool, version) == version
        else f"{version}, exported with {exported[tool]}"
        for tool, version in fit.items()
    }
