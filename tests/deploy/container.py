"""The service's image, built and run here for real: buildah builds it, runc runs it.

A container has a read-only root file system, the image's own user, environment and command, no
capabilities, and network, process and mount namespaces of its own. Its network holds nothing but
a loopback interface: a test enters it thread by thread (``Container.network``), and the kernel's
counters there tell of every packet that anything in the container tried to send.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "runc")
LIMIT = 60
"""Seconds within which a container must have started, answered or ended."""

CLONE_NEWNET = 0x40000000

_FILE_SYSTEMS = (
    ("/proc", "proc", ()),
    ("/dev", "tmpfs", ("nosuid", "mode=755", "size=64k")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", "size=64m")),
    ("/sys", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
)


def why_not() -> str | None:
    """What stands in the way of building and running images here."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"NO IMAGE IS TESTED: {', '.join(missing)} not installed (apt-get install them)"
    return None if os.geteuid() == 0 else "NO IMAGE IS TESTED: that needs root"


def buildah(*arguments: str) -> str:
    """Run buildah and return what it prints."""
    command = ["buildah", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Image:
    """``root`` is the image's file system, ``config`` what it says on how to run it."""

    tag: str
    root: Path
    config: dict[str, Any]


@contextlib.contextmanager
def built(target: str, models: Path | None = None, checkout: Path = ROOT) -> Iterator[Image]:
    """Build ``target`` of ``checkout`` as ``make image`` does, and mount its file system."""
    if subprocess.run(["buildah", "info"], capture_output=True).returncode:
        os.environ["STORAGE_DRIVER"] = "vfs"  # as the scripts of deploy/ do
    tag = f"localhost/batchnorm-test-{target}"
    environment = {**os.environ, "ENGINE": "buildah", "BASE": base_image()}
    if models:
        tag, environment["MODELS"] = f"{tag}-{models.name}", str(models)
    command = [str(checkout / "deploy/image.sh"), target, tag]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    container = buildah("from", "--pull-never", tag)
    try:
        config = json.loads(buildah("inspect", "--type", "image", tag))["Docker"]["config"]
        yield Image(tag, Path(buildah("mount", container)), config)
    finally:
        buildah("rm", container)


def base_image() -> str:
    """The name of the base that images are built on here."""
    if os.environ.get("BASE", "local") != "local":
        return os.environ["BASE"]
    script = ROOT / "deploy/base_image.sh"
    return subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@dataclass(frozen=True)
class Container:
    """A running container; ``pid`` is its first process, as this machine counts."""

    name: str
    pid: int
    process: subprocess.Popen[str]

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread's new sockets belong to the container's network meanwhile."""
        theirs = Path(f"/proc/{self.pid}/ns/net")
        with Path("/proc/thread-self/ns/net").open() as own, theirs.open() as entered:
            _enter(entered.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    def execute(self, *command: str) -> int:
        """The exit status of a command in the container, as the image's user."""
        return subprocess.run(["runc", "exec", self.name, *command], timeout=LIMIT).returncode

    def terminate(self) -> None:
        """What ``docker stop`` and Kubernetes do first."""
        subprocess.run(["runc", "kill", self.name, "TERM"], check=True)

    def counted(self) -> dict[str, int]:
        """The kernel's counters of the container's network, as ``TcpActiveOpens``."""
        counts = {}
        lines = Path(f"/proc/{self.pid}/net/snmp").read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            protocol = names.split(":")[0]
            for name, value in zip(names.split()[1:], values.split()[1:], strict=True):
                counts[protocol + name] = int(value)
        for line in Path(f"/proc/{self.pid}/net/snmp6").read_text().splitlines():
            name, value = line.split()
            counts[name] = int(value)
        return counts


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def running(
    image: Image,
    bundle: Path,
    *,
    command: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """Run ``image``, or ``command`` in it; ``bundle`` is an empty folder for what runc needs."""
    name = f"batchnorm-{uuid.uuid4().hex[:12]}"
    (bundle / "config.json").write_text(json.dumps(_specification(image, command, variables or {})))
    with (bundle / "stderr").open("w+") as errors, (bundle / "stdout").open("w+") as output:
        process = subprocess.Popen(
            ["runc", "run", "--bundle", bundle, "--pid-file", bundle / "pid", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
        )
        try:
            _wait(lambda: (bundle / "pid").exists() or process.poll() is not None)
            assert (bundle / "pid").exists(), (bundle / "stderr").read_text()
            yield Container(name, int((bundle / "pid").read_text()), process)
        finally:
            subprocess.run(["runc", "delete", "--force", name], capture_output=True)
            process.wait(LIMIT)


def _specification(
    image: Image, command: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Any]:
    user, _, group = image.config["User"].partition(":")
    environment = dict(each.split("=", 1) for each in image.config["Env"]) | dict(variables)
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": list(command) or [*image.config["Entrypoint"], *(image.config["Cmd"] or ())],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": image.config["WorkingDir"],
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": where, "type": kind, "source": kind, "options": list(options)}
            for where, kind, options in _FILE_SYSTEMS
        ],
        "linux": {
            "namespaces": [{"type": each} for each in ("pid", "network", "ipc", "uts", "mount")]
        },
    }


def wait_until_ready(container: Container, port: int) -> None:
    """Wait for /health/ready; what is in the way of it is raised."""

    def ready() -> bool:
        assert container.process.poll() is None, "the container has ended"
        with contextlib.suppress(requests.ConnectionError), container.network():
            url = f"http://127.0.0.1:{port}/health/ready"
            return requests.get(url, timeout=LIMIT).status_code == 200
        return False

    _wait(ready)


def _wait(done: Any) -> None:
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)
