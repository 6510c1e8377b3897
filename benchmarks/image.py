"""How large an image is, as a registry stores it and unpacked, beyond its base image.

python -m benchmarks.image batchnorm-service localhost/batchnorm-base:bookworm

In: the names of two images in buildah's (or podman's) storage, an image and its base. Out: one JSON
object, in 10^6 bytes. Layers are compressed with gzip, as a push does.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tempfile
from pathlib import Path

import click

CHUNK = 1 << 22


def layers(image: str, folder: Path) -> list[tuple[int, int]]:
    """Push ``image`` into ``folder``: each layer's bytes, compressed and unpacked."""
    subprocess.run(["buildah", "push", "--quiet", image, f"oci:{folder}"], check=True)
    (manifest,) = json.loads((folder / "index.json").read_text())["manifests"]
    sizes = []
    for layer in json.loads(_blob(folder, manifest["digest"]).read_text())["layers"]:
        with gzip.open(_blob(folder, layer["digest"])) as file:
            sizes.append((layer["size"], sum(map(len, iter(lambda: file.read(CHUNK), b"")))))
    return sizes


def sizes(image: str, base: str) -> dict[str, float]:
    """Megabytes of ``image``, of ``base`` in it, and beyond it."""
    with tempfile.TemporaryDirectory() as folder:
        whole, below = layers(image, Path(folder, "image")), layers(base, Path(folder, "base"))
    if [unpacked for _, unpacked in whole[: len(below)]] != [unpacked for _, unpacked in below]:
        raise click.ClickException(f"{image} was not built on {base}")
    beyond = whole[len(below) :]
    return {
        "unpacked": sum(unpacked for _, unpacked in whole) / 1e6,
        "unpacked_beyond_base": sum(unpacked for _, unpacked in beyond) / 1e6,
        "compressed": sum(compressed for compressed, _ in whole) / 1e6,
        "compressed_beyond_base": sum(compressed for compressed, _ in beyond) / 1e6,
    }


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")


@click.command()
@click.argument("image")
@click.argument("base")
def main(image: str, base: str) -> None:
    """Print the sizes of IMAGE, which was built on BASE."""
    click.echo(json.dumps({name: round(size, 1) for name, size in sizes(image, base).items()}))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.image")
