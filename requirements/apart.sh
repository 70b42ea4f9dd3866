#!/bin/sh
# Makes an environment apart from .venv, without SGLang, from its committed lock: `apart.sh site` .site-venv, which builds
# the site (100 MB), `apart.sh router` .router-venv, whose router the matrix puts before two servers (130 MB). Uses uv where
# it is. PYTHON=... chooses another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
name=$1
python=${PYTHON:-python3}
rm -rf ".$name-venv"
if uv --version >/dev/null 2>&1; then
    uv venv --quiet --python "$("$python" -c "import sys; print(sys.executable)")" ".$name-venv"
    install="uv pip install --quiet --python .$name-venv/bin/python"
elif "$python" -m venv ".$name-venv" 2>/dev/null; then
    install=".$name-venv/bin/python -m pip install --quiet --disable-pip-version-check"
else
    # Debian's Python has no ensurepip unless python3-venv is installed; its pip can still fill the environment
    rm -rf ".$name-venv"
    "$python" -m venv --without-pip ".$name-venv"
    install="$python -m pip --python .$name-venv/bin/python install --quiet --disable-pip-version-check"
fi
$install --no-deps -r "requirements/$name.txt" || {
    rm -rf ".$name-venv"
    echo "the $name environment was NOT made: its packages could not be installed; is the package index within reach?" >&2
    exit 1
}
