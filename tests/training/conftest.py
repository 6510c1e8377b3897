"""Fixtures of the trainer's tests."""

from __future__ import annotations

import os

# Before anything imports TensorFlow: quiet, and the faster path for these nets on AMD CPUs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
