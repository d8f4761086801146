#!/bin/sh
# Makes the virtual environment of this checkout, with everything S3 Proxy needs; does nothing when it is there already.
#
#     sh etc/venv.sh [EXTRA...]     extras of setup.cfg: checksums, otlp; test, clients, demo, lint, types, doc
#
# PYTHON names the interpreter to use (default: the first of python3, python3.14 ... python3.10 that is new enough),
# S3PROXY_VENV the directory to make (default: .venv in the checkout).
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=${S3PROXY_VENV:-$root/.venv}
extras=$(IFS=,; echo "$*")

fail() {
    echo "$*" >&2
    exit 1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    named=${PYTHON:-python3}
    found=$("$named" --version 2>/dev/null) || found="not there"
    fail "S3 Proxy needs Python 3.10 or newer, but $named is ${found}.
Install a newer Python, or name one before the command: PYTHON=/path/to/python3.12 sh ..."
}

make_venv() {
    python=$(find_python "$@") || exit 1
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        fail "$python cannot make virtual environments: its modules venv and ensurepip are missing.
On Debian and Ubuntu they come with: apt install $version-venv"
    fi
    # A file of this name is only a pointer to another environment, left by a tool.
    [ -d "$venv" ] || rm -f "$venv"
    echo "Making $venv with $("$python" --version)."
    "$python" -m venv --clear "$venv"
    # Editable installations came to pip with these versions; what a distribution ships may be older.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=23.0'
}

# What was installed is known by the text of setup.cfg and the place of the checkout.
state="$root $(cksum < "$root/setup.cfg")"
stamp=$venv/installed-${extras:-base}
if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv "$@"
    echo "Installing S3 Proxy${extras:+ and what is needed for: $extras} into $venv; this is done once."
    # The other way of editable installations, an import hook, hides the plugin from twistd.
    (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".${extras:+[$extras]}" --config-settings editable_mode=compat)
    echo "$state" > "$stamp"
fi
