"""The scripts of deploy/, with programs in the place of what they run, which note their calls."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.container import LIMIT, ROOT


@dataclass(frozen=True)
class Programs:
    """Programs that are first on the PATH, in ``folder``, each a few lines of sh."""

    folder: Path

    def add(self, name: str, script: str = "") -> None:
        """``script`` runs first; then the call is noted, a line for all of its words."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\n{script}\necho "{name} $*" >>"{self.folder}/calls"\n')
        path.chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of deploy's scripts, which finds nothing but these and the system's tools."""
        environment = {"PATH": f"{self.folder}:{self.tools}", "HOME": str(self.folder), **variables}
        script = str(ROOT / "deploy" / command[0])
        return subprocess.run(
            [script, *command[1:]], env=environment, capture_output=True, text=True
        )

    @property
    def tools(self) -> Path:
        """The system's own programs, without any engine that is installed here."""
        folder = self.folder / "tools"
        if not folder.exists():
            folder.mkdir()
            for name in (
                "bash",
                "sh",
                "env",
                "basename",
                "dirname",
                "date",
                "grep",
                "mktemp",
                "rm",
                "sort",
            ):
                (folder / name).symlink_to(str(shutil.which(name)))
        return folder

    @property
    def calls(self) -> list[str]:
        """Every call so far."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def build(self) -> list[str]:
        """The words of the one build that was started."""
        (call,) = [call for call in self.calls if call.split()[1] == "build"]
        return call.split()


NO_BUILDX = 'test "$1" != buildx || exit 1'


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.mark.parametrize(
    ("engine", "format_named"), [("docker", False), ("podman", True), ("buildah", True)]
)
def test_an_image_keeps_its_health_check_whatever_builds_it(
    programs: Programs, engine: str, format_named: bool
) -> None:
    """podman and buildah write OCI's format unless told otherwise, and it has no health check."""
    programs.add(engine)
    done = programs.run("image.sh")
    assert done.returncode == 0, done.stderr
    assert ("--format docker" in " ".join(programs.build)) == format_named


def test_an_image_is_built_of_its_target_under_its_tag(programs: Programs) -> None:
    programs.add("docker")
    assert programs.run("image.sh", "training-gpu", "mine").returncode == 0
    assert programs.build == [
        *("docker", "build", "--tag", "mine", "--build-arg", "BACKEND=jax"),
        *("--target", "training", "."),
    ]


def test_no_option_is_an_empty_array_which_older_bashes_take_for_unset() -> None:
    """macOS' bash is 3.2, and "${options[@]}" of none ends it with "unbound variable"."""
    assert "=()" not in (ROOT / "deploy/image.sh").read_text()


def test_docker_without_buildx_is_passed_over(programs: Programs) -> None:
    programs.add("docker", NO_BUILDX)
    programs.add("podman")
    assert programs.run("image.sh").returncode == 0
    assert programs.build[0] == "podman"


def test_where_docker_has_no_buildx_and_nothing_else_is_there_that_is_said(
    programs: Programs,
) -> None:
    programs.add("docker", NO_BUILDX)
    done = programs.run("image.sh")
    assert done.returncode == 1
    assert "no docker with buildx, podman or buildah works here" in done.stderr


def test_docker_that_is_asked_for_without_buildx_is_refused_with_a_way_out(
    programs: Programs,
) -> None:
    programs.add("docker", NO_BUILDX)
    done = programs.run("image.sh", ENGINE="docker")
    assert done.returncode == 1
    assert "ENGINE=docker has no buildx" in done.stderr
    assert "docker-buildx-plugin" in done.stderr
    assert "ENGINE=podman or ENGINE=buildah" in done.stderr


@pytest.mark.parametrize("engine", [{}, {"ENGINE": "docker"}], ids=["found", "named"])
def test_docker_is_not_given_a_base_that_it_cannot_see(
    programs: Programs, engine: dict[str, str]
) -> None:
    programs.add("docker")
    programs.add("buildah")
    done = programs.run("image.sh", BASE="local", **engine)
    assert done.returncode == 1
    assert "docker does not see it; name another: ENGINE=buildah" in done.stderr
    assert not [call for call in programs.calls if call.split()[1] in ("build", "commit")]


