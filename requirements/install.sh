#!/bin/sh
# Makes the virtual environment .venv from the committed lock, with this package in it (editable). Needs git, and
# Python 3.11 or 3.12 with pip; uses uv where it is. PYTHON=... chooses another interpreter than the first that fits.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || { echo "PYTHON=$PYTHON is not Python 3.11 or 3.12" >&2; exit 1; }
    python=$PYTHON
else
    python=
    for name in python3 python3.12 python3.11 python; do
        if fits "$name"; then python=$name; break; fi
    done
    if [ -z "$python" ]; then
        echo "no Python 3.11 or 3.12 found; install one, or say PYTHON=/path/to/python" >&2
        exit 1
    fi
fi
lock=requirements/lock-py$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
echo "setting up $venv with $("$python" --version) from $lock (about 10 GB on disk, most of it torch's CUDA libraries; a first download takes minutes)"

if uv --version >/dev/null 2>&1; then
    uv venv --quiet --clear --python "$("$python" -c "import sys; print(sys.executable)")" "$venv"
    uv pip install --python "$venv/bin/python" -r "$lock"
    uv pip install --python "$venv/bin/python" --no-deps -e .
else
    rm -rf "$venv"
    # Debian's Python has no ensurepip unless python3-venv is installed; its pip can still fill the environment
    if "$python" -m venv "$venv" 2>/dev/null; then
        pip="$venv/bin/python -m pip"
    else
        rm -rf "$venv"
        "$python" -m venv --without-pip "$venv"
        pip="$python -m pip --python $venv/bin/python"
    fi
    # every package is in the lock, so nothing is to be resolved; byte-code follows below, on all cores
    $pip install --disable-pip-version-check --no-compile --no-deps -r "$lock"
    $pip install --disable-pip-version-check --no-compile --no-deps -e .
fi

# SGLang's processes import some 5,000 modules at every start: compiled here once (15 s on two cores), a start takes half
# a minute; left to the first start, that one takes two
echo "compiling byte-code"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for name in sglang torch transformers triton xgrammar openai fastapi pydantic numpy scipy; do
    # templates that are no Python fail to compile; nothing imports them
    PYTHONWARNINGS=ignore "$venv/bin/python" -m compileall -qq -j 0 "$site/$name" >/dev/null || true
done
"$venv/bin/python" -c 'import sglang_nemotron; print("sglang-nemotron", sglang_nemotron.__version__, "is installed")'
