"""``config.pbtxt``: what NVIDIA Triton wants to know to serve the model repository as it is."""

from __future__ import annotations

TRITON_MAX_BATCH = 64


def triton_config(variant: str) -> str:
    """``config.pbtxt`` for NVIDIA Triton's ONNX Runtime backend."""
    return f"""name: "{variant}"
platform: "onnxruntime_onnx"
max_batch_size: {TRITON_MAX_BATCH}
input [
  {{
    name: "images"
    data_type: TYPE_UINT8
    dims: [ 32, 32, 3 ]
  }}
]
output [
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ 100 ]
    label_filename: "labels.txt"
  }}
]
version_policy: {{ all {{ }} }}
dynamic_batching {{ }}
"""