def test_the_training_job_takes_the_variables_of_make_train_export(programs: Programs) -> None:
    """Each with a value of its own, so that both must hand it to the same option."""
    makefile = (ROOT / "Makefile").read_text()
    (fit,) = re.findall(r"^FIT := (.*\n.*)$", makefile, re.MULTILINE)
    names = [*re.findall(r"\(if \$\(([A-Z_]+)\)", fit), "REPLACE", "NO_PROMOTE"]
    assert "LEARNING_RATE" in names
    given = {name: str(value) for value, name in enumerate(names, 1)}
    given |= {"REPLACE": "1", "NO_PROMOTE": "1"}
    given |= {"RECIPE": "modern", "VARIANTS": "relu_with_bn", "SEEDS": "3-5"}
    # In the image the data is CIFAR100_DIR, and where the folders are is OUTPUT_DIR.
    folders = {"RUNS": "/output/runs", "MODELS": "/output/exported_models"}
    command = ["make", "--dry-run", "--old-file=.venv/.training", "train", "export"]
    words = [f"{name}={value}" for name, value in (given | folders).items()]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    programs.add("python3")
    job = programs.run("train_and_export.sh", **given, OUTPUT_DIR="/output")
    assert job.returncode == 0, job.stderr

    def runs(text: str) -> list[list[str]]:
        """Each command's name and its options, a word each, in an order of no matter."""
        found = re.findall(r"-m training (\w+) (.*)", text.replace("\\\n", " "))
        return [
            [name, *sorted(re.split(" (?=--)", " ".join(shlex.split(options))))]
            for name, options in found
        ]

    assert runs("\n".join(programs.calls)) == runs(done.stdout)
    assert [name for name, *_ in runs(done.stdout)] == ["train", "export", "compare"]


@pytest.mark.parametrize("seeds", ["0,1", " 0,1", "0-2", "0\n1\n", "0 1", "0"])
def test_the_training_job_hands_its_seeds_on_as_they_are(programs: Programs, seeds: str) -> None:
    """The commands know how they are separated, and the export takes the first."""
    programs.add("python3")
    job = programs.run("train_and_export.sh", SEEDS=seeds, OUTPUT_DIR="/output")
    assert job.returncode == 0, job.stderr
    calls = "\n".join(programs.calls)
    assert re.findall(r" --seeds? (.*?) --", calls, re.DOTALL) == [seeds, seeds]


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [True, False], ids=["as-process-1", "as-another"])
def test_the_training_job_ends_when_it_is_told_to(
    programs: Programs, first: bool, sent: signal.Signals
) -> None:
    """docker stop and a drained node send SIGTERM, Ctrl-C of docker run SIGINT, to process 1 alone,
    and the kernel keeps what process 1 does not handle from it: else the job goes on until killed.
    """
    noted = f'echo >>"{programs.folder}/$1"'  # with what the program was told, and that it began
    programs.add(
        "python3", f"note() {{ {noted}; }}; trap 'note told; exit' TERM; note begun; {WAIT}"
    )
    namespace = ["unshare", "--pid", "--fork", "--kill-child"] if first else []
    if first and (os.geteuid() != 0 or not shutil.which("unshare")):
        pytest.skip("to be process 1 needs root, and util-linux")
    job = subprocess.Popen(
        [*namespace, ROOT / "deploy/train_and_export.sh"],
        env={"PATH": f"{programs.folder}:{os.environ['PATH']}", "OUTPUT_DIR": "/output"},
    )
    try:
        wait_for(lambda: (programs.folder / "begun").exists())
        # unshare heeds no signal while it waits for what it has started.
        (script,) = children(job.pid) if first else (job.pid,)
        os.kill(script, sent)
        assert job.wait(LIMIT) == 128 + sent
        assert (programs.folder / "told").exists(), "the program would have gone on by itself"
    finally:
        job.kill()
        job.wait()
    assert not programs.calls, "what comes after it has begun"


def test_the_training_job_ends_with_what_fails_and_its_status(programs: Programs) -> None:
    programs.add("python3", 'case "$*" in *" export "*) exit 3 ;; esac')
    job = programs.run("train_and_export.sh", OUTPUT_DIR="/output")
    assert job.returncode == 3
    assert [call.split()[3] for call in programs.calls] == ["train"]


