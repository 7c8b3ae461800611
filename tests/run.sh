#!/usr/bin/env bash
# Runs all tests in the environment of the quickstart, which is made if it does not exist, and lists the twenty slowest.
# Each processor runs one test process, at most four (PYTEST_XDIST_AUTO_NUM_WORKERS sets another number).
# Arguments go to pytest: tests/run.sh tests/units -k kmeans; -n 0 runs everything in one process, as a debugger needs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
# One thread a process: for such small models a second one gains nothing, and waiting for it on a busy machine costs minutes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A worker takes whole files (loadfile), whose tests share trained models, in the order of tests/conftest.py.
parallel=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder)
exec "$venv/bin/python" -m pytest "${parallel[@]}" --durations 20 "$@"
