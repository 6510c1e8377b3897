#!/usr/bin/env bash
# Build one of the images of the Dockerfile with docker, podman or buildah, whichever works here.
#   deploy/image.sh [TARGET] [TAG]
#   TARGET: service (default), service-gpu, training, training-gpu
#   MODELS: folder with the models that the service serves; by default exported_models
#   ENGINE: docker (with buildx), podman or buildah; by default the first of them that works
#   BASE: base image; by default the Dockerfile's; "local", with buildah or podman, makes one
#       (base_image.sh)
#   PIP_CERT: file of certificate authorities that pip needs in this network
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-service}
tag=${2:-batchnorm-$target}

# Docker's builder without buildx knows neither the Dockerfile's mounts nor the options below.
buildable() {
    [[ $(basename "$1") != docker ]] || "$1" buildx version >/dev/null 2>&1
}

if [ -z "${ENGINE:-}" ]; then
    for ENGINE in docker podman buildah none; do
        "$ENGINE" version >/dev/null 2>&1 && buildable "$ENGINE" && break
    done
fi
if [ "$ENGINE" = none ]; then
    echo "no docker with buildx, podman or buildah works here; try: apt-get install buildah" >&2
    exit 1
fi
if ! buildable "$ENGINE"; then
    echo "ENGINE=$ENGINE has no buildx, which the build needs; install it (Docker's packages:" \
        "docker-buildx-plugin, Debian's: docker-buildx), or name another: ENGINE=podman or" \
        "ENGINE=buildah" >&2
    exit 1
fi

options=(--tag "$tag")  # never empty: before bash 4.4 an empty array counts as unset
if [ "$target" = training-gpu ]; then
    target=training
    options+=(--build-arg BACKEND=jax)
fi
if [ "${BASE:-}" = local ]; then
    if [ "$(basename "$ENGINE")" = docker ]; then
        echo "BASE=local is made by buildah, and docker does not see it; name another:" \
            "ENGINE=buildah, or ENGINE=podman as root, which shares buildah's images" >&2
        exit 1
    fi
    BASE=$(deploy/base_image.sh)
fi
if [ -n "${BASE:-}" ]; then
    options+=(--build-arg "BASE=$BASE")
fi
if [ "${MODELS:-exported_models}" != exported_models ] && [[ $target = service* ]]; then
    if [ ! -f "$MODELS/manifest.json" ]; then
        echo "MODELS=$MODELS has no manifest.json; make export MODELS=$MODELS writes one" >&2
        exit 1
    fi
    options+=(--build-context "models=$MODELS")
fi
if [ -n "${PIP_CERT:-}" ]; then
    options+=(--secret "id=ca,src=$PIP_CERT" --build-arg PIP_CERT=/run/secrets/ca)
fi
if [ "$(basename "$ENGINE")" != docker ]; then
    options+=(--format docker)  # in the other format there is no health check
fi
if [ "$(basename "$ENGINE")" = buildah ]; then
    # Works without a runtime and in a container.
    export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
    buildah info >/dev/null 2>&1 || export STORAGE_DRIVER=vfs
    options+=(--network host --layers)
fi
set -x
exec "$ENGINE" build "${options[@]}" --target "$target" .
