#!/usr/bin/env bash
# Runs all tests in the environment that the quickstart uses, making it where there is none. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
exec "$venv/bin/python" -m pytest "$@"
