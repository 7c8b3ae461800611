#!/usr/bin/env bash
# From nothing to a recogniser: environment, corpus, DinoSR pre-training, CTC fine-tuning, WER, measures, a picture.
#   ./examples/quickstart/run.sh                                     on synthetic speech, at most 20 minutes on 2 cores
#   ./examples/quickstart/run.sh --audio DIR [--minutes-budget N]    on a corpus in LibriSpeech layout
# A run that was stopped resumes when the same command is started again.
set -euo pipefail
export SETUP_STARTED=$(date +%s)
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
exec "$venv/bin/python" "$repository/examples/quickstart/run.py" "$@"
