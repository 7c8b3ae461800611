#!/usr/bin/env bash
# Makes the virtual environment that the quickstart and the tests share, or re-uses it; prints what it does.
# Afterwards "$venv/bin" holds python, dinosr and fairseq's commands. Sourced by run.sh and tests/run.sh.
#
#   DINOSR_VENV=DIR   where the environment lies (default: .venv in the checkout)
#   DINOSR_TORCH=SPEC what to install as torch (default: torch==2.13.0, which the tests ran with)
#   PIP_EXTRA_INDEX_URL, PIP_CACHE_DIR, ...   pip's own settings work as usual

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${DINOSR_VENV:-$repository/.venv}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 was not found; install it, or name it: PYTHON=/path/to/python3.11 $0"
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$log" 2>&1 ||
        { tail -n 15 "$log" >&2; fail "pip could not install: $* (whole log: $log). Check the network and the disk, then start again"; }
}

set_up() {
    local stamp log python started
    stamp=$(cat "$repository/pyproject.toml" "$repository/examples/setup.sh" | cksum)$repository
    if [ "$(cat "$venv/set-up-for" 2>/dev/null)" = "$stamp" ]; then
        say "using the environment $venv"
        return
    fi
    python=$(find_python) || exit 1
    command -v c++ >/dev/null || command -v g++ >/dev/null || fail "no C++ compiler: fairseq is built from source; install one (Debian: apt-get install g++)"
    started=$SECONDS
    log=$venv/set-up.log
    say "making the environment $venv (some minutes, once; log: $log)"
    "$python" -m venv "$venv" || fail "cannot make a virtual environment in $venv (Debian: apt-get install python3-venv)"
    : >"$log"
    pip_install --upgrade pip
    say "1 of 3: PyTorch"
    # fairseq asks for torch in its build environment: with isolation pip would fetch another one, of several GB
    pip_install "${DINOSR_TORCH:-torch==2.13.0}" numpy "cython<4" "setuptools<81" wheel
    say "2 of 3: fairseq, compiled here"
    # no debug symbols: a quarter less to compile. (Its extensions cannot be compiled side by side: they share build files.)
    CFLAGS=-g0 pip_install --no-build-isolation "fairseq-fixed==0.12.3.1"
    say "3 of 3: dinosr_plugin and what it needs"
    pip_install --editable "$repository[test]"
    printf '%s' "$stamp" >"$venv/set-up-for"
    say "environment ready after $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
}

set_up
