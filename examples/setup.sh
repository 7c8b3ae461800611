#!/usr/bin/env bash
# Makes the virtual environment that the quickstart and the tests share, or reuses it; prints what it does.
# Afterwards "$venv/bin" contains python, dinosr and fairseq's commands. Sourced by quickstart/run.sh, tests/run.sh and
# tests/lint.sh.
#
#   PYTHON=PROGRAM    Python 3.11, 3.12 or 3.13 to make it with (default: python3 if it is one of these, else a search);
#                     an environment that exists keeps its version
#   DINOSR_VENV=DIR   where the environment is (default: .venv in the checkout)
#   DINOSR_TORCH=SPEC what to install as torch (default: torch==2.13.0, which the tests ran with)
#   PIP_EXTRA_INDEX_URL, PIP_CACHE_DIR, ...   pip's own settings work as usual

fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${DINOSR_VENV:-$repository/.venv}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" ||
            fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13; set it to one of these, or unset it"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11 python3.13 python; do # 3.13 late: no wheel of flashlight-text for it
        if supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11, 3.12 or 3.13 was not found; install one, or set its path: PYTHON=/path/to/python3.12 $0"
}

pip_install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >>"$log" 2>&1 && return
    tail -n 15 "$log" >&2
    fail "pip could not install: $* (whole log: $log). Check the network and the disk, then start again"
}

set_up() {
    local stamp log python started
    stamp=$(cat "$repository/pyproject.toml" "$repository/examples/setup.sh" | cksum)$repository
    if [ "$(cat "$venv/set-up-for" 2>/dev/null)" = "$stamp" ]; then
        say "using the environment $venv"
        return
    fi
    command -v c++ >/dev/null || command -v g++ >/dev/null ||
        fail "no C++ compiler: fairseq may have to be built from source; install one (Debian: apt-get install g++)"
    started=$SECONDS
    log=$venv/set-up.log
    say "making the environment $venv (some minutes, once; log: $log)"
    if ! { supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
        python=$(find_python) || exit 1
        "$python" -m venv "$venv" ||
            fail "cannot make a virtual environment in $venv (Debian: apt-get install python3-venv)"
    fi
    : >"$log"
    pip_install --upgrade pip
    say "1 of 3: PyTorch"
    # fairseq requires torch at build time: with build isolation pip would download a second one, of several GB
    pip_install "${DINOSR_TORCH:-torch==2.13.0}" numpy "cython<4" "setuptools<81" wheel
    say "2 of 3: fairseq, compiled here where there is no wheel"
    # Without debug symbols it compiles in three quarters of the time. (Its extensions cannot be compiled in parallel:
    # they share build files.)
    CFLAGS=-g0 pip_install --no-build-isolation "fairseq-fixed==0.12.3.1"
    say "3 of 3: dinosr_plugin and its requirements"
    pip_install --editable "$repository[test]"
    printf '%s' "$stamp" >"$venv/set-up-for"
    say "environment ready after $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
}

set_up
