#!/bin/sh
# Runs the demonstration: a local S3 server, S3 Proxy in front of it, and a table of what came from the cache.
# Sets everything up at the first call. Ctrl-C stops it.
#
#     sh etc/demo.sh [--once]     --once: stop after the table
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
sh "$root/etc/venv.sh" demo
exec "${S3PROXY_VENV:-$root/.venv}/bin/python" "$root/etc/demo.py" "$@"
