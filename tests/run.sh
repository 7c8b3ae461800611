#!/usr/bin/env bash
# Runs all tests in the environment of the quickstart, which is made if it does not exist, and lists the twenty slowest.
# There is a test process for each processor, at most four; -n sets another number.
# Arguments go to pytest: tests/run.sh tests/units -k kmeans. A debugger needs -n 0, everything in one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
tests/lint.sh
# One thread a process: for such small models a second thread gains nothing, and on a busy machine waiting for it costs
# minutes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# A process takes whole files (loadfile), whose tests share trained models, in the order of tests/conftest.py.
# A test that hangs ends the run (faulthandler_timeout): with new workers pytest-xdist would start it again and again.
parallel=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0)
exec "$venv/bin/python" -m pytest "${parallel[@]}" --durations 20 "$@"
