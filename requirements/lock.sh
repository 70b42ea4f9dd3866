#!/bin/sh
# Writes requirements/lock-py311.txt and lock-py312.txt anew: the newest releases that pyproject.toml and SGLang's own
# pins allow, with the extras `dev` and `omni`, and requirements/site.txt and router.txt of their .in files. Needs uv. SGLang publishes
# wheels for glibc 2.34 and later, hence the platform.
set -eu
cd "$(dirname "$0")/.."
for minor in 11 12; do
    uv pip compile pyproject.toml --quiet --upgrade --extra dev --extra omni \
        --python-version "3.$minor" --python-platform x86_64-manylinux_2_34 \
        --no-annotate --custom-compile-command "make lock" -o "requirements/lock-py3$minor.txt"
    echo "requirements/lock-py3$minor.txt: $(grep -c == "requirements/lock-py3$minor.txt") packages"
done
# one for every Python each: they hold nothing of SGLang's
for name in site router; do
    uv pip compile "requirements/$name.in" --quiet --upgrade --universal --python-version 3.11 \
        --no-annotate --custom-compile-command "make lock" -o "requirements/$name.txt"
    echo "requirements/$name.txt: $(grep -c == "requirements/$name.txt") packages"
done
