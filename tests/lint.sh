#!/usr/bin/env bash
# Checks the code without running it: lint rules, format, types, spelling. tests/run.sh does this before the tests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
cd "$repository"
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/codespell" --check-hidden dinosr_plugin examples manifests tests .github README.md pyproject.toml
