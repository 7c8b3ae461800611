#!/usr/bin/env bash
# CPC and rounds of DeepCluster: CPC -> k-means of its c_t -> round 1 -> k-means -> round 2 ...; then measures of c_t
# and units of each model.
#   ./examples/cpc_deepcluster/run.sh DATA PHONES OUT [FIELD...]
# DATA: folder with train.tsv and dev.tsv (`dinosr manifest`). PHONES: phone alignment of dev, or - without one: the
# tables are then without phones. OUT: a new folder; with an existing one the run resumes; remove OUT/round2 (...) to
# repeat it. FIELDs (model.context_dim=256 ...) override the configs of CPC and of the rounds.
# Environment variables (default): CPC_CONFIG (cpc_tiny) and CPC_FIELDS for CPC only, CONFIG (deepcluster_tiny) and
# ROUND_FIELDS for the rounds only, with spaces between fields; CLUSTERS of k-means (50); ROUNDS (2), fewer if under 5
# % of the labels change; LAYER, the recurrent layer to cluster, counted from 0 (1); NORMALIZE, whether the c_t of
# each utterance are scaled to mean 0 and variance 1 before k-means (yes; no: as in the paper); ITEMS, .item file of dev
# for ABX (the triphones of PHONES).
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,12s/^# //p' "$0" >&2; exit 2; }
source "$(dirname "$0")/../signals.sh" "$@"
data=$1 out=$3
source "$(dirname "$0")/../phones.sh" "$2"
shift 3
clusters=${CLUSTERS:-50} rounds=${ROUNDS:-2} layer=${LAYER:-1} normalize=--normalize
[ "${NORMALIZE:-yes}" = yes ] || normalize=
read -ra cpc_fields <<< "${CPC_FIELDS:-}"
read -ra round_fields <<< "${ROUND_FIELDS:-}"

train() {  # train MODEL CONFIG DATA FIELD...: resumes; does nothing if the training is finished
    local model=$1 config=$2 data=$3
    shift 3
    [ ! -f "$out/$model/done" ] || return 0
    mkdir -p "$out/$model"
    fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name "$config" \
        task.data="$(cd "$data" && pwd)" dataset.valid_subset=dev checkpoint.save_dir="$out/$model" "$@"
    touch "$out/$model/done"
}

labels() {  # labels MODEL OPTION...: k-means of its c_t on train, labels of train and dev, c_t of dev
    local model=$1 folder=$out/$1/labels checkpoint=$out/$1/checkpoint_best.pt
    shift
    [ ! -f "$folder/dev.km" ] || return 0
    mkdir -p "$folder"
    cp "$data"/{train,dev}.tsv "$folder"
    dinosr kmeans fit "$checkpoint" --layer "$layer" --manifest "$data/train.tsv" --clusters "$clusters" $normalize \
        "$@" --out "$folder/kmeans.npz" | tee "$folder/kmeans.txt"
    dinosr kmeans apply "$folder/kmeans.npz" "$checkpoint" "$data/train.tsv" --out "$folder/train.km"
    dinosr features "$checkpoint" "$data/dev.tsv" --layer "$layer" --out "$out/$model/dev"
    # last, because its output marks the stage as complete
    dinosr kmeans apply "$folder/kmeans.npz" "$out/$model/dev" "$data/dev.tsv" --out "$folder/dev.km"
}

settled() {  # settled MODEL: its labels differ from those it was trained on in fewer than 5 % of the frames
    awk '/ % changed, NMI / { settled = $(NF - 4) < 5 } END { exit !settled }' "$out/$1/labels/kmeans.txt"
}

train cpc "${CPC_CONFIG:-cpc_tiny}" "$data" "$@" "${cpc_fields[@]}"
labels cpc --restarts 3
models=(cpc)
for ((round = 1; round <= rounds; round++)); do
    before=${models[-1]} model=round$round
    train "$model" "${CONFIG:-deepcluster_tiny}" "$out/$before/labels" \
        model.start_from="$out/$before/checkpoint_best.pt" "$@" "${round_fields[@]}"
    labels "$model" --from-labels "$out/$before/labels/train.km"
    models+=("$model")
    ! settled "$model" || { echo "== round $round changed fewer than 5 % of the labels: stopping"; break; }
done
dinosr features --mfcc "$data/dev.tsv" --out "$out/mfcc"
units=("${models[@]/%//labels/dev.km}") features=("${models[@]/%//dev}")
echo "== units of each model, the labels of the next round"
dinosr quality "${units[@]/#/$out/}" --manifest "$data/dev.tsv" "${phones[@]}" --rate 100
[ ${#items[@]} != 0 ] || exit 0
echo "== ABX error: of MFCC and c_t (angular), of units (one-hot)"
dinosr abx "$out/mfcc" "${features[@]/#/$out/}" "${units[@]/#/$out/}" --manifest "$data/dev.tsv" "${items[@]}" --rate 100