WAIT = "for each in $(seq 100); do sleep 0.1; done"
"""Ten seconds, in which a signal is heeded."""


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def children(process: int) -> list[int]:
    """The processes that ``process`` has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(each) for each in found.split()]


@pytest.mark.parametrize("name", ["REPLACE", "NO_PROMOTE"])
@pytest.mark.parametrize("value", ["0", "false"])
def test_what_is_not_wanted_is_left_out_and_not_said_otherwise(
    programs: Programs, name: str, value: str
) -> None:
    """REPLACE=0 would put a net in the place of a published one."""
    programs.add("python3")
    job = programs.run("train_and_export.sh", OUTPUT_DIR="/output", **{name: value})
    command = ["make", "--dry-run", "export", f"{name}={value}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for done in (job, made):
        assert done.returncode == 2
        assert f"{name}={value}: it is 1, or left out" in done.stderr
    assert not programs.calls


of_debian = pytest.mark.skipif(
    not Path("/etc/debian_version").exists(),
    # The script makes the machine's own release, and only these have one that it can make.
    reason="a local base is Debian's or Ubuntu's: this machine is neither",
)


@of_debian
@pytest.mark.parametrize(
    ("days", "made"), [(None, True), (6, False), (8, True)], ids=["none", "of-6-days", "of-8-days"]
)
def test_a_local_base_is_made_again_after_a_week(
    programs: Programs, days: int | None, made: bool
) -> None:
    """Else the distribution's security fixes would never reach the images."""
    created = "exit 1" if days is None else f"echo {int(time.time()) - days * 24 * 3600}; exit 0"
    programs.add("buildah", f'test "$1" != inspect || {{ {created}; }}')
    programs.add("mmdebstrap")
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    programs.add("apt-get", f"echo deb http://deb.example {release} main")
    done = programs.run("base_image.sh")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"localhost/batchnorm-base:{release}"
    for call in ("mmdebstrap --", "buildah commit "):
        assert any(each.startswith(call) for each in programs.calls) == made


RELEASE = """Origin: {origin}
Codename: {suite}
Architectures: amd64 arm64
Components: main
SHA256:
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages
 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-arm64/Packages
"""


@of_debian
def test_a_local_base_is_of_the_release_alone_and_not_of_what_others_make_for_it(
    programs: Programs,
) -> None:
    """By apt itself, of whose sources one is as Docker's: of another origin, for this release."""
    release = platform.freedesktop_os_release()
    codename, origin = release["VERSION_CODENAME"], release["ID"].capitalize()
    sources = {
        f"http://deb.example/os/ {codename}": origin,
        f"http://deb.example/os/ {codename}-security": origin,
        f"http://other.example/os/ {codename}": "Docker",
    }
    lists = programs.folder / "lists"
    (lists / "partial").mkdir(parents=True)
    (programs.folder / "sources.list").write_text("".join(f"deb {each} main\n" for each in sources))
    (programs.folder / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{programs.folder}/sources.list";\n'
        f'Dir::Etc::sourceparts "/dev/null";\nDir::State::lists "{lists}";\n'
        f'Dir::Cache "{programs.folder}/cache";\n'
    )
    programs.add("buildah", 'test "$1" != inspect || exit 1')
    copy = 'for file; do :; done; while read -r line; do echo "$line"; done <"$file"'
    programs.add("mmdebstrap", f'{{ {copy}; }} >"{programs.folder}/given"')
    (programs.folder / "apt-get").symlink_to(str(shutil.which("apt-get")))
    variables = {"APT_CONFIG": f"{programs.folder}/apt.conf"}

    done = programs.run("base_image.sh", **variables)
    assert done.returncode == 1
    assert f"no package list of {origin}'s {codename} here; try: apt-get update" in done.stderr

    for each, whose in sources.items():  # as apt-get update would have left them
        place, suite = each.removeprefix("http://").replace("/", "_").split()
        text = RELEASE.format(origin=whose, suite=suite)
        (lists / f"{place}dists_{suite}_InRelease").write_text(text)
        for machine in ("amd64", "arm64"):
            (lists / f"{place}dists_{suite}_main_binary-{machine}_Packages").touch()
    done = programs.run("base_image.sh", **variables)
    assert done.returncode == 0, done.stderr
    given = (programs.folder / "given").read_text().splitlines()
    assert given == [f"deb {each} main" for each, whose in sources.items() if whose == origin]
