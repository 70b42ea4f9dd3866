#!/bin/sh
# Makes the environment .site-venv, which builds the site, from its committed lock: 100 MB, without SGLang. Uses uv where it
# is. PYTHON=... chooses another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
rm -rf .site-venv
if uv --version >/dev/null 2>&1; then
    uv venv --quiet --python "$("$python" -c "import sys; print(sys.executable)")" .site-venv
    install="uv pip install --quiet --python .site-venv/bin/python"
elif "$python" -m venv .site-venv 2>/dev/null; then
    install=".site-venv/bin/python -m pip install --quiet --disable-pip-version-check"
else
    # Debian's Python has no ensurepip unless python3-venv is installed; its pip can still fill the environment
    rm -rf .site-venv
    "$python" -m venv --without-pip .site-venv
    install="$python -m pip --python .site-venv/bin/python install --quiet --disable-pip-version-check"
fi
$install --no-deps -r requirements/site.txt || {
    rm -rf .site-venv
    echo "the site was NOT built: its packages could not be installed; is the package index within reach?" >&2
    exit 1
}
