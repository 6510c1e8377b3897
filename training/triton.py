"""``config.pbtxt``: the configuration with which NVIDIA Triton serves the model repository."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.dataset import CLASSES, IMAGE_SHAPE

TRITON_MAX_BATCH = 64


def triton_config(variant: str, versions: Sequence[int] | None = None) -> str:
    """``config.pbtxt`` for NVIDIA Triton's ONNX Runtime backend; see ``with_versions``."""
    return f"""name: "{variant}"
platform: "onnxruntime_onnx"
max_batch_size: {TRITON_MAX_BATCH}
input [
  {{
    name: "images"
    data_type: TYPE_UINT8
    dims: [ {", ".join(map(str, IMAGE_SHAPE))} ]
  }}
]
output [
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ {CLASSES} ]
    label_filename: "labels.txt"
  }}
]
{policy(versions)}
dynamic_batching {{ }}
"""


def with_versions(config: str, versions: Sequence[int] | None) -> str:
    """The same configuration, by which Triton loads these versions; None is all there are.

    Where none is asked for, Triton answers by the highest that it has loaded: for another version
    to answer, those above it must not be. Source: Triton's model configuration, version policy.
    """
    return _WRITTEN.sub(policy(versions), config)


_WRITTEN = re.compile(
    r"^version_policy: \{ (all \{ \}|specific \{ versions: \[[ \d,]*\] \}) \}$", re.MULTILINE
)
"""As ``policy`` says it; whoever has written another one does as he likes."""


def policy(versions: Sequence[int] | None) -> str:
    """The line of the configuration that says so."""
    if versions is None:
        return "version_policy: { all { } }"
    return f"version_policy: {{ specific {{ versions: [ {', '.join(map(str, versions))} ] }} }}"
