#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Get the peers: a venv with those from PyPI, and Debian's allocators unpacked beside it. They are
# not installed, so this needs no root.  A peer that cannot be had is missing, and the tables say so.
# usage: peers.sh DIRECTORY PYTHON [--quick]
mkdir -p "$1/debs"
dir=$(cd "$1" && pwd) python=${2:-python3}
[ -x "$dir/venv/bin/python" ] || "$python" -m venv "$dir/venv"
for package in numpy pandas pyarrow memray pyperformance pyperf psutil cmeel-mimalloc \
               object-pool pondpond; do
    "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package" ||
        echo "peers: $package cannot be had" >&2
done
# Single benchmarks of pyperformance need packages in versions that exclude each other. A quick run
# has none of these benchmarks.
for needs in "$dir"/venv/lib/*/site-packages/pyperformance/data-files/benchmarks/*/requirements.txt; do
    name=$(basename "$(dirname "$needs")")
    [ "$3" = --quick ] || [ "$name" = bm_hg_startup ] || [ -d "$dir/suite/$name" ] ||
        "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --target "$dir/suite/$name" -r "$needs" || echo "peers: $name lacks its packages" >&2
done
cd "$dir/debs" || exit
apt-get update >/dev/null 2>&1 # works for root only; others use the lists that exist
for package in libjemalloc2 libtcmalloc-minimal4; do
    ls "$package"_*.deb >/dev/null 2>&1 || apt-get download "$package" >/dev/null 2>&1 ||
        echo "peers: $package cannot be had" >&2
done
for deb in *.deb; do
    [ -e "$deb" ] && dpkg -x "$deb" "$dir/debs"
done
exit 0
