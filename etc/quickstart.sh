#!/bin/sh
# Runs S3 Proxy from this checkout, without root, with etc/quickstart.yaml; the cache and the logs go to ./tmp.
# Sets everything up at the first call. Ctrl-C stops it.
#
#     sh etc/quickstart.sh [OPTION...]     options of "twistd s3proxy", for instance --log-level debug
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
sh etc/venv.sh
exec "${S3PROXY_VENV:-$root/.venv}/bin/twistd" --nodaemon --pidfile= s3proxy --config etc/quickstart.yaml "$@"
