"""Every setting of the service, once: this table drives parsing, ``--help`` and the README.

In: the process's environment. Out: a frozen ``Settings``. A value that is not allowed is a
``SettingsError`` that names the variable, the value and what is allowed; an empty one counts as
not set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.numbers import whole

PILLOW_PIXEL_LIMIT = 89_478_485
"""Above this many pixels Pillow itself warns of a decompression bomb (Image.MAX_IMAGE_PIXELS)."""

NONE = "none"

_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{16,256}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")

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
    secret: bool = False


def _whole(least: int, most: int) -> Parser:
    """A parser for a whole number from ``least`` to ``most``, both allowed."""

    def parse(text: str) -> int:
        number = whole(text, least, most)
        if number is None:
            raise ValueError(f"a whole number from {least} to {most}")
        return number

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


def key_digest(key: str) -> bytes:
    """The SHA-256 of an API key, which is all that the service keeps of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _list(text: str) -> list[str]:
    """The values of a comma-separated list; "none" alone is the empty one."""
    return [] if text == NONE else [each.strip() for each in text.split(",")]


def _keys(text: str) -> tuple[bytes, ...]:
    keys = _list(text)
    if not all(map(_KEY.fullmatch, keys)):
        raise ValueError(
            "keys of 16 to 256 printable ASCII characters without spaces, separated by commas"
        )
    return tuple(map(key_digest, keys))


def _origins(text: str) -> tuple[str, ...]:
    origins = _list(text)
    if origins != ["*"] and not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError(
            "origins like https://example.org, in lower case and without a path, separated by "
            "commas, or * alone"
        )
    return tuple(origins)


SETTINGS = (
    Setting("MODELS_DIR", "exported_models", Path, "folder with manifest.json and the models"),
    Setting(
        "HOST",
        "127.0.0.1",
        str,
        "address to listen on, or a host name (its first IPv4 address, else its first); 0.0.0.0: "
        "every network",
    ),
    Setting("PORT", "8000", _whole(1, 65535), "TCP port to listen on"),
    Setting(
        "WEB_CONCURRENCY",
        "0",
        _whole(0, 256),
        "worker processes; 0: one for every ORT_THREADS usable CPUs, or a single one if a GPU "
        "works",
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
        "largest picture, width x height; beyond it 413. Decoding takes 4 to 20 bytes of memory a "
        "pixel; each worker decodes at most two large pictures at a time, and at most one of more "
        "than 8 million pixels",
    ),
    Setting(
        "MAX_REQUEST_PIXELS",
        "100000000",
        _whole(1, 1 << 40),
        "most pixels in all pictures of one request together; beyond it 413, before any is decoded",
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
        "pictures that may wait in each worker to be computed, and as many large ones to be "
        "decoded; beyond it 503. One request takes at most MAX_BATCH of these places at a time "
        "(for decoding 16 if MAX_BATCH is 0)",
    ),
    Setting(
        "QUEUE_BYTES",
        str(64 << 20),
        _whole(1, 1 << 40),
        "bytes of large request bodies that each worker may hold while they are still arriving; "
        "beyond it 503 for the one that has stalled longest, else for the one that wants more",
    ),
    Setting(
        "DEADLINE_SECONDS",
        "10",
        _whole(1, 3600),
        "seconds after a whole request has arrived by which its pictures must be decoded and its "
        "answer computed; beyond it 504",
    ),
    Setting(
        "HEAD_SECONDS",
        "20",
        _whole(1, 3600),
        "seconds that a request's head may take to arrive; beyond it 408, and the connection is "
        "closed, as is a new one that sends nothing for as long",
    ),
    Setting(
        "BODY_SECONDS",
        "60",
        _whole(1, 3600),
        "seconds that a request's body may take to arrive; beyond it 408, and the connection is "
        "closed",
    ),
    Setting(
        "DRAIN_SECONDS",
        "1",
        _whole(0, 3600),
        "seconds after SIGTERM during which /health/ready says 503 but requests are still answered",
    ),
    Setting(
        "API_KEYS",
        NONE,
        _keys,
        "keys of 16 to 256 characters, separated by commas; every request must bring one, as "
        "Authorization: Bearer <key> or X-API-Key: <key>, except for the health routes and the "
        "page's static files; none: no key is needed",
        secret=True,
    ),
    Setting(
        "CORS_ORIGINS",
        NONE,
        _origins,
        "origins, separated by commas, whose pages may read the answers in a browser; *: all; "
        "none: only the service's own",
    ),
    Setting("REQUIRE_GPU", "0", _flag, "1: refuse to start where no GPU works"),
    Setting(
        "GPU_MEMORY_LIMIT",
        str(1 << 30),
        _whole(1 << 26, 1 << 40),
        "GPU memory that each model may take for each of its batch sizes (1, 8 and MAX_BATCH), in "
        "bytes",
    ),
    Setting(
        "ORT_THREADS",
        "1",
        _whole(1, 1024),
        "CPU threads of one run; at 1 the workers share the models' memory; above 1, or on a GPU, "
        "each worker loads its own copy",
    ),
    Setting(
        "LOG_LEVEL",
        "info",
        _choice("debug", "info", "warning", "error"),
        "least severe level that is logged: debug, info, warning or error",
    ),
)


@dataclass(frozen=True)
class Settings:
    """The settings of one process; ``SETTINGS`` explains each field under its upper-case name."""

    models_dir: Path
    host: str
    port: int
    web_concurrency: int
    max_body_bytes: int
    max_pixels: int
    max_request_pixels: int
    max_images: int
    max_batch: int
    queue_images: int
    queue_bytes: int
    deadline_seconds: int
    head_seconds: int
    body_seconds: int
    drain_seconds: int
    api_keys: tuple[bytes, ...] = field(repr=False)
    cors_origins: tuple[str, ...]
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
                value = "a value that is not shown here" if setting.secret else repr(text)
                raise SettingsError(f"{setting.name} is {value}; allowed: {error}") from None
        return cls(**values)


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    rows = [f"| `{s.name}` | `{s.default}` | {s.help} |" for s in SETTINGS]
    return "\n".join(["| variable | default | what |", "| --- | --- | --- |", *rows])
