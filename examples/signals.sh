# Sourced by run.sh scripts: source .../signals.sh "$@". Runs the script as a group of processes, which receives SIGINT,
# SIGTERM and SIGHUP through this process, and SIGTERM when this process is killed: a training saves and ends. The script
# ends when the command that was running has ended. A second signal ends the command at once.
if [ "${DINOSR_STARTER:-}" != "$PPID" ]; then
    set -m  # a group of its own for each process in the background
    DINOSR_STARTER=$$ bash "$0" "$@" &
    group=$!
    for signal in INT TERM HUP; do trap "kill -s $signal -- -$group 2>/dev/null || true" "$signal"; done
    status=0
    wait "$group" || status=$?
    while kill -0 "$group" 2>/dev/null; do  # `wait` has returned because of a signal
        status=0
        wait "$group" || status=$?
    done
    exit "$status"
fi
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
{ while kill -0 "$PPID"; do sleep 1; done; kill -s TERM 0; } >/dev/null 2>&1 &
trap "kill $! 2>/dev/null || true" EXIT
