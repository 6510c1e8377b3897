#!/usr/bin/env bash
# Make a base image for the Dockerfile where no registry of images can be reached: this machine's own
# Debian or Ubuntu release, minimal, with Python, from the package sources that apt uses here.
#   deploy/base_image.sh [NAME]     needs root, buildah and mmdebstrap; prints the image's name
# One of less than a week ago is taken as it is; an older one lacks security fixes of since then.
set -euo pipefail
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
origin=$(. /etc/os-release && echo "${ID^}")  # Debian or Ubuntu, as its package lists call it
name=${1:-localhost/batchnorm-base:$codename}
buildah info >/dev/null 2>&1 || export STORAGE_DRIVER=vfs  # where file systems cannot be laid over

made=$(buildah inspect --type image --format '{{.OCIv1.Created.Unix}}' "$name" 2>/dev/null || echo 0)
if [ $(($(date +%s) - made)) -gt $((7 * 24 * 3600)) ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Of apt's sources those of this release: it, its updates and its security fixes. Others that are
    # for this release (Docker's) are not of it.
    if ! apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Identifier: Packages' "Origin: $origin" |
        grep -E " $codename(-[a-z]+)? " | sort -u >"$work/sources.list"; then
        echo "apt has no package list of $origin's $codename here; try: apt-get update" >&2
        exit 1
    fi
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
        --hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$codename" "$work/root.tar" "$work/sources.list" >&2
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/root.tar" / >/dev/null
    buildah commit --quiet --rm "$container" "$name" >/dev/null
fi
echo "$name"
