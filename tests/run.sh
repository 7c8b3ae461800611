#!/usr/bin/env bash
# Runs all tests in the environment that the quickstart uses, making it where there is none. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
tests/lint.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # for these small models a second thread gains nothing, and waiting for it on a busy machine costs minutes
exec "$venv/bin/python" -m pytest "$@"
