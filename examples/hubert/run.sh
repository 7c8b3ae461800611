#!/usr/bin/env bash
# HuBERT-style iterations: MFCC -> k-means -> training -> k-means on a layer -> training ...; then tables of measures.
#   ./examples/hubert/run.sh DATA PHONES OUT [FIELD...]
# DATA: folder with train.tsv and dev.tsv (`dinosr manifest`). PHONES: phone alignment of dev, or - without one: the
# tables are then without phones. OUT: a new folder; with an existing one the run resumes. FIELDs
# (optimization.max_update=2000 ...) override the config in all iterations.
# Environment variables (default): ITERATIONS (2); CONFIG (hubert_tiny) and CLUSTERS of k-means (100), one per
# iteration, the last one for all later iterations ('100 500'); LAYER to cluster, counted from 0 (2); NORMALIZE:
# scale the features of each utterance to mean 0 and variance 1 before k-means (yes; no: as in the paper); ITEMS: .item
# file of dev for ABX (the triphones of PHONES).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
data=$1 out=$3
source "$(dirname "$0")/../phones.sh" "$2"
shift 3
read -ra config <<< "${CONFIG:-hubert_tiny}"
read -ra clusters <<< "${CLUSTERS:-100}"
iterations=${ITERATIONS:-2} layer=${LAYER:-2} normalize=--normalize
[ "${NORMALIZE:-yes}" = yes ] || normalize=

labels() {  # labels ITERATION [CHECKPOINT]: k-means on train, labels of train and dev; on MFCC without a checkpoint
    local folder=$out/labels$1 k=${clusters[$1 - 1]:-${clusters[-1]}} source=(--mfcc) part
    [ $# = 1 ] || source=("$2" --layer "$layer")
    [ ! -f "$folder/dev.km" ] || return 0
    mkdir -p "$folder"
    cp "$data"/{train,dev}.tsv "$folder"
    dinosr kmeans fit "${source[@]}" --manifest "$data/train.tsv" --clusters "$k" --restarts 3 $normalize \
        --out "$folder/kmeans.npz"
    for part in train dev; do
        dinosr kmeans apply "$folder/kmeans.npz" ${2:+"$2"} "$data/$part.tsv" --out "$folder/$part.km"
    done
}

train() {  # train ITERATION FIELD...: resumes; does nothing if the training is finished
    local iteration=$1
    shift
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining \
        --config-name "${config[$iteration - 1]:-${config[-1]}}" \
        task.data="$(cd "$out/labels$iteration" && pwd)" dataset.valid_subset=dev checkpoint.save_dir="$out/it$iteration" "$@"
}

quality() {  # quality ITERATION: every layer of the model, trained and untrained, MFCC and log-Mel
    dinosr quality "$out/it$1/checkpoint_last.pt" --manifest "$data/dev.tsv" "${phones[@]}" \
        --train "$data/train.tsv" --clusters "${clusters[$1 - 1]:-${clusters[-1]}}" "${abx[@]}" --out "$out/quality$1"
}

labels 1
units=("$out/labels1/dev.km")
for ((i = 1; i <= iterations; i++)); do
    train $i "$@"
    labels $((i + 1)) "$out/it$i/checkpoint_last.pt"
    units+=("$out/labels$((i + 1))/dev.km")
done
echo "== labels: first those of MFCC, then those of each model, which was trained on the labels above"
dinosr quality "${units[@]}" --manifest "$data/dev.tsv" "${phones[@]}"
[ ${#items[@]} = 0 ] || dinosr abx "${units[@]}" --rate 50 --manifest "$data/dev.tsv" "${items[@]}"
for ((i = 1; i <= iterations; i++)); do
    echo "== iteration $i"
    quality $i
done
