# SPDX-License-Identifier: Apache-2.0
# debs.sh PACKAGE[:COMMAND]...: installs the Debian packages whose commands are not there.
missing=
for package in "$@"; do
    command -v "${package#*:}" >/dev/null || missing="$missing ${package%:*}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests start programs that are not here; install:$missing" >&2
    exit 1
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
