#!/usr/bin/env bash
# HuBERT-style learning without hand work: MFCC -> k-means -> train -> k-means on a layer -> train ...; then the quality of each step, beside baselines.
#   ./examples/hubert/run.sh DATA PHONES OUT [FIELD...]
# DATA: folder of train.tsv and dev.tsv (`dinosr manifest`). PHONES: phone alignment of dev. OUT: a new folder; started again with the same, it goes on
# where it was. FIELDs (optimization.max_update=2000 ...) override the config in all iterations.
# From the environment: ITERATIONS (2); CONFIG (hubert_tiny) and CLUSTERS of k-means (100), the last number for all later ones ('100 500'); LAYER, from 0,
# that is clustered (2); NORMALIZE, whether each utterance's features are brought to mean 0 and variance 1 before k-means (yes; no: as the paper).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
data=$1 phones=$2 out=$3
shift 3
read -ra config <<< "${CONFIG:-hubert_tiny}"
read -ra clusters <<< "${CLUSTERS:-100}"
iterations=${ITERATIONS:-2} layer=${LAYER:-2} normalize=--normalize
[ "${NORMALIZE:-yes}" = yes ] || normalize=
configs=$(cd "$(dirname "$0")/../config/pretraining" && pwd)
plugin=$(dinosr path)

labels() {  # labels ITERATION [CHECKPOINT]: k-means on train, labels of train and dev; of MFCC where there is no checkpoint
    local folder=$out/labels$1 k=${clusters[$1 - 1]:-${clusters[-1]}} what=(--mfcc) part
    [ $# = 1 ] || what=("$2" --layer "$layer")
    [ ! -f "$folder/dev.km" ] || return 0
    mkdir -p "$folder"
    cp "$data"/{train,dev}.tsv "$folder"
    dinosr kmeans fit "${what[@]}" --manifest "$data/train.tsv" --clusters "$k" --restarts 3 $normalize --out "$folder/kmeans.npz"
    for part in train dev; do dinosr kmeans apply "$folder/kmeans.npz" ${2:+"$2"} "$data/$part.tsv" --out "$folder/$part.km"; done
}

train() {  # train ITERATION FIELD...: goes on where it was, does nothing where it is done
    local iteration=$1
    shift
    fairseq-hydra-train --config-dir "$configs" --config-name "${config[$iteration - 1]:-${config[-1]}}" common.user_dir="$plugin" \
        task.data="$(cd "$out/labels$iteration" && pwd)" dataset.valid_subset=dev checkpoint.save_dir="$out/it$iteration" \
        common.tensorboard_logdir="$out/tb$iteration" common.log_file="$out/it$iteration.log" "$@"
}

quality() {  # quality ITERATION: every layer of the model, trained and untrained, MFCC and log-Mel
    dinosr quality "$out/it$1/checkpoint_last.pt" --manifest "$data/dev.tsv" --phones "$phones" --train "$data/train.tsv" --clusters "${clusters[$1 - 1]:-${clusters[-1]}}" --abx --out "$out/quality$1"
}

labels 1
units=("$out/labels1/dev.km")
for ((i = 1; i <= iterations; i++)); do
    train $i "$@"
    labels $((i + 1)) "$out/it$i/checkpoint_last.pt"
    units+=("$out/labels$((i + 1))/dev.km")
done
echo "== labels: the first of MFCC, each next one of the model that learned from the one before"
dinosr quality "${units[@]}" --manifest "$data/dev.tsv" --phones "$phones"
dinosr abx "${units[@]}" --rate 50 --manifest "$data/dev.tsv" --phones "$phones"
for ((i = 1; i <= iterations; i++)); do
    echo "== iteration $i"
    quality $i
done
