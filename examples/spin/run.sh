#!/usr/bin/env bash
# Spin on a trained model: units that depend less on the speaker; then tables of measures of both models.
#   ./examples/spin/run.sh CHECKPOINT DATA PHONES OUT [FIELD...]
# CHECKPOINT: the model to fine-tune. DATA: folder with train.tsv and dev.tsv (`dinosr manifest`). PHONES: phone
# alignment of dev, or - without one: the tables are then without phones. OUT: a new folder; with an existing one the
# run resumes. FIELDs (optimization.max_update=500 ...) override the config.
# Environment variables (default): CODES, sizes of the codebook, a model for each ('64 256'); CONFIG (spin_tiny);
# ITEMS: .item file of dev for ABX (the triphones of PHONES).
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
base=$1 data=$2 out=$4
source "$(dirname "$0")/../phones.sh" "$3"
shift 4
mkdir -p "$out"

measure() {  # measure NAME CHECKPOINT OPTION...: codebook, k-means on every layer, baselines
    local name=$1
    shift
    dinosr quality "$@" --manifest "$data/dev.tsv" "${phones[@]}" --train "$data/train.tsv" "${abx[@]}" --speakers \
        --cache "$out/cache" --out "$out/$name"
}

for codes in ${CODES:-64 256}; do
    echo "== the model before, $codes clusters"
    measure "base$codes" "$base" --clusters "$codes"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "${CONFIG:-spin_tiny}" \
        task.data="$(cd "$data" && pwd)" dataset.valid_subset=dev model.start_from="$base" \
        model.codebook_size="$codes" checkpoint.save_dir="$out/spin$codes" "$@"
    echo "== Spin with $codes codes"
    measure "measured$codes" "$out/spin$codes/checkpoint_last.pt"
done
