"""Every setting of the service, once: this table drives parsing, ``--help`` and the README.

In: the process's environment. Out: a frozen ``Settings``. A value that is not allowed is a
``SettingsError`` that names the variable, the value and what is allowed; an empty one counts as
not set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PILLOW_PIXEL_LIMIT = 89_478_485
"""Above this many pixels Pillow itself warns of a decompression bomb (Image.MAX_IMAGE_PIXELS)."""

Parser = Callable[[str], Any]


class SettingsError(ValueError):
    """An environment variable has a value that is not allowed."""


@dataclass(frozen=True)
class Setting:
    """One row: the environment variable, its default as text, its parser and its explanation."""

    name: str
    default: str
    parse: Parser
    help: str


def _whole(least: int, most: int) -> Parser:
    """A parser for a whole number from ``least`` to ``most``, both allowed."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not least <= int(text[:20]) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def _choice(*allowed: str) -> Parser:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return parse


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


SETTINGS = (
    Setting("MODELS_DIR", "exported_models", Path, "folder with manifest.json and the models"),
    Setting("HOST", "127.0.0.1", str, "address to listen on; 0.0.0.0 for every network"),
    Setting("PORT", "8000", _whole(1, 65535), "TCP port to listen on"),
    Setting(
        "WEB_CONCURRENCY",
        "0",
        _whole(0, 256),
        "worker processes; each loads every model for itself; 0: one for every 4 usable CPUs, "
        "and one alone where a GPU works",
    ),
    Setting(
        "THREADS",
        "0",
        _whole(0, 1024),
        "request threads in each worker; 0: enough for a full queue, and to refuse what is beyond",
    ),
    Setting(
        "MAX_BODY_BYTES",
        str(10 << 20),
        _whole(1, 1 << 30),
        "largest request body, in bytes; beyond it 413",
    ),
    Setting(
        "MAX_PIXELS",
        "25000000",
        _whole(1, PILLOW_PIXEL_LIMIT),
        "largest picture, width x height; a pixel takes 4 to 20 bytes of memory while it is "
        "decoded; beyond it 413",
    ),
    Setting("MAX_IMAGES", "64", _whole(1, 1024), "most pictures in one request; beyond it 413"),
    Setting(
        "MAX_BATCH",
        "0",
        _whole(0, 1024),
        "most pictures that are computed together; 0: 16 on CPUs, 64 on a GPU",
    ),
    Setting(
        "QUEUE_IMAGES",
        "64",
        _whole(1, 4096),
        "pictures that may wait in each worker to be computed; beyond it 503",
    ),
    Setting(
        "DEADLINE_SECONDS",
        "10",
        _whole(1, 3600),
        "seconds from a request's arrival until its answer must be computed; beyond it 504",
    ),
    Setting(
        "DRAIN_SECONDS",
        "1",
        _whole(0, 3600),
        "seconds after SIGTERM in which /health/ready says 503 and requests are still answered",
    ),
    Setting("REQUIRE_GPU", "0", _flag, "1: refuse to start where no GPU works"),
    Setting(
        "GPU_MEMORY_LIMIT",
        str(1 << 30),
        _whole(1 << 26, 1 << 40),
        "GPU memory that each model may take, in bytes",
    ),
    Setting(
        "ORT_THREADS",
        "1",
        _whole(1, 1024),
        "CPU threads of one run; there are as many runs at a time as the usable CPUs have room for",
    ),
    Setting(
        "LOG_LEVEL",
        "info",
        _choice("debug", "info", "warning", "error"),
        "least severe log line that is written",
    ),
)


@dataclass(frozen=True)
class Settings:
    """The settings of one process; ``SETTINGS`` explains each field under its upper-case name."""

    models_dir: Path
    host: str
    port: int
    web_concurrency: int
    threads: int
    max_body_bytes: int
    max_pixels: int
    max_images: int
    max_batch: int
    queue_images: int
    deadline_seconds: int
    drain_seconds: int
    require_gpu: bool
    gpu_memory_limit: int
    ort_threads: int
    log_level: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings. Raises ``SettingsError`` for the first value that is not allowed."""
        values = {}
        for setting in SETTINGS:
            text = environment.get(setting.name) or setting.default
            try:
                values[setting.name.lower()] = setting.parse(text)
            except ValueError as error:
                raise SettingsError(f"{setting.name} is {text!r}; allowed: {error}") from None
        return cls(**values)


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = [f"| `{s.name}` | `{s.default}` | {s.help} |" for s in SETTINGS]
    return "\n".join(["| variable | default | what |", "| --- | --- | --- |", *rows])
