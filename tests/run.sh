#!/usr/bin/env bash
# Runs all checks and tests in the environment of the quickstart, created if missing, and lists the 20 slowest tests.
# It starts a test process per processor, at most four; -n sets another number.
# Arguments go to pytest: tests/run.sh tests/units -k kmeans. A debugger needs -n 0, everything in one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
tests/lint.sh & # uses one processor for half a minute, while the test processes start
lint=$!
# One thread per process: for such small models a second thread gains nothing, and on a busy machine waiting for it
# costs minutes.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Each process takes whole files (loadfile), whose tests share trained models, in the order set in tests/conftest.py.
# A test that hangs ends the run (faulthandler_timeout); otherwise pytest-xdist would restart it in new workers.
parallel=(-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0)
status=0
"$venv/bin/python" -m pytest "${parallel[@]}" --durations 20 "$@" || status=$?
wait "$lint" || { echo "tests/lint.sh failed; see above" >&2; status=1; }
exit "$status"
