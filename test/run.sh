#!/bin/sh
# Runs the tests of this checkout. Sets everything up at the first call.
#
#     sh test/run.sh [ARGUMENT...]     arguments of trial (default: test), for instance test.cache
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
sh etc/venv.sh test
[ $# -gt 0 ] || set -- test
exec "${S3PROXY_VENV:-$root/.venv}/bin/python" -b -m twisted.trial "$@"
